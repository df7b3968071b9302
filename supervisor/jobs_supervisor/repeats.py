"""Decisions that are alike: the first ones are told one by one, the rest as a number.

Theory. What changes nothing can be asked for without end: reads that are allowed, and whatever is
denied. Written down one by one, it would fill the audit log, and what somebody *did* would be
deleted with its oldest file. So of one kind the first ones are told at once, and each further one
is counted, until the window ends. Of nobody more than `MAX_TOLD` are told one by one in a window:
what anybody can write by asking is bounded, and takes nothing from what is told of others. Nobody
knows who strangers are, so they share that; but those of one network are of one kind, however many
addresses it has.
"""

import time
from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Final

from jobs_supervisor.handshakes import network

WINDOW_S: Final = 600.0
"""How long decisions that are alike are counted together."""

TOLD: Final = {"allow": 1, "deny": 10}
"""Of one kind, so many are told one by one in a window."""

MAX_TOLD: Final = 1000
"""Likewise, of one identity; kinds that only come then are counted together, by their action."""

SAME: Final = {
    "allow": ("who", "certificate", "host", "about", "action", "job", "plugin", "why"),
    "deny": ("who", "host", "action", "job"),
}
"""What those of one kind have in common, besides the event."""

Fields = dict[str, object]


class Repeats:
    """What was decided within the present window."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._told: Counter[tuple[object, object]] = Counter()
        self._more: dict[tuple[object, ...], tuple[int, str, Fields]] = {}
        self._until = 0.0

    @property
    def due_s(self) -> float:
        """Seconds until those that were counted are to be told; `inf`: there are none."""
        return max(0.0, self._until - time.monotonic()) if self._more else inf

    def is_new(self, event: str, fields: Fields) -> bool:
        """Whether to tell this one now; if not, it was counted."""
        if not self._more and time.monotonic() >= self._until:
            self._seen.clear()
            self._told.clear()
            self._until = time.monotonic() + WINDOW_S
        verdict, who = str(fields["verdict"]), fields.get("who")
        kind = (event, verdict, *(_same(fields, name) for name in SAME[verdict]))
        full = self._told[who, verdict] >= MAX_TOLD
        if full and kind not in self._seen:
            action = fields.get("action")
            kind = (event, verdict, who, action)
            fields = {"who": who, "action": action, "verdict": verdict, "why": "of many kinds"}
        self._seen[kind] += 1
        if self._seen[kind] <= TOLD[verdict] and not full:
            self._told[who, verdict] += 1
            return True
        count = self._more[kind][0] if kind in self._more else 0
        self._more[kind] = count + 1, event, fields
        return False

    def told(self, *, now: bool) -> Iterator[tuple[str, Fields]]:
        """Give the lines that count the others, when the window is over.

        Args:
            now: it is over.
        """
        if not now and self.due_s:
            return
        more, self._more = self._more, {}
        for count, event, fields in more.values():
            yield "repeated", {"count": count, "of": event, **fields}


def _same(fields: Fields, name: str) -> object:
    """Give what those of one kind have in common; who is denied may have any number of hosts."""
    value = fields.get(name)
    if name == "host" and isinstance(value, str) and fields["verdict"] == "deny":
        return network(value)
    return value

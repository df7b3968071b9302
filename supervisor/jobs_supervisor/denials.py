"""Denials that are alike: the first ones are told one by one, the rest as a number."""

import time
from collections.abc import Iterator
from typing import Final

ALIKE: Final = 10
ALIKE_S: Final = 10.0
"""Of one kind, so many are written in so many seconds; the rest is counted."""

MAX_KINDS: Final = 1000
"""Kinds that are told apart; all others of one identity are one."""

Fields = dict[str, object]


class Denials:
    """What was denied within the present `ALIKE_S`."""

    def __init__(self) -> None:
        self._seen: dict[tuple[object, ...], int] = {}
        self._more: dict[tuple[object, ...], tuple[int, str, Fields]] = {}
        self._until = 0.0

    def __bool__(self) -> bool:
        """Whether some were counted only."""
        return bool(self._more)

    def is_new(self, event: str, fields: Fields) -> bool:
        """Whether to write this one; if not, it was counted."""
        if not self._more and time.monotonic() >= self._until:
            self._seen.clear()
            self._until = time.monotonic() + ALIKE_S
        kind = (event, *(fields.get(name) for name in ("who", "host", "action", "job")))
        if kind not in self._seen and len(self._seen) >= MAX_KINDS:
            # Apart for each identity: what one of them floods us with must not hide another.
            who = fields.get("who")
            kind = (event, who)
            fields = {"who": who, "verdict": fields["verdict"], "why": "of many kinds"}
        self._seen[kind] = self._seen.get(kind, 0) + 1
        if self._seen[kind] <= ALIKE:
            return True
        count = self._more[kind][0] if kind in self._more else 0
        self._more[kind] = count + 1, event, fields
        return False

    def repeated(self, *, now: bool) -> Iterator[tuple[str, Fields]]:
        """Give the lines that count the others, when their time is over.

        Args:
            now: it is over.
        """
        if not now and time.monotonic() < self._until:
            return
        more, self._more = self._more, {}
        for count, event, fields in more.values():
            yield "repeated", {"count": count, "of": event, **fields}

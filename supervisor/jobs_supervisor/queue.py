"""Jobs that wait for a place: by priority, then in order; owners at a quota are passed over.

One heap for each owner: who comes next is the best of their heads, so a thousand jobs of one owner
cost the others nothing.
"""

import heapq
from collections.abc import Callable
from itertools import count

from jobs_supervisor.live import LiveJob


class Queue:
    """The waiting jobs."""

    def __init__(self) -> None:
        self._owners: dict[str, list[tuple[int, int, LiveJob]]] = {}
        self._waiting: dict[str, LiveJob] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, live: LiveJob) -> None:
        """Have a job wait, behind those of its priority."""
        self._waiting[live.job.id] = live
        heap = self._owners.setdefault(live.job.owner, [])
        heapq.heappush(heap, (-live.job.priority, next(self._arrivals), live))

    def remove(self, live: LiveJob) -> bool:
        """Have a job wait no longer; False if it did not."""
        return self._waiting.pop(live.job.id, None) is not None

    def pop(self, has_room: Callable[[LiveJob], bool]) -> LiveJob | None:
        """Take the next job that there is a place for; None: there is none.

        No job passes another one of its owner: a large one would else wait for ever.

        Args:
            has_room: whether there is a place for a job.
        """
        heads = [heap[0] for owner in list(self._owners) if (heap := self._head(owner))]
        best = min((head for head in heads if has_room(head[2])), default=None)
        if best is None:
            return None
        live = best[2]
        heapq.heappop(self._owners[live.job.owner])
        del self._waiting[live.job.id]
        return live

    def _head(self, owner: str) -> list[tuple[int, int, LiveJob]]:
        """Give an owner's heap with a job that still waits at its head; empty: it has none."""
        heap = self._owners[owner]
        while heap and heap[0][2].job.id not in self._waiting:
            heapq.heappop(heap)
        if not heap:
            del self._owners[owner]
        return heap

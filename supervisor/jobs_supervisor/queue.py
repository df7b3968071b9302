"""Jobs that wait for a place: by priority, then in order; owners at a quota are passed over.

One heap for each owner: who comes next is the best of their heads, so a thousand jobs of one owner
cost the others nothing. A job that waits no longer leaves its place in the heap, a few numbers, to
be cleared away later, but never more of them than there are jobs that wait.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from itertools import count

from jobs_supervisor.live import LiveJob

Place = tuple[int, int, str]
"""The priority, negative; the number of its arrival; the job's id."""


class Queue:
    """The waiting jobs."""

    def __init__(self) -> None:
        self._owners: dict[str, list[Place]] = {}
        self._left: Counter[str] = Counter()  # places in each heap whose job waits no longer
        self._waiting: dict[str, LiveJob] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, live: LiveJob) -> None:
        """Have a job wait, behind those of its priority."""
        self._waiting[live.job.id] = live
        heap = self._owners.setdefault(live.job.owner, [])
        heapq.heappush(heap, (-live.job.priority, next(self._arrivals), live.job.id))

    def remove(self, live: LiveJob) -> bool:
        """Have a job wait no longer; False if it did not."""
        if self._waiting.pop(live.job.id, None) is None:
            return False
        self._left[live.job.owner] += 1
        self._clear(live.job.owner)
        return True

    def pop(self, has_room: Callable[[LiveJob], bool]) -> LiveJob | None:
        """Take the next job that there is a place for; None: there is none.

        No job passes another one of its owner: a large one would else wait for ever.

        Args:
            has_room: whether there is a place for a job.
        """
        heads = (heap[0] for heap in self._owners.values())
        best = min((head for head in heads if has_room(self._waiting[head[2]])), default=None)
        if best is None:
            return None
        live = self._waiting.pop(best[2])
        heapq.heappop(self._owners[live.job.owner])
        self._clear(live.job.owner)
        return live

    def _clear(self, owner: str) -> None:
        """Have a job that still waits at the head of an owner's heap, and most of it such jobs'."""
        heap = self._owners[owner]
        if self._left[owner] > len(heap) // 2:
            heap[:] = [place for place in heap if place[2] in self._waiting]
            heapq.heapify(heap)
            del self._left[owner]
        while heap and heap[0][2] not in self._waiting:
            heapq.heappop(heap)
            self._left[owner] -= 1
        if not heap:
            del self._owners[owner], self._left[owner]

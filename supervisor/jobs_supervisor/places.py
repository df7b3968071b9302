"""Who has a place, and who waits for one.

A job has a place from the moment it is to be launched until it has ended; `max_running` says how
many there are, the quotas of its owner how many, and how large ones, are that owner's. Whoever has
no place waits in the queue. All of this is memory, and synchronous: what becomes of a job that was
given a place is the business of `jobs_supervisor.admission`, which is woken when there may be one.
"""

import trio

from jobs_proto.errors import JobsError
from jobs_proto.job import Limits
from jobs_supervisor.config import JobSettings
from jobs_supervisor.live import LiveJob
from jobs_supervisor.queue import Queue
from jobs_supervisor.quotas import Ledger, Quotas


class Places:
    """The places, and the queue for them.

    Args:
        settings: how many may run, and how many may wait.
        quotas: of the owners.

    Attributes:
        ledger: who has, or waits for, how much.
    """

    def __init__(self, settings: JobSettings, quotas: Quotas) -> None:
        self.ledger = Ledger(quotas)
        self._settings = settings
        self._queue = Queue()
        self._freed = trio.Event()

    def check_queue(self) -> None:
        """Refuse a new job if too many wait already, whoever they belong to.

        Raises:
            JobsError: `resource_exhausted`.
        """
        waiting = self.ledger.waiting
        if waiting >= self._settings.max_queued:
            raise JobsError(
                "resource_exhausted",
                f"{waiting} jobs are waiting already, which is the limit (max_queued); "
                "try again later",
            )

    def has_one_for(self, owner: str, limits: Limits) -> bool:
        """Whether a new job would be given one now."""
        return not self._queue and self._has_room(owner, limits)

    def ask(self, live: LiveJob) -> bool:
        """Give a new job a place, if there is one and nobody waits; else it counts as waiting."""
        self.ledger.wait(live)
        if not self.has_one_for(live.job.owner, live.job.limits):
            return False
        self.ledger.place(live)
        return True

    def wait(self, live: LiveJob) -> None:
        """Have a job wait in the queue."""
        self.ledger.wait(live)
        self._queue.push(live)
        self._freed.set()  # perhaps one became free while its record was on its way to the disk

    def withdraw(self, live: LiveJob) -> None:
        """Have a job wait no longer, so that it is not given a place; it counts until it leaves."""
        self._queue.remove(live)

    def leave(self, live: LiveJob) -> None:
        """A job has ended, or came to nothing."""
        self.ledger.drop(live)
        if self._queue:
            self._freed.set()

    async def freed(self) -> None:
        """Wait until there may be a place for somebody who waits."""
        await self._freed.wait()
        self._freed = trio.Event()

    def next(self) -> LiveJob | None:
        """Give the next job of the queue a place; None: nobody waits, or there is no place."""
        live = self._queue.pop(lambda live: self._has_room(live.job.owner, live.job.limits))
        if live is not None:
            self.ledger.place(live)
        return live

    def _has_room(self, owner: str, limits: Limits) -> bool:
        free = len(self.ledger.places) < self._settings.max_running
        return free and self.ledger.has_room(owner, limits)

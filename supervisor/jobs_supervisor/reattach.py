"""How the jobs that had not ended are found again after a start: many at once, and counted.

Theory. A supervisor serves before it has found its jobs again, since there may be thousands, and
the shim of one of them may be stopped, or wait for a disk that has gone. So each shim has a time
budget in which it holds one of few places. One that does not answer in it gives its place to the
next and is counted; nothing is decided on its job, whose task goes on listening: a connection that
was made is answered as soon as the shim runs again, without being asked twice.

What is asked about a job waits until that job has been found, within the same budget, so that no
answer is older than the start.
"""

from collections import Counter

import structlog
import trio

from jobs_proto import shim as protocol
from jobs_supervisor.live import LiveJob

ANSWER_S = 2.0
"""How long one shim may take to answer before the next has its place."""

AT_ONCE = 64
"""Shims that are being asked at the same time: enough for two cores, and clients are served."""

IN_A_ROUND = 8
"""Of these, so many begin in one round of the event loop, for clients have their turn in each."""

REATTACHED, LAUNCHED, FINISHED, LOST = "reattached", "launched", "finished", "lost"
UNANSWERED = "unanswered"
FOREIGN = "foreign"

SILENT = (
    "its shim does not answer the supervisor, which goes on listening; the job is left as it is"
)

log = structlog.get_logger()


class Reattachment:
    """The jobs that are still to be found, and what became of the others.

    Attributes:
        place: to be held by whoever asks a shim.
    """

    def __init__(self) -> None:
        self.place = trio.CapacityLimiter(AT_ONCE)
        self._left: dict[str, LiveJob] = {}
        self._silent: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._since = trio.current_time()
        self._done = trio.Event()

    def expect(self, live: LiveJob) -> None:
        """Take note of a job that is to be found."""
        live.settled = trio.Event()
        self._left[live.job.id] = live

    def found(self, live: LiveJob, how: str) -> None:
        """Count a job that was found, once, and let go of those who wait for it."""
        if live.job.id in self._silent:
            self._silent.discard(live.job.id)
            if live.trouble == SILENT:
                live.trouble = None
            log.info("a shim that was silent has answered", job=live.job.id, found=how)
        elif self._left.pop(live.job.id, None) is not None:
            self._count(live, how)

    def foreign(self, live: LiveJob, version: object) -> None:
        """Count a job whose shim speaks a protocol that is not ours."""
        spoken = " and ".join(map(str, protocol.SPOKEN))
        live.trouble = (
            f"its shim speaks version {version} of the shim protocol, this supervisor {spoken}: "
            "the job goes on, but cannot be reached until a supervisor of its version runs"
        )
        log.warning("a shim speaks another protocol", job=live.job.id, why=live.trouble)
        self.found(live, FOREIGN)

    def give_up(self, live: LiveJob) -> None:
        """Count a job whose shim has not answered in its time."""
        if self._left.pop(live.job.id, None) is not None:
            self._silent.add(live.job.id)
            live.trouble = SILENT
            log.warning("a shim does not answer; its job is left as it is", job=live.job.id)
            self._count(live, UNANSWERED)

    def _count(self, live: LiveJob, how: str) -> None:
        self._counts[how] += 1
        if live.settled is not None:
            live.settled.set()
        if not self._left:
            seconds = round(trio.current_time() - self._since, 3)
            log.info("all jobs found again", seconds=seconds, **self._counts)
            self._done.set()

    async def done(self) -> None:
        """Wait until every job was found, or its shim has had its time."""
        if self._left:
            await self._done.wait()

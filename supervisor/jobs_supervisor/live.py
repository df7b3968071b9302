"""A job that has not ended, as the supervisor holds it in memory."""

import trio
from attrs import define, evolve, field

from jobs_proto import shim as protocol
from jobs_proto.job import Job, Output, Usage
from jobs_proto.phases import Event, Phase, advance
from jobs_supervisor.link import ShimLink
from jobs_supervisor.store import Record


@define(eq=False)
class LiveJob:
    """A job's record, its shim, and those who wait for something to change.

    Attributes:
        record: what the store has, or is about to have.
        link: to its shim; None while it is queued, or while we look for the shim.
        total: bytes of output that we know of.
        ending: its end is decided and being written down; nothing else of it may be.
        measurements: how often the shim has told of the job's usage.
        trouble: what keeps us from its shim, in a sentence; None: nothing.
        settled: set once the job was found again after our start, or its shim has had its time
            (`jobs_supervisor.reattach`); None: it has come since.
        updating: held while its limits are being changed.
    """

    record: Record
    link: ShimLink | None = None
    total: int = 0
    measurements: int = 0
    trouble: str | None = None
    settled: trio.Event | None = None
    ending: bool = False
    updating: trio.Lock = field(factory=trio.Lock)
    _watching: bool = False
    _changed: trio.Event = field(factory=trio.Event)

    @property
    def job(self) -> Job:
        """The job as anybody may see it."""
        return self.record.job

    @property
    def exited(self) -> bool:
        """It has ended and its record is final."""
        return self.record.job.phase is Phase.EXITED

    def apply(self, event: Event, **changes: object) -> None:
        """Advance the phase by the table, with other fields of the job.

        Raises:
            RefusedError: the event cannot happen now; nothing was changed.
        """
        job = self.record.job
        phase = advance(job.phase, event)
        self.record = evolve(self.record, job=evolve(job, phase=phase, **changes))  # type: ignore[arg-type]
        self.wake()

    def wake(self) -> None:
        """Let everybody who waits look again."""
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait until something has changed."""
        await self._changed.wait()

    def attach(self, link: ShimLink | None) -> None:
        """Have another link, or none; a new shim connection knows of no watch."""
        self.link = link
        self._watching = False
        self.wake()

    def grown(self, total: int) -> None:
        """The shim says that there is more output."""
        self._watching = False
        self.total = max(self.total, total)
        self.wake()

    def measured(self, usage: Usage, output: Output) -> None:
        """The shim says what the job uses."""
        self.measurements += 1
        self.record = evolve(self.record, job=evolve(self.job, usage=usage, output=output))
        self.wake()

    async def tell_limits(self) -> None:
        """Tell the shim, if there is one yet, the limits that can change; again does no harm."""
        if self.link is not None:
            cap, timeout_s = self.job.limits.output_max_bytes, self.job.timeout_s
            body: protocol.Body = {"output_max_bytes": cap, "timeout_s": timeout_s}
            await self.link.send(protocol.UPDATE, body)

    async def more_than(self, offset: int) -> None:
        """Wait until there may be output after `offset`, or the job has exited."""
        while self.total <= offset and not self.exited:
            change = self._changed
            if self.link is not None and not self._watching:
                await self._watch(self.link)
            await change.wait()

    async def _watch(self, link: ShimLink) -> None:
        """Ask the shim for news, for all who wait; if we are cancelled, another of them asks."""
        self._watching = True
        try:
            await link.send(protocol.WATCH, {"offset": self.total})
        except trio.Cancelled:
            self._watching = False
            self.wake()
            raise

    async def until_settled(self) -> None:
        """Wait until this job was found again, or its shim has had its time."""
        if self.settled is not None:
            await self.settled.wait()

    async def until_exited(self) -> None:
        """Wait for the end."""
        while not self.exited:
            await self.changed()

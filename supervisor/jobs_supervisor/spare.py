"""A shim that waits for a job, forked ahead of it: what it was made for, whether that still fits.

Theory. All that a launch needs of the job itself is its directory, its limits, its user and its
command. The rest is done ahead: three processes are forked, the last of them in the cgroup that is
to be the job's, and `ahead` of its plan is executed: namespaces, mounts, the system call filter.
That is done for a job like the last one. A cgroup cannot be renamed, and bears the job's id: so the
id comes first, and the next job is given it. A job whose plan is another one, or who has another
id, has a shim forked for itself.

What was prepared may grow old. Mounts come and go in it as they do on the host (it is a slave,
mount_namespaces(7)), but their flags do not follow: so it is not used when the host's mounts have
changed. That what is mounted over the host's own paths is still there, the launcher sees to
(`jobs_shim.mounts.unchanged`). What nobody has needed for `IDLE_S` is let go, since what is mounted
on a file system keeps that in use.
"""

import select
import socket
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf

import structlog
import trio
from attrs import define, frozen

from jobs_proto import shim as protocol
from jobs_shim.steps import StepError
from jobs_supervisor import cgroups
from jobs_supervisor.isolation import Step

LULL_S = 0.05
"""So long a launch, and a short job's end, have the processors before the next shim is forked."""

ANSWER_S = 0.001
"""And so long, after its end, who waited for that has them."""

IDLE_S = 60.0
"""So long one waits for a job."""

CLEAR_S = 2.0
"""How long our end waits for its end."""

log = structlog.get_logger()

Plan = dict[str, object]
CgroupPlan = dict[str, object]


@frozen
class Shape:
    """What a shim can be prepared for before there is a job: all this of its plan.

    Attributes:
        enter: steps before it forks init.
        ahead: steps that its launcher executes.
        cgroup: without limits; None: it is in none.
    """

    enter: list[Step]
    ahead: list[Step]
    cgroup: CgroupPlan | None

    @classmethod
    def of(cls, plan: Plan) -> "Shape":
        """Give that of a plan."""
        cgroup: CgroupPlan | None = plan["cgroup"]  # type: ignore[assignment]
        if cgroup is not None:
            cgroup = {**cgroup, "directories": [[n, p, []] for n, p, _ in _directories(cgroup)]}
        return cls(plan["shim"], plan["ahead"], cgroup)  # type: ignore[arg-type]

    def named(self, job: str) -> "Shape":
        """Give the same for another job."""
        if self.cgroup is None:
            return self
        directories = [
            [name, f"{path.rpartition('/')[0]}/{job}", []]
            for name, path, _ in _directories(self.cgroup)
        ]
        return Shape(self.enter, self.ahead, {**self.cgroup, "directories": directories})


def _directories(cgroup: CgroupPlan) -> list[tuple[str, str, object]]:
    return cgroup["directories"]  # type: ignore[return-value]


class Mounts:
    """Tells when the mounts of our namespace have changed: proc_pid_mountinfo(5)."""

    def __init__(self) -> None:
        self._file = open("/proc/self/mountinfo", "rb")  # noqa: SIM115, PTH123  # for our life
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLPRI)
        self._marked = b""

    def mark(self) -> None:
        """Take them as they are."""
        self._poll.poll(0)  # what it tells of later has come after this
        self._marked = self._read()

    def changed(self) -> bool:
        """Whether they are others than at the mark; what came and went again is no change."""
        return bool(self._poll.poll(0)) and self._read() != self._marked

    def _read(self) -> bytes:
        self._file.seek(0)
        return self._file.read()

    def close(self) -> None:
        """Look no more."""
        self._file.close()


@define(eq=False)
class Spare:
    """One that waits.

    Attributes:
        job: the id of the job that it is for.
        shape: what it is prepared for.
        connection: our end.
        promised: there is, or is about to be, a job with that id.
    """

    job: str
    shape: Shape
    connection: socket.socket
    promised: bool = False

    def waits(self) -> bool:
        """Whether it still waits for a job: until then it says nothing, but why it has ended."""
        try:
            said = self.connection.recv(protocol.MAX_PACKET, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False  # it was killed
        if said:
            log.warning("no shim could be forked ahead", why=protocol.unpack(said)[1].get("why"))
        return False


class Spares:
    """Keeps one that waits for the next job.

    Args:
        ask: `ForkServer._ask`.
    """

    def __init__(self, ask: Callable[..., Awaitable[socket.socket]]) -> None:
        self._ask = ask
        self._last: Shape | None = None  # of the last launch
        self._spare: Spare | None = None
        self._discarded: dict[str, Shape] = {}  # by job; what is left of them is to be removed
        self._clearing = trio.Lock()
        self._mounts = Mounts()
        self._wanted = trio.Event()
        self._resting = trio.Event()

    def next_id(self) -> str:
        """Give an id for a job that is to be launched at once: the one a shim waits for."""
        spare = self._spare
        if spare is None or spare.promised:
            return str(uuid.uuid4())
        spare.promised = True
        return spare.job

    def forget(self, job: str) -> None:
        """No job with this id is to be launched, or not soon: no shim need wait for it."""
        if self._spare is not None and self._spare.job == job:
            self.discard()
            self.want()

    async def take(self, job: str, shape: Shape) -> socket.socket:
        """Give our connection to a shim for this job: the one that waits for it, if it fits.

        Raises:
            StepError, OSError: as `ask`, of which see there.
        """
        self._last = shape
        spare = self._spare
        if spare is not None and spare.job == job:
            if spare.shape == shape and not self._mounts.changed() and spare.waits():
                self._spare = None
                return spare.connection
            self.discard()
        if job in self._discarded:
            await self._clear(job)  # first: its cgroups are the job's
        return await self._ask(shape, soon=True)

    def want(self) -> None:
        """A job has been launched: have another shim forked when there is time."""
        if self._last is not None:
            self._wanted.set()

    def rest(self) -> None:
        """A job has ended: there is time."""
        self._resting.set()

    def discard(self) -> None:
        """Let go of the one there is."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.connection.close()
            self._discarded[spare.job] = spare.shape

    async def run(self) -> None:
        """Ask for another when there is none; without one, a launch only takes longer."""
        try:
            while True:
                with trio.move_on_after(inf if self._spare is None else IDLE_S):
                    await self._wanted.wait()
                if self._wanted.is_set():
                    self._wanted, self._resting = trio.Event(), trio.Event()
                    with trio.move_on_after(LULL_S):
                        await self._resting.wait()
                        await trio.sleep(ANSWER_S)
                    if self._spare is None and self._last is not None:
                        await self._make(self._last)
                elif self._spare is not None and not self._spare.promised:
                    self.discard()
                await self._clear_all()
        finally:
            self.discard()
            with trio.move_on_after(CLEAR_S, shield=True):
                await self._clear_all()
            self._mounts.close()

    async def _make(self, last: Shape) -> None:
        job = str(uuid.uuid4())
        shape = last.named(job)
        self._mounts.mark()
        with suppress(OSError, StepError):
            try:
                self._spare = Spare(job, shape, await self._ask(shape, soon=False))
            except BaseException:
                self._discarded[job] = shape
                raise

    async def _clear_all(self) -> None:
        for job in list(self._discarded):
            with suppress(OSError):  # it is tried again; else our next start does it
                await self._clear(job)

    async def _clear(self, job: str) -> None:
        """See that nothing is left of a shim that was not needed."""
        async with self._clearing:
            if job in self._discarded:
                cgroup = self._discarded[job].cgroup
                await trio.to_thread.run_sync(cgroups.clear, cgroup, abandon_on_cancel=True)
                del self._discarded[job]

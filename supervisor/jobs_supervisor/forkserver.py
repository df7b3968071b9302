"""The supervisor's fork server: started, asked for shims, started again if it dies.

It is one process of `python -m jobs_shim`. Its death ends no job: shims are on their own from their
fork on. A launch that came to nothing, because it or the shim died, is asked for again by the task
that owns the job, which looks at the job's directory first (`jobs_supervisor.recover`).

One shim is asked for ahead, when a job has been launched and there is time, and prepared as far as
that goes without a job (`jobs_supervisor.spare`). It ends with our connection to it. Where there is
none, in a burst of launches, one is asked for and told at once.
"""

import array
import os
import socket
from pathlib import Path

import structlog
import trio

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.errors import JobsError
from jobs_proto.failpoint import failpoint
from jobs_supervisor import cgroups
from jobs_supervisor.isolation import Step
from jobs_supervisor.spare import Plan, Shape, Spares
from jobs_supervisor.spawn import Spawned, spawn

HELLO_S = 20.0
"""How long it may take to import its modules and find out what the host gives."""

RESTART_S = 0.2

FIRST_TRIES = 3
"""How often it may fail before it has ever served; then this host cannot run jobs."""

log = structlog.get_logger()


class ForkServer:
    """The process, and our connection to it.

    Args:
        spawned: the first one, if it is getting ready already.

    Attributes:
        mode, why: what it found out about the host (`jobs_shim.probe`).
        pid: its process.
    """

    def __init__(self, spawned: Spawned | None = None) -> None:
        self._spawned = spawned
        self._socket: trio.socket.SocketType | None = None
        self._ready = trio.Event()
        self._asking = trio.Lock()
        self._ahead: tuple[list[Step], int] = [], _memory([])  # as it was last sent
        self._nowhere = os.open("/", os.O_PATH | os.O_CLOEXEC)
        self.mode = ""
        self.why = ""
        self.pid = 0
        self.spares = Spares(self._ask)

    async def run(self, cgroup: Path | None) -> None:
        """Keep one running.

        Args:
            cgroup: where it, and so every shim, belongs; None: where we are.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.spares.run)
                await self._keep_running(cgroup)
        finally:
            _close([self._ahead[1], self._nowhere])

    async def _keep_running(self, cgroup: Path | None) -> None:
        failures = 0
        while True:
            try:
                await self._serve(cgroup)
            except (OSError, ValueError, trio.TooSlowError) as error:
                failures += 1
                if not self.mode and failures == FIRST_TRIES:
                    raise JobsError(
                        "internal", f"the fork server does not start: {error}"
                    ) from error
                log.error("the fork server failed", why=str(error))  # noqa: TRY400  # it says all
            log.warning("the fork server ended; starting another", pid=self.pid)
            await trio.sleep(RESTART_S)

    async def _serve(self, cgroup: Path | None) -> None:
        spawned, self._spawned = self._spawned or spawn(), None
        self.pid = spawned.pid
        connection = trio.socket.from_stdlib_socket(spawned.socket)
        process = os.pidfd_open(spawned.pid)
        try:
            with trio.fail_after(HELLO_S):
                packet = await connection.recv(protocol.MAX_PACKET)
            if not packet:
                raise ConnectionResetError("it ended before it was ready")
            if cgroup is not None:
                (cgroup / "cgroup.procs").write_text(str(spawned.pid))
            _kind, hello = protocol.unpack(packet)
            self.mode, self.why = str(hello["mode"]), str(hello["why"])
            self._socket = connection
            self._ready.set()
            self.spares.want()
            await trio.lowlevel.wait_readable(process)  # it has ended
        finally:
            if self._ready.is_set():  # else there are launches that wait for this very event
                self._ready = trio.Event()
            self._socket = None
            connection.close()  # it ends by itself at the end of its connection
            self.spares.discard()
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(process)
            os.waitpid(spawned.pid, 0)  # noqa: ASYNC222  # it has ended: this does not wait
            os.close(process)

    async def ready(self) -> trio.socket.SocketType:
        """Wait until one has said hello; give our connection to it."""
        while self._socket is None:
            await self._ready.wait()
        return self._socket

    async def launch(self, directory: Path, plan: Plan) -> trio.socket.SocketType:
        """Have a shim launch a job; give our end of the connection to it.

        Args:
            directory: the job's.
            plan: goes by memfd, for it may be larger than a packet.

        Raises:
            StepError: its cgroups cannot be made, or given its limits.
            OSError: fork server or shim has died; whether it launched must be found out.
        """
        shim = await self.spares.take(str(plan["job"]), Shape.of(plan))
        fds = []
        try:
            cgroups.limit(plan["cgroup"])  # type: ignore[arg-type]
            failpoint("launch.limited", directory.name)
            fds.append(_memory(plan))
            fds.append(os.open(directory, os.O_PATH | os.O_DIRECTORY))
            failpoint("launch.before-ask", directory.name)
            packet = protocol.pack(protocol.LAUNCH, {"dir": str(directory)})
            socket.send_fds(shim, [packet], fds)  # it has room
        except BaseException:
            shim.close()
            raise
        finally:
            _close(fds)
        self.spares.want()
        return trio.socket.from_stdlib_socket(shim)

    async def _ask(self, shape: Shape, *, soon: bool) -> socket.socket:
        """Have a shim forked; give our end of the connection to it.

        Args:
            shape: what it is to be prepared for.
            soon: the job follows at once.

        Raises:
            StepError: its cgroups cannot be made.
            OSError: the fork server died just now, or there is too little of something.
        """
        async with self._asking:  # only one task may wait for a socket that is full
            connection = await self.ready()
            fds: list[int] = []
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its:
                try:
                    fds = cgroups.make(shape.cgroup)
                    failpoint("launch.cgroup-made")
                    given = [self._memory_of(shape.ahead), *fds]
                    prepare = protocol.pack(protocol.PREPARE, {"soon": soon})
                    socket.send_fds(ours, [prepare], given)
                    packet = protocol.pack(protocol.FORK, {"enter": shape.enter})
                    rights = array.array("i", [its.fileno(), fds[0] if fds else self._nowhere])
                    await connection.sendmsg(
                        [packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
                    )
                except trio.ClosedResourceError:
                    ours.close()
                    raise ConnectionResetError("the fork server ended") from None
                except BaseException:
                    ours.close()
                    raise
                finally:
                    _close(fds)
        return ours

    def _memory_of(self, ahead: list[Step]) -> int:
        """Give a memfd that holds steps; most jobs have the same."""
        sent, memory = self._ahead
        if sent != ahead:
            self._ahead = ahead, _memory(ahead)
            os.close(memory)
        return self._ahead[1]


def _memory(content: object) -> int:
    """Give a memfd that holds something, encoded."""
    fd = os.memfd_create("jobs-plan", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(files.encode(content))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)

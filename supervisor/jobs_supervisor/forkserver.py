"""The supervisor's fork server: started, asked for shims, started again if it dies.

It is one process of `python -m jobs_shim`. Its death ends no job: shims are on their own from their
fork on. A launch that came to nothing, because it or the shim died, is asked for again by the task
that owns the job, which looks at the job's directory first (`jobs_supervisor.recover`).

One shim is asked for ahead, when a job has been launched and there is time: three of the four
forks of the next launch are over by the time that it comes. It has touched nothing, and ends with
our connection to it. Where there is none, in a burst of launches, one is asked for and told at
once.
"""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import structlog
import trio

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.errors import JobsError
from jobs_proto.failpoint import failpoint
from jobs_supervisor.spawn import Spawned, spawn

HELLO_S = 20.0
"""How long it may take to import its modules and find out what the host gives."""

RESTART_S = 0.2

LULL_S = 0.05
"""So long a launch, and a short job's end, have the processors before the next shim is forked."""

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
        self._enter: object = None  # of the last launch
        self._spare: tuple[object, socket.socket | None] = None, None  # what it has entered; it
        self._wanted = trio.Event()
        self._resting = trio.Event()
        self.mode = ""
        self.why = ""
        self.pid = 0

    async def run(self, cgroup: Path | None) -> None:
        """Keep one running.

        Args:
            cgroup: where it, and so every shim, belongs; None: where we are.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_spare)
            await self._keep_running(cgroup)

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
            if self._enter is not None:
                self._wanted.set()
            await trio.lowlevel.wait_readable(process)  # it has ended
        finally:
            if self._ready.is_set():  # else there are launches that wait for this very event
                self._ready = trio.Event()
            self._socket = None
            connection.close()  # it ends by itself at the end of its connection
            if self._spare[1] is not None:
                self._spare[1].close()
            self._spare = None, None
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(process)
            os.waitpid(spawned.pid, 0)  # noqa: ASYNC222  # it has ended: this does not wait
            os.close(process)

    async def ready(self) -> trio.socket.SocketType:
        """Wait until one has said hello; give our connection to it."""
        while self._socket is None:
            await self._ready.wait()
        return self._socket

    async def launch(self, directory: Path, plan: dict[str, object]) -> trio.socket.SocketType:
        """Have a shim launch a job; give our end of the connection to it.

        Args:
            directory: the job's.
            plan: goes by memfd, for it may be larger than a packet.

        Raises:
            OSError: fork server or shim has died; whether it launched must be found out.
        """
        shim = await self._take(plan["shim"])
        try:
            packet = protocol.pack(protocol.LAUNCH, {"dir": str(directory)})
            with os.fdopen(os.memfd_create("jobs-plan", os.MFD_CLOEXEC), "wb") as memory:
                memory.write(files.encode(plan))
                memory.flush()
                failpoint("launch.before-ask", directory.name)
                socket.send_fds(shim, [packet], [memory.fileno()])  # it has room
        except BaseException:
            shim.close()
            raise
        self._wanted.set()
        return trio.socket.from_stdlib_socket(shim)

    def rest(self) -> None:
        """A job has ended: there is time to have a shim forked for the next one."""
        self._resting.set()

    async def _take(self, enter: object) -> socket.socket:
        """Give our connection to a shim that waits for a job: the spare, if it fits."""
        self._enter = enter
        entered, spare = self._spare
        self._spare = None, None
        if spare is not None:
            if entered == enter and _waits(spare):
                return spare
            spare.close()
        return await self._ask(enter)

    async def _keep_spare(self) -> None:
        """Ask for another when there is none; without one, a launch only takes longer."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            self._resting = trio.Event()
            with trio.move_on_after(LULL_S):
                await self._resting.wait()
            if self._spare[1] is None:
                enter = self._enter
                with suppress(OSError):
                    self._spare = enter, await self._ask(enter)

    async def _ask(self, enter: object) -> socket.socket:
        """Have a shim forked.

        Args:
            enter: the steps that come before its own fork of init.

        Raises:
            OSError: the fork server died just now.
        """
        async with self._asking:  # only one task may wait for a socket that is full
            connection = await self.ready()
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with its:
                try:
                    rights = (
                        socket.SOL_SOCKET,
                        socket.SCM_RIGHTS,
                        its.fileno().to_bytes(4, sys.byteorder),
                    )
                    packet = protocol.pack(protocol.FORK, {"enter": enter})
                    await connection.sendmsg([packet], [rights])
                except BaseException:
                    ours.close()
                    raise
        return ours


def _waits(shim: socket.socket) -> bool:
    """Whether a shim still waits for a job: until then it says nothing, but why it has ended."""
    try:
        said = shim.recv(protocol.MAX_PACKET, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False  # it was killed
    if said:
        log.warning("no shim could be forked ahead", why=protocol.unpack(said)[1].get("why"))
    return False

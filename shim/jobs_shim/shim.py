"""The shim: one process for each job, outside its namespaces and limits, for the job's whole life.

Theory. Everything that must work while no supervisor runs is here: taking the output, the deadline,
TERM → grace → KILL, the proof of death, the exit record. The order of what it leaves on the disk is
what makes a launch happen at most once and an end be known exactly:

    lock taken → identity written → init forked → … → cgroup empty → exit record renamed into place
    → supervisors told → process ends, lock released

A supervisor that meets any prefix of this knows what it means (`jobs_supervisor.recover`).

One thread, one poll(2); each descriptor has one handler. Nothing in here waits for a supervisor:
its sockets do not block, and one that does not read is dropped (it can connect again).
"""

import fcntl
import os
import resource
import select
import _signal as signal  # see jobs_shim
import _socket as socket
import time

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_shim import init, syscalls
from jobs_shim.cgroup import Cgroup
from jobs_shim.output import Output

PIPE_SIZE = 256 * 1024
EX_SOFTWARE = 70  # sysexits.h
_UCRED_SIZE = 12  # pid, uid, gid; unix(7)


class LaunchRefusedError(Exception):
    """This job was launched before; launching it again would run it twice."""


class Shim:
    """One job.

    Args:
        directory: the job's directory, absolute.
        plan: what the supervisor wants (`jobs_supervisor.plan`).
        supervisor: the connection that came with the launch.
    """

    def __init__(
        self, directory: str, plan: dict[str, object], supervisor: socket.socket
    ) -> None:
        self.directory = directory
        self.plan = plan
        self.job = str(plan["job"])
        self.cgroup = Cgroup(plan["cgroup"])  # type: ignore[arg-type]
        self.own_pids = bool(plan["own_pids"])
        self.poll = select.poll()
        self.handlers: dict[int, object] = {}
        self.watches: dict[socket.socket, int | None] = {}
        self.pipes: dict[int, int] = {}
        self.leader: int | None = None  # its pid on the host
        self.status: int | None = None  # its wait status
        self.rusage: resource.struct_rusage | None = None
        self.failed: list[object] | None = None  # [step, errno, path]
        self.started_ns: int | None = None
        self.deadline: float | None = None  # monotonic
        self.kill_at: float | None = None  # monotonic: the end of the grace period
        self.pending: int | None = None  # a signal for when the leader executes
        self.frozen = False
        self.killed = False  # SIGKILL was sent to everything
        self.killed_by: str | None = None
        self.timed_out = False
        self.ended = False
        self.add_supervisor(supervisor)

    # -- the life ----------------------------------------------------------------------------

    def run(self) -> None:
        """Launch the job, see it to its end and leave the exit record."""
        try:
            self.claim()
        except LaunchRefusedError as error:
            self.tell_all(protocol.REFUSED, {"why": str(error)})
            return
        self.output = Output(self.directory)
        self.launch()
        while not self.ended:
            for fd, events in self.poll.poll(self.wait_ms()):
                handler = self.handlers.get(fd)
                if handler is not None:  # closed by a handler before it in this round
                    handler(fd, events)  # type: ignore[operator]
            self.check_times()
        self.finish()

    def claim(self) -> None:
        """Take the lock and write the identity: from here on the job counts as launched.

        Raises:
            LaunchRefusedError: another shim has, or had, this job.
        """
        lock = os.open(f"{self.directory}/{files.LOCK}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchRefusedError("another shim holds this job") from None
        self.lock = lock
        if os.path.exists(f"{self.directory}/{files.IDENTITY}"):
            raise LaunchRefusedError("this job was launched before")
        pid = os.getpid()
        record = {
            "boot": self.plan["boot"],
            "pid": pid,
            "start": files.start_time(pid),
            "protocol": protocol.PROTOCOL,
        }
        write_whole(self.directory, files.IDENTITY, files.encode(record), sync=False)

    def launch(self) -> None:
        """Make the cgroup, the socket, the pipes and init."""
        self.listen()
        step = "cgroup"
        try:
            self.cgroup.create()
            step = "launch"
            self.fork_init()
        except OSError as error:
            self.failed = [step, error.errno or 0, error.filename]
            self.ended = True

    def listen(self) -> None:
        """Make `shim.sock`, where a supervisor that comes back connects."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.setblocking(False)
        # A path to a socket is at most 107 bytes long, unix(7); a directory's descriptor is short.
        directory = os.open(self.directory, os.O_PATH | os.O_CLOEXEC)
        self.listener.bind(f"/proc/self/fd/{directory}/{files.SOCKET}")
        os.close(directory)
        self.listener.listen(16)
        self.on(self.listener.fileno(), self.accept)

    def fork_init(self) -> None:
        """Fork init into the namespaces that only a fork enters; the rest it enters itself."""
        self.channel, init_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.start, init_start = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.start.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        out_r, out_w = make_pipe()
        err_r, err_w = make_pipe()
        null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        before = self.plan["shim"]
        init.execute(before)  # type: ignore[arg-type]
        pid = os.fork()
        if pid == 0:
            self.be_init(init_channel, init_start, (null, out_w, err_w))
        for fd in (out_w, err_w, null):
            os.close(fd)
        init_channel.close()
        init_start.close()
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # no job of the same user may look inside
        self.init = pid
        self.init_fd = os.pidfd_open(pid)
        self.pipes = {out_r: files.STDOUT, err_r: files.STDERR}
        for pipe in self.pipes:
            self.on(pipe, self.take)
        self.on(self.start.fileno(), self.starting)
        self.on(self.channel.fileno(), self.hear_init)
        self.on(self.init_fd, self.init_ended)

    def be_init(
        self, channel: socket.socket, start: socket.socket, stdio: tuple[int, int, int]
    ) -> None:
        """Drop what is the shim's and be init; never returns."""
        try:
            keep = {channel.fileno(), start.fileno(), *self.cgroup.descriptors(), *stdio}
            first = 3
            for fd in sorted(keep):
                if fd > first:
                    syscalls.close_range(first, fd - 1)
                first = fd + 1
            syscalls.close_range(first, 0xFFFF_FFFF)
            plan = {"init": self.plan["init"], "leader": self.plan["leader"]}
            init.run(plan, channel, start, stdio, cgroup=self.cgroup, own_pids=self.own_pids)  # type: ignore[arg-type]
            os._exit(0)
        finally:
            os._exit(EX_SOFTWARE)

    # -- events ------------------------------------------------------------------------------

    def on(self, fd: int, handler: object) -> None:
        """Call `handler(fd, events)` when `fd` can be read or has ended."""
        self.handlers[fd] = handler
        self.poll.register(fd, select.POLLIN)

    def off(self, fd: int) -> None:
        """Forget a descriptor."""
        if self.handlers.pop(fd, None) is not None:
            self.poll.unregister(fd)

    def take(self, pipe: int, _events: int) -> None:
        """Output: into the file, then tell whoever waits for it."""
        if self.output.take(pipe, self.pipes[pipe]) == 0:
            self.off(pipe)
        self.tell_grown()

    def starting(self, fd: int, _events: int) -> None:
        """The start channel: who the leader is, what failed, or its end: the leader executes."""
        room = socket.CMSG_SPACE(_UCRED_SIZE)
        packet, ancillary, _flags, _address = self.start.recvmsg(4096, room)
        if packet:
            kind, *rest = files.decode(packet)  # type: ignore[misc]
            if kind == init.LEADER:
                self.leader = int.from_bytes(ancillary[0][2][:4], "little")  # struct ucred
            else:
                self.failed = rest
            return
        self.off(fd)
        self.start.close()
        if self.leader is not None and self.failed is None:
            self.started_ns = self.output.now_ns()
            timeout_s = self.plan["timeout_s"]
            if timeout_s is not None:
                self.deadline = time.monotonic() + timeout_s  # type: ignore[operator]
            self.tell_all(protocol.STARTED, {"pid": self.leader, "time_ns": self.started_ns})
            if self.pending is not None:
                self.signal(self.pending)

    def hear_init(self, fd: int, _events: int) -> None:
        """init's channel: the leader's wait status."""
        packet = self.channel.recv(4096)
        if not packet:
            self.off(fd)
            return
        _kind, self.status = files.decode(packet)  # type: ignore[misc]

    def init_ended(self, fd: int, _events: int) -> None:
        """init is gone, and in a pid namespace all of the job with it."""
        self.off(fd)
        if self.channel.fileno() in self.handlers:
            self.channel.setblocking(False)
            try:
                self.hear_init(self.channel.fileno(), 0)  # its last word may still be on the way
            except BlockingIOError:
                pass
        if self.start.fileno() in self.handlers:
            self.start.setblocking(False)
            try:
                while self.start.fileno() in self.handlers:
                    self.starting(self.start.fileno(), 0)
            except BlockingIOError:
                pass
        _pid, status, self.rusage = os.wait4(self.init, 0)
        if self.status is None and self.failed is None:
            self.judge_init(status)
        self.ended = True

    def judge_init(self, status: int) -> None:
        """init ended without a word: it was killed, by us or by somebody, or it failed."""
        if os.WIFSIGNALED(status):
            self.status = status
        elif self.killed:
            self.status = signal.SIGKILL
        else:
            self.failed = ["init", 0, None]

    def wait_ms(self) -> float | None:
        """Give poll's timeout: until the deadline or the end of the grace period."""
        times = [t for t in (self.deadline, self.kill_at) if t is not None]
        if not times:
            return None
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1

    def check_times(self) -> None:
        """Do what a deadline or the end of a grace period asks for."""
        now = time.monotonic()
        if self.deadline is not None and now >= self.deadline:
            self.deadline = None
            self.timed_out = True
            self.begin_kill(signal.SIGTERM, self.plan["grace_s"])  # type: ignore[arg-type]
        if self.kill_at is not None and now >= self.kill_at:
            self.kill_at = None
            self.kill_everything()

    # -- ending the job ----------------------------------------------------------------------

    def begin_kill(self, number: int, grace_s: float) -> None:
        """Signal now, SIGKILL to everything after the grace period; a second one can only hurry."""
        at = time.monotonic() + grace_s
        self.kill_at = at if self.kill_at is None else min(at, self.kill_at)
        self.signal(number)
        self.freeze(frozen=False)  # a frozen process cannot heed what it was asked

    def freeze(self, *, frozen: bool) -> None:
        """Stop every process of the job, or let them go on."""
        if self.frozen != frozen and self.cgroup.freeze(frozen=frozen):
            self.frozen = frozen

    def signal(self, number: int) -> None:
        """Deliver a signal to the leader's process group, once the leader executes."""
        if self.started_ns is None:
            self.pending = number
            return
        try:
            self.channel.send(files.encode([init.SIGNAL, number]))
        except OSError:
            pass  # init is going; there is nothing left to signal

    def kill_everything(self) -> None:
        """SIGKILL to every process of the job, at once."""
        self.killed = True
        if self.cgroup.kill() and self.started_ns is not None:
            return  # the leader is in the cgroup; init reports its end
        if self.own_pids:
            signal.pidfd_send_signal(self.init_fd, signal.SIGKILL)
        else:
            self.channel.send(files.encode([init.KILL]))

    def finish(self) -> None:
        """The job is over: prove it, take the rest of its output, write it down, tell."""
        self.cgroup.kill()
        empty = self.cgroup.wait_empty()
        self.output.drain(self.pipes)
        self.used = self.usage()
        if empty:
            self.cgroup.remove()
        self.output.sync()
        record = self.record()
        write_whole(self.directory, files.EXIT, files.encode(record), sync=True)
        try:
            os.unlink(f"{self.directory}/{files.SOCKET}")
        except FileNotFoundError:
            pass
        self.tell_all(protocol.EXITED, record)

    def record(self) -> dict[str, object]:
        """Make the exit record."""
        return {
            "protocol": protocol.PROTOCOL,
            "status": self.status,
            "error": self.failed,
            "killed": self.killed,
            "killed_by": self.killed_by,
            "timed_out": self.timed_out,
            "oom": bool(self.used.get("oom_kills")),
            "pid": self.leader,
            "started_ns": self.started_ns,
            "finished_ns": self.output.now_ns(),
            "usage": self.used,
            "output": self.output.counts(),
        }

    def usage(self) -> dict[str, object]:
        """Give what the job uses or used: of its cgroups, else of what wait4(2) told of it."""
        counted = self.cgroup.usage()
        used = self.rusage
        if used is None:
            return counted
        waited = {
            "cpu_s": used.ru_utime + used.ru_stime,
            "memory_peak_bytes": used.ru_maxrss * 1024,
            "io_read_bytes": used.ru_inblock * 512,
            "io_write_bytes": used.ru_oublock * 512,
        }
        return waited | {name: value for name, value in counted.items() if value}

    # -- supervisors -------------------------------------------------------------------------

    def accept(self, _fd: int, _events: int) -> None:
        """A supervisor came back."""
        fd, _address = self.listener._accept()  # noqa: SLF001  # the C socket's name for accept(2)
        connection = socket.socket(fileno=fd)
        self.add_supervisor(connection)
        self.tell(
            connection,
            protocol.HELLO,
            {
                "protocol": protocol.PROTOCOL,
                "job": self.job,
                "pid": os.getpid(),
                "leader": self.leader,
                "started_ns": self.started_ns,
                "total": self.output.total,
            },
        )

    def add_supervisor(self, connection: socket.socket) -> None:
        """Hear one supervisor's wishes."""
        connection.setblocking(False)
        self.watches[connection] = None
        self.on(connection.fileno(), lambda _fd, _events: self.hear(connection))

    def drop(self, connection: socket.socket) -> None:
        """Forget a supervisor that is gone or does not read."""
        if self.watches.pop(connection, -1) != -1:
            self.off(connection.fileno())
            connection.close()

    def tell(self, connection: socket.socket, kind: str, body: dict[str, object]) -> None:
        """Send a packet; never wait."""
        try:
            connection.send(protocol.pack(kind, body))
        except OSError:
            self.drop(connection)

    def tell_all(self, kind: str, body: dict[str, object]) -> None:
        """Send every supervisor a packet."""
        for connection in list(self.watches):
            self.tell(connection, kind, body)

    def tell_grown(self) -> None:
        """Tell each supervisor that waits for more output than it has seen, once."""
        total = self.output.total
        for connection, offset in list(self.watches.items()):
            if offset is not None and total > offset:
                self.watches[connection] = None
                self.tell(connection, protocol.GREW, {"total": total})

    def hear(self, connection: socket.socket) -> None:
        """One packet of a supervisor; one that is no packet of ours ends its connection."""
        try:
            packet = connection.recv(protocol.MAX_PACKET)
            kind, body = protocol.unpack(packet)
        except (OSError, ValueError):
            self.drop(connection)
            return
        if kind == protocol.WATCH:
            self.watches[connection] = int(body["offset"])  # type: ignore[call-overload]
            self.tell_grown()
        elif kind == protocol.KILL:
            if self.killed_by is None:
                self.killed_by = str(body["by"])
            self.begin_kill(int(body["signal"]), float(body["grace_s"]))  # type: ignore[call-overload,arg-type]
        elif kind == protocol.SIGNAL:
            self.signal(int(body["signal"]))  # type: ignore[call-overload]
        elif kind == protocol.FREEZE:
            self.freeze(frozen=bool(body["frozen"]))
            self.tell_all(protocol.FROZEN, {"frozen": self.frozen})
        elif kind == protocol.USAGE:
            answer = {"usage": self.usage(), "output": self.output.counts()}
            self.tell(connection, protocol.USAGE, answer)


def make_pipe() -> tuple[int, int]:
    """Make a pipe whose reading end does not block."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except PermissionError:
        pass  # over the user's pipe-user-pages-soft, pipe(7): a smaller pipe is only slower
    return read, write


def write_whole(directory: str, name: str, data: bytes, *, sync: bool) -> None:
    """Write a file so that under its name it is there whole, or not at all."""
    path = f"{directory}/{name}"
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(f"{path}.new", path)
    if sync:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

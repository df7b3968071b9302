"""The shim: one process for each job, outside its namespaces and limits, for the job's whole life.

Theory. Everything that must work while no supervisor runs is here: taking the output, the deadline,
TERM → grace → KILL, the proof of death, the exit record. The order of what it leaves on the disk is
what makes a launch happen at most once and an end be known exactly:

    lock taken → identity written → init told to go → … → cgroup empty → exit record renamed into
    place → supervisors told → process ends, lock released

A supervisor that meets any prefix of this knows what it means (`jobs_supervisor.recover`).

One thread, one poll(2); each descriptor has one handler. Nothing in here waits for a supervisor:
its sockets do not block, and one that does not read is dropped (it can connect again).
"""

import errno
import fcntl
import os
import resource
import select
import time

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.failpoint import failpoint
from jobs_shim import init, syscalls
from jobs_shim.cgroup import Cgroup
from jobs_shim.lean import signal, socket
from jobs_shim.output import Output
from jobs_shim.steps import StepError, execute
from jobs_shim.whole import WholeFile

PIPE_SIZE = 256 * 1024
EX_SOFTWARE = 70  # sysexits.h
_UCRED_SIZE = 12  # pid, uid, gid; unix(7)
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_PATH_FLAGS = os.O_PATH | os.O_CLOEXEC
_LONGEST_WAIT_S = 86400.0  # poll(2) cannot wait longer than 24 days; to wake once a day is nothing


class LaunchRefusedError(Exception):
    """This job was launched before; launching it again would run it twice."""


class ForkedInit:
    """What a shim has of its init.

    Attributes:
        pid: None if it could not be forked.
        failed: why, then: [step, errno, path].
        channel: to it, for the job's life.
        start: where it, and then the leader, say how the start goes.
        pipes: the reading ends of the job's output → stream.
    """

    __slots__ = ("channel", "failed", "pid", "pipes", "start")

    def __init__(self, steps: object, plan: int, supervisor: int) -> None:
        """Fork it into the namespaces that only a fork enters; it waits until it is told GO.

        Args:
            steps: enter them.
            plan: descriptor of the plan, which init reads for itself.
            supervisor: a descriptor that is not for it.
        """
        self.pid: int | None = None
        self.failed: list[object] | None = None
        self.channel, init_channel = socket_pair()
        start, init_start = socket_pair()
        out_r, out_w = make_pipe()
        err_r, err_w = make_pipe()
        self.pipes = {out_r: files.STDOUT, err_r: files.STDERR}
        theirs = (init_channel, init_start, out_w, err_w)
        signal.pthread_sigmask(signal.SIG_BLOCK, init.AWAITED)  # for init, see there
        try:
            execute(steps)
            self.pid = syscalls.fork()
        except StepError as error:
            self.failed = [error.step, error.errno, error.path]
        except OSError as error:
            self.failed = ["fork", error.errno, None]
        if self.pid == 0:
            try:
                shims = (self.channel, start, out_r, err_r, supervisor)
                init.run(plan, theirs, shims, own_pids=os.getpid() == 1)
                os._exit(0)
            finally:
                os._exit(EX_SOFTWARE)
        for fd in theirs:
            os.close(fd)
        self.start = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, start)
        self.start.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.start.setblocking(False)
        os.set_blocking(self.channel, False)


class Shim:
    """One job.

    Args:
        directory: the job's directory, absolute.
        plan: what the supervisor wants (`jobs_supervisor.plan`).
        supervisor: the connection that came with the launch, a descriptor.
        init: forked, or what failed.
    """

    __slots__ = (
        "cgroup",
        "channel",
        "deadline",
        "directory",
        "ended",
        "exit",
        "failed",
        "frozen",
        "handlers",
        "init",
        "init_fd",
        "kill_at",
        "killed",
        "killed_by",
        "leader",
        "listener",
        "lock",
        "output",
        "own_pids",
        "pending",
        "pipes",
        "plan",
        "poll",
        "rusage",
        "start",
        "started_ns",
        "status",
        "timed_out",
        "used",
        "watches",
    )

    def __init__(
        self, directory: str, plan: dict[str, object], supervisor: int, init: "ForkedInit"
    ) -> None:
        self.directory = directory
        self.plan = plan
        self.cgroup = Cgroup(plan["cgroup"])  # type: ignore[arg-type]
        self.own_pids = bool(plan["own_pids"])
        self.poll = select.poll()
        self.handlers: dict[int, object] = {}
        self.watches: dict[int, int | None] = {}  # supervisor → the total that it has seen
        self.pipes = init.pipes  # descriptor → stream
        self.channel = init.channel
        self.start = init.start
        self.init = init.pid
        self.leader: int | None = None  # its pid on the host
        self.status: int | None = None  # its wait status
        self.rusage: resource.struct_rusage | None = None
        self.failed = init.failed  # [step, errno, path]
        self.started_ns: int | None = None
        self.deadline: float | None = None  # monotonic
        self.kill_at: float | None = None  # monotonic: the end of the grace period
        self.pending: int | None = None  # a signal for when the leader executes
        self.frozen = False
        self.used: dict[str, object] = {}
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
        except (LaunchRefusedError, OSError) as error:
            self.tell_all(protocol.REFUSED, {"why": str(error)})
            return  # init, which waits for GO, ends with us
        self.launch()
        while not self.ended:
            self.check_times()
            for fd, events in self.poll.poll(self.wait_ms()):
                handler = self.handlers.get(fd)
                if handler is not None:  # closed by a handler before it in this round
                    handler(fd, events)  # type: ignore[operator]
        self.finish()

    def claim(self) -> None:
        """Take the lock and write the identity: from here on the job counts as launched.

        What a shim that died before it had written the identity left here is overwritten.

        Raises:
            LaunchRefusedError: another shim has, or had, this job.
            OSError: its directory cannot be used.
        """
        self.lock = os.open(f"{self.directory}/{files.LOCK}", _LOCK_FLAGS, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchRefusedError("another shim holds this job") from None
        failpoint("shim.locked")
        if os.access(f"{self.directory}/{files.IDENTITY}", os.F_OK):
            raise LaunchRefusedError("this job was launched before")
        self.output = Output(self.directory, *self.plan.get("output", ()))  # type: ignore[misc]
        self.exit = WholeFile(self.directory, files.EXIT)
        self.listen()
        identity = WholeFile(self.directory, files.IDENTITY)
        pid = os.getpid()
        record = {
            "boot": self.plan["boot"],
            "pid": pid,
            "start": files.start_time(pid),
            "protocol": protocol.PROTOCOL,
        }
        failpoint("shim.before-identity")
        identity.write(files.encode(record), sync=False)
        failpoint("shim.identified")

    def listen(self) -> None:
        """Make `shim.sock`, where a supervisor that comes back connects."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.setblocking(False)
        os.fchmod(self.listener.fileno(), 0o600)  # bind(2) gives the file what the socket has
        # A path to a socket is at most 107 bytes long, unix(7); a directory's descriptor is short.
        directory = os.open(self.directory, _PATH_FLAGS)
        path = f"/proc/self/fd/{directory}/{files.SOCKET}"
        try:
            self.listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            os.unlink(path)  # of a shim that died before it had launched
            self.listener.bind(path)
        os.close(directory)
        self.listener.listen(16)
        self.on(self.listener.fileno(), self.accept)

    def launch(self) -> None:
        """Make the cgroup and let init go."""
        if self.init is None:
            self.ended = True
            return
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # no job of the same user may look inside
        if not self.own_pids:
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self.init_fd = os.pidfd_open(self.init)
        for pipe in self.pipes:
            self.on(pipe, self.take)
        self.on(self.start.fileno(), self.hear_start)
        self.on(self.channel, self.hear_init)
        self.on(self.init_fd, self.init_ended)
        try:
            self.cgroup.create()
            failpoint("shim.cgroup-made")
            os.write(self.channel, init.GO)
            failpoint("shim.init-told")
        except OSError as error:
            self.failed = ["cgroup", error.errno, error.filename]
            self.off(self.channel)
            os.close(self.channel)  # init ends

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
        if self.started_ns is None:
            self.hear_start(
                pipe, 0
            )  # whoever has seen output of a job has been told that it started
        if self.output.take(pipe, self.pipes[pipe]) == 0 or self.output.blocked:
            self.off(pipe)
        failpoint("shim.output-indexed")
        self.tell_grown()

    def hear_start(self, _fd: int, _events: int) -> None:
        """Take all that has come on the start channel."""
        try:
            while (fd := self.start.fileno()) in self.handlers:
                self.starting(fd)
        except BlockingIOError:
            pass

    def starting(self, fd: int) -> None:
        """Learn who the leader is, what failed, or, by the channel's end, that it executes."""
        room = socket.CMSG_SPACE(_UCRED_SIZE)
        packet, ancillary, _flags, _address = self.start.recvmsg(8192, room)
        if packet == init.LEADER:
            self.leader = int.from_bytes(ancillary[0][2][:4], "little")  # struct ucred
        elif packet:
            self.failed = files.decode(packet)  # type: ignore[assignment]
        else:
            self.off(fd)
            self.start.close()
            if self.leader is not None and self.failed is None and not self.killed:
                self.started()

    def started(self) -> None:
        """The leader executes."""
        self.started_ns = self.output.now_ns()
        self.set_deadline()
        failpoint("shim.started")
        self.tell_all(protocol.STARTED, {"pid": self.leader, "time_ns": self.started_ns})
        if self.pending is not None:
            self.signal(self.pending)

    def set_deadline(self) -> None:
        """Have the deadline fire when the plan says, counted from the start; it fires once."""
        timeout_s = self.plan["timeout_s"]
        if timeout_s is None or self.started_ns is None or self.timed_out:
            self.deadline = None
        else:
            passed_s = (self.output.now_ns() - self.started_ns) / 1e9
            self.deadline = time.monotonic() + timeout_s - passed_s  # type: ignore[operator]

    def hear_init(self, fd: int, _events: int) -> None:
        """Init's channel: the leader's wait status."""
        try:
            word = os.read(fd, 16)
        except ConnectionResetError:
            return  # it had not read all that we told it; its last words come after this
        if word:
            self.status = int(word)
        else:
            self.off(fd)

    def init_ended(self, fd: int, _events: int) -> None:
        """Init is gone, and in a pid namespace all of the job with it."""
        self.off(fd)
        failpoint("shim.init-ended")
        try:  # its last words are there by now, whatever poll has told us of
            while self.channel in self.handlers:
                self.hear_init(self.channel, 0)
        except BlockingIOError:
            pass  # it was killed, in no namespace, and the leader has it open
        self.hear_start(-1, 0)
        _pid, status, self.rusage = os.wait4(self.init, 0)  # type: ignore[arg-type]
        if self.status is None and self.failed is None:
            self.judge_init(status)
        self.ended = True

    def judge_init(self, status: int) -> None:
        """Init ended without a word: it was killed, by us or by somebody, or it failed."""
        if os.WIFSIGNALED(status):
            self.status = status
        elif self.killed:
            self.status = signal.SIGKILL
        else:
            self.failed = ["init", 0, None]

    def wait_ms(self) -> float | None:
        """Give poll's timeout: until the deadline or the end of the grace period."""
        at = self.deadline
        if self.kill_at is not None and (at is None or self.kill_at < at):
            at = self.kill_at
        if at is None:
            return None
        return min(max(at - time.monotonic(), 0.0), _LONGEST_WAIT_S) * 1000 + 1

    def check_times(self) -> None:
        """Do what a deadline or the end of a grace period asks for."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self.deadline = None
            self.timed_out = True
            failpoint("shim.deadline")
            self.begin_kill(signal.SIGTERM, self.plan["grace_s"])  # type: ignore[arg-type]
        if self.kill_at is not None and time.monotonic() >= self.kill_at:
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
        else:
            self.tell_init(init.SIGNAL + bytes((number,)))

    def tell_init(self, message: bytes) -> None:
        """Put a message into init's channel and wake it; if it has gone, all is said and done."""
        try:
            os.write(self.channel, message)
            signal.pidfd_send_signal(self.init_fd, init.WAKE)
        except OSError:
            pass

    def kill_everything(self) -> None:
        """SIGKILL to every process of the job, at once."""
        self.killed = True
        failpoint("shim.before-kill")
        if self.started_ns is not None and self.cgroup.kill():
            return  # the leader is in the cgroup; init reports its end
        if self.own_pids:
            signal.pidfd_send_signal(self.init_fd, signal.SIGKILL)
        else:
            self.tell_init(init.KILL)

    def finish(self) -> None:
        """The job is over: prove it, take the rest of its output, write it down, tell."""
        self.cgroup.kill()
        failpoint("shim.killed")
        if not self.own_pids:
            init.end_descendants()  # what an init that was itself killed has left to us
        empty = self.cgroup.wait_empty()
        failpoint("shim.empty")
        self.output.drain(self.pipes)
        failpoint("shim.drained")
        try:
            self.used = self.usage()
        except (OSError, ValueError):
            pass  # a kernel that counts in another form; the job has ended all the same
        if empty:
            self.cgroup.remove()
        failpoint("shim.cgroup-removed")
        self.output.sync()
        record = self.record()
        failpoint("shim.before-exit")
        self.exit.write(files.encode(record), sync=True)
        failpoint("shim.exit-written")
        try:
            os.unlink(f"{self.directory}/{files.SOCKET}")
        except FileNotFoundError:
            pass
        failpoint("shim.socket-removed")
        self.tell_all(protocol.EXITED, record)
        failpoint("shim.told")

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
        try:
            fd, _address = self.listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001  # the C name for accept(2)
        except OSError:
            return  # it went away again
        self.add_supervisor(fd)
        self.tell(
            fd,
            protocol.HELLO,
            {
                "protocol": protocol.PROTOCOL,
                "job": self.plan["job"],
                "pid": os.getpid(),
                "leader": self.leader,
                "started_ns": self.started_ns,
                "frozen": self.frozen,
                "total": self.output.indexed,
            },
        )

    def add_supervisor(self, fd: int) -> None:
        """Hear one supervisor's wishes."""
        os.set_blocking(fd, False)
        self.watches[fd] = None
        self.on(fd, self.hear)

    def drop(self, fd: int) -> None:
        """Forget a supervisor that is gone or does not read."""
        self.off(fd)
        del self.watches[fd]
        os.close(fd)

    def tell(self, fd: int, kind: str, body: dict[str, object]) -> None:
        """Send a packet; never wait."""
        try:
            os.write(fd, protocol.pack(kind, body))
        except OSError:
            self.drop(fd)

    def tell_all(self, kind: str, body: dict[str, object]) -> None:
        """Send every supervisor a packet."""
        for fd in tuple(self.watches):
            self.tell(fd, kind, body)

    def tell_grown(self) -> None:
        """Tell each supervisor that waits for more output than it has seen, once."""
        total = self.output.indexed
        for fd, seen in tuple(self.watches.items()):
            if seen is not None and total > seen:
                self.watches[fd] = None
                self.tell(fd, protocol.GREW, {"total": total})

    def hear(self, fd: int, _events: int) -> None:
        """One packet of a supervisor; one that is no packet of ours ends its connection."""
        try:
            packet = os.read(fd, protocol.MAX_PACKET)
            self.obey(fd, *protocol.unpack(packet))
        except BlockingIOError:
            pass  # the descriptor is new; what there was to read was the last one's of its number
        except (OSError, ValueError, LookupError, TypeError, OverflowError):
            self.drop(fd)

    def obey(self, fd: int, kind: str, body: protocol.Body) -> None:
        """Do what a supervisor asks for.

        Raises:
            ValueError, LookupError, TypeError, OverflowError: it is none of this protocol.
        """
        if kind == protocol.WATCH:
            self.watches[fd] = int(body["offset"])  # type: ignore[call-overload]
            self.tell_grown()
        elif kind == protocol.KILL:
            number, grace_s, by = signal_of(body), float(body["grace_s"]), str(body["by"])  # type: ignore[arg-type]
            if not grace_s >= 0:  # nor NaN
                raise ValueError("no such grace period")
            if self.killed_by is None:
                self.killed_by = by
            failpoint("shim.kill-heard")
            self.begin_kill(number, grace_s)
            failpoint("shim.kill-begun")
        elif kind == protocol.SIGNAL:
            self.signal(signal_of(body))
        elif kind == protocol.FREEZE:
            self.freeze(frozen=bool(body["frozen"]))
            failpoint("shim.frozen")
            self.tell_all(protocol.FROZEN, {"frozen": self.frozen})
        elif kind == protocol.UPDATE:
            self.update(body)
            failpoint("shim.updated")
        elif kind == protocol.USAGE:
            answer: protocol.Body = {"usage": self.usage(), "output": self.output.counts()}
            self.tell(fd, protocol.USAGE, answer)

    def update(self, body: protocol.Body) -> None:
        """Have other limits than the plan's.

        Raises:
            ValueError, TypeError: they are none.
        """
        limit, timeout_s = body.get("output_max_bytes"), body.get("timeout_s")
        if limit is not None:
            if not int(limit) > 0:  # type: ignore[call-overload]
                raise ValueError("no such cap")
            self.output.allow(int(limit))  # type: ignore[call-overload]
            for pipe in self.pipes:
                if pipe not in self.handlers and not self.output.blocked:
                    self.on(pipe, self.take)  # one that had ended does so again
        self.plan["timeout_s"] = None if timeout_s is None else float(timeout_s)  # type: ignore[arg-type]
        self.set_deadline()


def signal_of(body: protocol.Body) -> int:
    """Give the number of a signal that a supervisor names.

    Raises:
        ValueError, LookupError, TypeError: it names none.
    """
    number = int(body["signal"])  # type: ignore[call-overload]
    if not 0 < number < signal.NSIG:
        raise ValueError("no such signal")
    return number  # type: ignore[no-any-return]


def prepare(body: protocol.Body, connection: int, plan: int) -> Shim:
    """Make of a fork of the fork server the shim that a launch asks for, and its init.

    init is forked before anything else is done: of every page that the shim has written to before
    that and writes to again, the copy would be left to init.

    Args:
        body: of the launch.
        connection: socket to the supervisor.
        plan: descriptor of a file that holds the encoded plan.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(0, 2)
    syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-shim")
    failpoint("shim.forked")
    forked = ForkedInit(body["enter"], plan, connection)
    failpoint("shim.init-forked")
    steps = init.read_plan(plan)
    os.close(plan)
    return Shim(str(body["dir"]), steps, connection, forked)


def socket_pair() -> tuple[int, int]:
    """Make two connected sockets that keep packets whole."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return one.detach(), other.detach()


def make_pipe() -> tuple[int, int]:
    """Make a pipe whose reading end does not block, and that a job can open as /dev/stdout."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    os.fchmod(write, 0o622)  # it is ours, and the job another user's
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # over the user's pipe-user-pages-soft, pipe(7): a smaller pipe is only slower
    return read, write

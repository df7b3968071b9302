"""The shim: one process for each job, outside its namespaces and limits, for the job's whole life.

Theory. Everything that must work while no supervisor runs is here: taking the output, the deadline,
TERM → grace → KILL, the proof of death, the exit record. The order of what it leaves on the disk is
what makes a launch happen at most once and an end be known exactly:

    lock taken → identity written → … → cgroup empty → exit record renamed into place →
    supervisors told → process ends, lock released

A supervisor that meets any prefix of this knows what it means (`jobs_supervisor.recover`). The
beginning, up to the leader's fork, is done for the shim by a process that ends
(`jobs_shim.launcher`), so that a shim which has nothing to do but wait has written to few pages.

One thread, one poll(2). Nothing in here waits for a supervisor: its sockets do not block, and one
that does not read is dropped (it can connect again).
"""

import os
import resource
import time

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.failpoint import failpoint
from jobs_shim import init, syscalls
from jobs_shim.asleep import LONGEST_WAIT_S, Asleep
from jobs_shim.cgroup import Cgroup
from jobs_shim.events import Events
from jobs_shim.forked import ForkedInit
from jobs_shim.lean import signal
from jobs_shim.output import Output
from jobs_shim.supervisors import Supervisors
from jobs_shim.whole import WholeFile


class Shim:
    """One job that was claimed.

    Args:
        plan: what of it we have to know (`jobs_shim.launcher`).
        fds: of `jobs_shim.claim`.
        asleep: what has happened so far.
    """

    __slots__ = (
        "cgroup",
        "channel",
        "clock",
        "deadline",
        "directory",
        "ended",
        "events",
        "exit",
        "forked",
        "frozen",
        "init_fd",
        "kill_at",
        "killed",
        "killed_by",
        "lock",
        "output",
        "own_pids",
        "pending",
        "pipes",
        "plan",
        "rusage",
        "started_ns",
        "status",
        "supervisors",
        "timed_out",
        "used",
    )

    def __init__(
        self,
        plan: dict[str, object],
        fds: tuple[int, ...],
        asleep: Asleep,
    ) -> None:
        forked = asleep.forked
        self.directory = directory = str(plan["dir"])
        self.plan = plan
        self.cgroup = Cgroup(plan["cgroup"])  # type: ignore[arg-type]
        self.own_pids = bool(plan["own_pids"])
        self.lock, output, index, record, listener = fds
        self.output = Output(directory, (output, index), asleep.clock, *plan["output"])  # type: ignore[misc]
        self.exit = WholeFile(directory, files.EXIT, record)
        self.events = Events()
        self.supervisors = Supervisors(self, listener)
        for supervisor in asleep.supervisors:
            self.supervisors.add(supervisor)
        self.pipes = forked.pipes  # descriptor → stream
        self.channel = forked.channel
        self.forked = forked
        self.status: int | None = None  # its wait status
        self.rusage: resource.struct_rusage | None = None
        self.started_ns = asleep.started_ns
        self.deadline: float | None = None  # monotonic
        self.kill_at: float | None = None  # monotonic: the end of the grace period
        self.pending: int | None = None  # a signal for when the leader executes
        self.frozen = False
        self.used: dict[str, object] = {}
        self.killed = False  # SIGKILL was sent to everything
        self.killed_by: str | None = None
        self.timed_out = False
        self.ended = forked.pid is None
        if forked.pid is not None:
            self.init_fd = os.pidfd_open(forked.pid)
            self.listen()
        self.set_deadline()
        if asleep.wish is not None:
            self.supervisors.take(*asleep.wish)

    # -- the life ----------------------------------------------------------------------------

    def run(self) -> None:
        """See the job to its end and leave the exit record."""
        while not self.ended:
            self.check_times()
            self.events.wait(self.wait_ms())
        self.finish()

    def listen(self) -> None:
        """Hear of what the job does."""
        on = self.events.on
        for pipe in self.pipes:
            on(pipe, self.take)
        if self.started_ns is None:
            on(self.forked.start, self.hear_start)
        on(self.channel, self.hear_init)
        on(self.init_fd, self.init_ended)

    # -- events ------------------------------------------------------------------------------

    def take(self, pipe: int, _events: int) -> None:
        """Output: into the file, then tell whoever waits for it."""
        if self.started_ns is None:
            self.hear_start(
                pipe, 0
            )  # whoever has seen output of a job has been told that it started
        if self.output.take(pipe, self.pipes[pipe]) == 0 or self.output.blocked:
            self.events.off(pipe)
        failpoint("shim.output-indexed")
        self.supervisors.tell_grown()

    def hear_start(self, _fd: int, _events: int) -> None:
        """Take all that has come on the start channel."""
        forked = self.forked
        try:
            while forked.start in self.events:
                forked.hear()
                if forked.started:
                    self.events.off(forked.start)
                    forked.end_start()
                    if forked.leader is not None and forked.failed is None and not self.killed:
                        self.started()
        except BlockingIOError:
            pass

    def started(self) -> None:
        """The leader executes."""
        self.started_ns = self.output.now_ns()
        self.set_deadline()
        failpoint("shim.started")
        started: protocol.Body = {"pid": self.forked.leader, "time_ns": self.started_ns}
        self.supervisors.tell_all(protocol.STARTED, started)
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
            self.events.off(fd)

    def init_ended(self, fd: int, _events: int) -> None:
        """Init is gone, and in a pid namespace all of the job with it."""
        self.events.off(fd)
        failpoint("shim.init-ended")
        try:  # its last words are there by now, whatever poll has told us of
            while self.channel in self.events:
                self.hear_init(self.channel, 0)
        except BlockingIOError:
            pass  # it was killed, in no namespace, and the leader has it open
        self.hear_start(-1, 0)
        _pid, status, self.rusage = os.wait4(self.forked.pid, 0)  # type: ignore[arg-type]
        if self.status is None and self.forked.failed is None:
            self.judge_init(status)
        self.ended = True

    def judge_init(self, status: int) -> None:
        """Init ended without a word: it was killed, by us or by somebody, or it failed."""
        if os.WIFSIGNALED(status):
            self.status = status
        elif self.killed:
            self.status = signal.SIGKILL
        else:
            self.forked.failed = ["init", 0, None]

    def wait_ms(self) -> float | None:
        """Give poll's timeout: until the deadline or the end of the grace period."""
        at = self.deadline
        if self.kill_at is not None and (at is None or self.kill_at < at):
            at = self.kill_at
        if at is None:
            return None
        return min(max(at - time.monotonic(), 0.0), LONGEST_WAIT_S) * 1000 + 1

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
        if self.started_ns is None:
            # From here on nothing comes to execute; if it has, the start channel has ended.
            self.cgroup.freeze(frozen=True)
            self.hear_start(-1, 0)
        self.killed = True
        failpoint("shim.before-kill")
        if self.started_ns is not None and self.cgroup.kill():
            return  # the leader is in the cgroup; init reports its end
        if self.own_pids or self.started_ns is None:
            # Before the start also where it is no pid 1: it may wait for a launcher that is
            # stopped, or a leader that is frozen, and not for us. What it leaves comes to us.
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
        self.supervisors.tell_all(protocol.EXITED, record)
        failpoint("shim.told")

    def record(self) -> dict[str, object]:
        """Make the exit record."""
        return {
            "protocol": protocol.PROTOCOL,
            "status": self.status,
            "error": self.forked.failed,
            "killed": self.killed,
            "killed_by": self.killed_by,
            "timed_out": self.timed_out,
            "oom": bool(self.used.get("oom_kills")),
            "pid": self.forked.leader,
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


Claimed = tuple[Asleep, bytes, tuple[int, ...]]
"""A job that is ours: its shim, what the launcher has said, and sent."""


def prepare(steps: object, connection: int, birthplace: int) -> Claimed | None:
    """Make a shim of a fork of the fork server; give its job, or None if it has none.

    init is forked before anything else is done: of every page that the shim has written to before
    that and writes to again, the copy would be left to init.

    Args:
        steps: enter what only a fork enters.
        connection: socket to the supervisor, which the job will come from.
        birthplace: of `jobs_shim.forked`.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(0, 2)
    syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-shim")
    failpoint("shim.forked")
    forked = ForkedInit(steps, connection, birthplace)
    syscalls.allow_all_files()
    failpoint("shim.init-forked")
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # no job of the same user may look inside
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # of what an init in no namespace leaves
    head, rest, fds = forked.claimed()
    if not head:
        if rest:
            why = rest.decode("utf-8", "surrogateescape")
            os.write(connection, protocol.pack(protocol.REFUSED, {"why": why}))
        return None
    return Asleep(head, forked, fds[-1], connection), rest, fds


def directory_of(claimed: Claimed) -> str:
    """Give the directory of a job."""
    return str(files.decode(claimed[1])["dir"])  # type: ignore[index]


def wake(claimed: Claimed) -> Shim:
    """Sleep until there is something to do; then be the shim that does it."""
    asleep, rest, fds = claimed
    if asleep.forked.pid is not None:
        asleep.sleep()
    plan: dict[str, object] = files.decode(rest)  # type: ignore[assignment]
    return Shim(plan, fds, asleep)

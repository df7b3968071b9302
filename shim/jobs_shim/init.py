"""init: pid 1 of the job's pid namespace. Sets up, starts the leader, reaps, reports, exits.

Theory. When pid 1 of a namespace exits, the kernel kills every process in it and does not let
pid 1 go before the last of them is reaped (pid_namespaces(7)). So "init is gone", which the shim
sees through its pidfd, is the proof that the job is gone: a job ends when its leader ends.

On a host that gives no pid namespace init is a child subreaper instead (prctl(2)): what a process
of the job leaves behind becomes a child of init, so killing children until waitpid says ECHILD
comes to the same; if init itself is killed, its shim, a subreaper too, does that.

init is forked before its job is claimed, and does nothing until it is told GO: the earlier it is
forked, the fewer of its shim's pages it has to copy (`jobs_shim.warm`). It dies with its shim, by
PR_SET_PDEATHSIG. A shim that died before that was set is noticed as well: the leader cannot tell
it LEADER, and then does not execute.

init sleeps in sigwait(3), with no descriptor to poll and no handler to run. SIGCHLD says that a
child has ended, `WAKE` that the shim has put a message into the channel. Both are blocked before
init is forked, so that one sent too early is pending when init looks, and kills nobody; a pid 1
receives even what would be ignored, as long as it is blocked (signal(7), pid_namespaces(7)).
"""

import os

from jobs_proto.failpoint import failpoint
from jobs_proto.files import decode, encode
from jobs_shim import syscalls
from jobs_shim.cgroup import Cgroup
from jobs_shim.lean import signal
from jobs_shim.steps import StepError, execute

# On the start channel, leader or init → shim; its end without a failure: the leader executes.
LEADER = b"leader"  # anything else is a failure: encoded [step, errno, path]
# On init's channel, shim → init: one of these in a packet, SIGNAL followed by a byte, its number.
GO = b"g"
SIGNAL = b"s"  # deliver to the leader's process group
KILL = b"k"  # end every process, init included
# And init → shim: the leader's raw wait status in decimal digits.

WAKE = signal.SIGUSR1
AWAITED = frozenset((signal.SIGCHLD, WAKE))

_ENTERED = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNET
)


def read_plan(fd: int) -> dict[str, object]:
    """Read the plan from its file."""
    return decode(os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0))  # type: ignore[return-value]


def run(
    plan: int,
    ours: tuple[int, int, int, int],
    shims: tuple[int, ...],
    *,
    own_pids: bool,
) -> None:
    """Be init until the leader has ended; the caller then exits the process.

    Args:
        plan: descriptor of the plan: of its steps, `init` and `leader` are ours to have executed.
        ours: descriptors: a socket to the shim for the job's life, another until the leader
            executes, and the job's standard output and error.
        shims: the shim's descriptors, which are not for us.
        own_pids: this process is pid 1 of a pid namespace.
    """
    channel, start, out, err = ours
    os.dup2(out, 1)  # the leader takes its standard streams from here
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    for fd in shims:
        os.close(fd)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL if own_pids else WAKE)
    failpoint("init.forked")
    if os.read(channel, 1) != GO:
        return
    failpoint("init.told")
    os.set_blocking(channel, False)
    if not own_pids:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # nothing in the job may look inside
    leader = _have_set_up(plan, start)
    os.close(start)
    os.close(plan)
    if leader is None:
        return
    failpoint("init.leader-forked")
    for fd in (1, 2):
        os.dup2(0, fd)  # its output ends when the job does, not when we do
    status = _serve(channel, leader)
    failpoint("init.leader-ended")
    if status is not None:
        try:
            os.write(channel, b"%d" % status)
            failpoint("init.reported")
        except OSError:
            pass  # the shim is gone; what is below is all the more for us to do
    if not own_pids:
        end_descendants()


def report(start: int, error: StepError) -> None:
    """Tell the shim which step failed."""
    os.write(start, encode([error.step, error.errno, error.path]))


def _have_set_up(plan: int, start: int) -> int | None:
    """Have a child set up and fork the leader; give its pid, or None if the shim knows a failure.

    The pages that the set-up writes to are that child's, and go with it: init, which stays, has
    written to hardly any. The leader goes on when that child is no more and init is where it is.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    ready, hold = os.pipe2(os.O_CLOEXEC)
    try:
        child = syscalls.fork()
    except OSError as error:
        report(start, StepError("fork", error.errno or 0, None))
        return None
    if child == 0:
        _set_up(plan, start, tell, (ready, hold))
    os.close(tell)
    os.close(ready)
    word = os.read(told, 16)  # nothing, if it ends before it has forked
    os.close(told)
    os.waitpid(child, 0)
    leader = int(word) if word else None
    if leader is not None:
        _follow(leader)
    os.close(hold)
    return leader


def _follow(leader: int) -> None:
    """Enter the namespaces of the leader, which is ours to reap: what it mounts is there for us."""
    try:
        fd = os.pidfd_open(leader)
        syscalls.setns(fd, _ENTERED)
        os.close(fd)
    except OSError:
        pass  # it has ended already


def _set_up(plan: int, start: int, tell: int, gate: tuple[int, int]) -> None:
    """Execute init's steps, fork the leader and tell its pid; never returns."""
    try:
        os.write(tell, b"%d" % _start(read_plan(plan), start, gate))
    except StepError as error:
        report(start, error)
    finally:
        os._exit(0)


def _start(plan: dict[str, object], start: int, gate: tuple[int, int]) -> int:
    """Execute init's steps and fork the leader; give its pid."""
    cgroup = Cgroup(plan["cgroup"])  # type: ignore[arg-type]
    try:
        cgroup.open()
    except OSError as error:
        raise StepError("cgroup", error.errno or 0, error.filename) from None
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)  # to map ids; nothing of the job is there yet
    execute(plan["init"])
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    try:
        pid, inside = cgroup.fork()
    except OSError as error:
        raise StepError("fork", error.errno or 0, None) from None
    if pid == 0:
        _lead(plan["leader"], start, gate, cgroup, born_inside=inside)
    return pid


def _lead(
    steps: object, start: int, gate: tuple[int, int], cgroup: Cgroup, *, born_inside: bool
) -> None:
    """Become the job's command; never returns.

    Args:
        steps: the plan's.
        start: the start channel.
        gate: a pipe that ends when we may go on, and its other end, of which we have a copy.
        cgroup: where to be.
        born_inside: we are in the v2 one already.
    """
    try:
        os.setsid()
        os.write(start, LEADER)  # the shim learns our pid from the packet's credentials
        ready, hold = gate
        os.close(hold)
        os.read(ready, 1)
        _enter(cgroup, born_inside=born_inside)
        execute(steps)
    except StepError as error:
        report(start, error)
    finally:
        os._exit(127)


def _enter(cgroup: Cgroup, *, born_inside: bool) -> None:
    try:
        cgroup.enter(born_inside=born_inside)
    except OSError as error:
        raise StepError("cgroup", error.errno or 0, error.filename) from None


def _serve(channel: int, leader: int) -> int | None:
    """Reap and forward signals; give the leader's wait status, or None if told to end at once."""
    while True:
        if signal.sigwait(AWAITED) == signal.SIGCHLD:
            status = _reap(leader)
            if status is not None:
                return status
        elif not _obey(channel, leader):
            return None


def _obey(channel: int, leader: int) -> bool:
    """Do what the shim has asked for; False if that, or the shim's death, is the end."""
    while True:
        try:
            message = os.read(channel, 2)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False  # as the end, of a shim that had not read all
        if message[:1] != SIGNAL:
            return False
        _deliver(leader, message[1])


def _reap(leader: int) -> int | None:
    """Collect everything that has ended; give the leader's wait status if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == leader:
            found = status


def _deliver(leader: int, number: int) -> None:
    # The leader is ours and not yet reaped: its pid, and its group's, cannot be anybody else's.
    try:
        os.killpg(leader, number)
    except OSError:  # no such signal: the shim passed on what it was asked for
        pass


def end_descendants() -> None:
    """Kill children until there is none: what they leave behind comes to us, the subreaper."""
    while True:
        fd = os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
        for pid in os.read(fd, 1 << 16).split():
            try:
                os.kill(int(pid), signal.SIGKILL)  # ours until we reap it below
            except PermissionError:
                pass  # it has become somebody else; it ends by itself
        os.close(fd)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
        _reap(-1)

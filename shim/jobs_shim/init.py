"""init: pid 1 of the job's pid namespace. Has the job launched, reaps, reports, exits.

Theory. When pid 1 of a namespace exits, the kernel kills every process in it and does not let
pid 1 go before the last of them is reaped (pid_namespaces(7)). So "init is gone", which the shim
sees through its pidfd, is the proof that the job is gone: a job ends when its leader ends.

On a host that gives no pid namespace init is a child subreaper instead (prctl(2)): what a process
of the job leaves behind becomes a child of init, so killing children until waitpid says ECHILD
comes to the same; if init itself is killed, its shim, a subreaper too, does that.

init is forked before there is a job: the earlier, the fewer of its shim's pages it has to copy
(`jobs_shim.warm`). It dies with its shim, by PR_SET_PDEATHSIG, and its child the launcher, which
becomes the leader, with it. A shim that died before that was set is noticed as well: the launcher
finds no process to write down as the job's shim, or cannot tell it of the claim, and then launches
nothing.

init sleeps in sigwait(3), with no descriptor to poll and no handler to run. SIGCHLD says that a
child has ended, `WAKE` that the shim has put a message into the channel. Both are blocked before
init is forked, so that one sent too early is pending when init looks, and kills nobody; a pid 1
receives even what would be ignored, as long as it is blocked (signal(7), pid_namespaces(7)).
"""

import os

from jobs_proto.failpoint import failpoint
from jobs_shim import launcher, syscalls
from jobs_shim.lean import signal
from jobs_shim.steps import StepError

# On its channel, shim → init: one of these in a packet, SIGNAL followed by a byte, its number.
SIGNAL = b"s"  # deliver to the leader's process group
KILL = b"k"  # end every process, init included
# And init → shim: the leader's raw wait status in decimal digits.

WAKE = signal.SIGUSR1
AWAITED = frozenset((signal.SIGCHLD, WAKE))

_ENTERED = (
    syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWNET
)


def run(
    shim: launcher.OfShim,
    ours: tuple[int, ...],
    others: tuple[int, ...],
    *,
    own_pids: bool,
) -> None:
    """Be init until the leader has ended; the caller then exits the process.

    Args:
        shim: what of it is for the launcher.
        ours: descriptors: a socket to the shim for the job's life, another until the leader
            executes, the two ends of one between us and the leader, where that is born, and the
            job's standard output and error.
        others: the shim's descriptors, which are not for us.
        own_pids: this process is pid 1 of a pid namespace.
    """
    channel, start, gate, launchers, birthplace, *streams = ours
    for fd in others:
        os.close(fd)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-init")
    failpoint("init.forked")
    if not own_pids:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # nothing in the job may look inside
    leader = _have_launched(shim, start, (gate, launchers), birthplace, streams, own_pids=own_pids)
    for fd in (gate, *streams):
        os.close(fd)
    if leader is None:
        return
    failpoint("init.leader-let-go")
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


def _have_launched(
    shim: launcher.OfShim,
    start: int,
    gate: tuple[int, int],
    birthplace: int,
    streams: list[int],
    *,
    own_pids: bool,
) -> int | None:
    """Have a launcher become the leader; give its pid, or None if there is none.

    It executes when init is where it is. Nobody else has the start channel by then, so that it
    ends when the launcher does, or executes.
    """
    ours, theirs = gate
    try:
        child = syscalls.fork(birthplace)
    except OSError as error:
        launcher.report_to(start, shim, StepError("fork", error.errno or 0, None))
        return None
    if child == 0:
        os.close(ours)
        launcher.run(shim, start, theirs, streams)
    for fd in (theirs, birthplace, *shim[:2]):
        os.close(fd)
    os.close(start)
    if not os.read(ours, 1):  # it has ended
        os.waitpid(child, 0)
        return None
    _follow(child)
    if not own_pids:  # from here on there may be somebody for us to end
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, WAKE)
    try:
        os.write(ours, launcher.GO)
    except OSError:
        pass  # it has ended already
    return child


def _follow(leader: int) -> None:
    """Enter the namespaces of the leader, which is ours to reap: what it mounts is there for us.

    In a user namespace we may not, since it is not dumpable, and stay where the shim is.
    """
    fd = os.pidfd_open(leader)
    try:
        syscalls.setns(fd, _ENTERED)
    except OSError:
        pass  # it has ended already
    finally:
        os.close(fd)


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

"""init: pid 1 of the job's pid namespace. Sets up, starts the leader, reaps, reports, exits.

Theory. When pid 1 of a namespace exits, the kernel kills every process in it and does not let
pid 1 go before the last of them is reaped (pid_namespaces(7)). So "init is gone", which the shim
sees through its pidfd, is the proof that the job is gone: a job ends when its leader ends.

On a host that gives no pid namespace init is a child subreaper instead (prctl(2)): what a process
of the job leaves behind becomes a child of init, so killing children until waitpid says ECHILD
comes to the same. Only the death of init itself by SIGKILL leaves something over in that mode.

init dies with its shim: by PR_SET_PDEATHSIG in a namespace, else by the end of their channel.
"""

import os
import select
import _signal as signal  # see jobs_shim
import _socket as socket

from jobs_proto.files import decode, encode
from jobs_shim import syscalls
from jobs_shim.cgroup import Cgroup
from jobs_shim.steps import StepError, execute

# On the start channel, leader or init → shim; its end without FAILED means: the leader executes.
LEADER = "leader"
FAILED = "failed"
# On init's channel.
EXIT = "exit"  # init → shim: the leader's raw wait status
SIGNAL = "signal"  # shim → init: deliver to the leader's process group
KILL = "kill"  # shim → init: end every process, init included


def run(
    plan: dict[str, list[list[object]]],
    channel: socket.socket,
    start: socket.socket,
    stdio: tuple[int, int, int],
    *,
    cgroup: Cgroup,
    own_pids: bool,
) -> None:
    """Be init until the leader has ended; the caller then exits the process.

    Args:
        plan: the steps: `init` for this process, `leader` for the next.
        channel: to the shim, for the job's life.
        start: to the shim, until the leader executes.
        stdio: the leader's standard input, output and error.
        cgroup: where the leader is to be born.
        own_pids: this process is pid 1 of a pid namespace.
    """
    syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-init")
    if own_pids:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    wake_r, wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, _nothing)  # a handler, so that the kernel wakes us by wake_w
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    try:
        execute(plan["init"])
    except StepError as error:
        _report(start, error)
        return
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    leader, inside = cgroup.fork()
    if leader == 0:
        _lead(plan["leader"], start, stdio, cgroup, born_inside=inside)
    start.close()
    for fd in stdio:
        os.close(fd)
    status = _serve(channel, wake_r, leader)
    if status is not None:
        channel.send(encode([EXIT, status]))
    if not own_pids:
        _end_descendants()


def _nothing(_signal: int, _frame: object) -> None:
    pass


def _report(start: socket.socket, error: StepError) -> None:
    start.send(encode([FAILED, error.step, error.errno, error.path]))


def _lead(
    steps: list[list[object]],
    start: socket.socket,
    stdio: tuple[int, int, int],
    cgroup: Cgroup,
    *,
    born_inside: bool,
) -> None:
    """Become the job's command; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        start.send(encode([LEADER]))  # the shim learns our pid from the packet's credentials
        _enter(cgroup, born_inside=born_inside)
        execute(steps)
    except StepError as error:
        _report(start, error)
    finally:
        os._exit(127)


def _enter(cgroup: Cgroup, *, born_inside: bool) -> None:
    try:
        cgroup.enter(born_inside=born_inside)
    except OSError as error:
        raise StepError("cgroup", error) from None


def _serve(channel: socket.socket, wake: int, leader: int) -> int | None:
    """Reap and forward signals; give the leader's wait status, or None if told to end at once."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if wake in ready:
            os.read(wake, 512)
            status = _reap(leader)
            if status is not None:
                return status
        if channel.fileno() in ready:
            packet = channel.recv(4096)
            message = decode(packet) if packet else [KILL]
            if not isinstance(message, list) or message[0] == KILL:
                return None
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
    except ProcessLookupError:
        os.kill(leader, number)  # forked, and not yet in a session of its own


def _end_descendants() -> None:
    """Kill children until there is none: what they leave behind comes to us, the subreaper."""
    while True:
        with open("/proc/thread-self/children") as file:
            children = [int(pid) for pid in file.read().split()]
        for pid in children:
            os.kill(pid, signal.SIGKILL)  # ours until we reap it below
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
        _reap(-1)

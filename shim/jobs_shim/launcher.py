"""The launcher: a child of init that takes a job, sets it up, forks the leader, and ends.

Theory. A process that was forked shares each page until it writes to it. All that is done once for
a launch is done here: what it writes to goes with it, and shim and init, which stay for the job's
life, have written to little. It is within the job's pid namespace, and so dies with init, and init
with the shim. What it has opened the shim is sent (SCM_RIGHTS, unix(7)), with what it will have to
know of the plan:

    a job comes → lock taken → identity written → shim told → cgroup made → steps executed →
    leader forked

It is forked with its shim and init before there is a job, and waits for one in their place: the
supervisor's first word on the shim's connection, a launch, is for it.

A launcher that is killed before the identity is there has launched nothing. One that is killed
after that and before the shim is told leaves a job that is lost: the shim sees that init has ended,
and ends. One that is killed later leaves a start that failed. The leader does
all but execute, and then waits for init to let it; it ends if that does not come.
"""

import os
import select
import struct

from jobs_proto.failpoint import concerning, failpoint
from jobs_proto.files import decode, encode
from jobs_proto.shim import unpack
from jobs_shim import syscalls
from jobs_shim.cgroup import Cgroup
from jobs_shim.claim import LaunchRefusedError, claim
from jobs_shim.lean import signal, socket
from jobs_shim.steps import StepError, execute

# On the start channel. Launcher → shim: first, what a shim has to know, with the descriptors: its
# timeout in s, or nothing, a space, the job's id; a NUL; and the rest, encoded. If the job is not
# ours to launch, a NUL, and why. Then launcher or leader → shim:
LEADER = b"leader"  # anything else is a failure: encoded [step, errno, path]
# Its end without a failure: the leader executes.

# On the gate, leader → init: its pid in decimal digits. And init → leader:
GO = b"g"

CLAIMED = struct.Struct("=5i")
"""The descriptors that come with the claim."""

KEPT = ("job", "cgroup", "own_pids", "timeout_s", "grace_s")
"""What a shim has to know of the plan; and `output`, if there is a cap."""

_LAUNCH_SIZE = 8192  # it holds one path
_SOON_MS = 1000  # in which a launch comes that the shim was forked for
_FD = struct.Struct("=i")

OfShim = tuple[int, int, int]
"""Of the shim: its connection to a supervisor and its `stat`, descriptors; its pid."""


def run(shim: OfShim, start: int, gate: int, streams: list[int]) -> None:
    """Be the launcher; never returns.

    Args:
        shim: what is its.
        start: the start channel.
        gate: a socket to init.
        streams: what will be the job's standard output and error.
    """
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-launcher")
        if os.getppid() == shim[2]:
            return  # init has ended already, and we are the shim's
        syscalls.allow_all_files()
        failpoint("launcher.forked")
        plan = claim_for(start, shim)
        for fd in shim[:2]:
            os.close(fd)
        if plan is not None:
            failpoint("launcher.told")
            _set_up(plan, start, gate, streams)
    except StepError as error:
        report(start, error)
    finally:
        os._exit(0)


def report_to(start: int, shim: OfShim, failed: StepError) -> None:
    """Claim the job that has come for a shim that could not be made, for there to be a record.

    If there is none, none is waited for: what has failed now may be in order by then.
    """
    poll = select.poll()
    poll.register(shim[0], select.POLLIN)
    if not poll.poll(_SOON_MS):
        os.write(start, f"\0{failed.step}: {os.strerror(failed.errno)}".encode())
    elif claim_for(start, shim) is not None:
        report(start, failed)


def claim_for(start: int, shim: OfShim) -> dict[str, object] | None:
    """Wait for a job, claim it and tell the shim.

    Returns:
        The plan; None if there is no job: the supervisor went, or the claim was refused.
    """
    connection, stat, pid = shim
    try:
        launch = _hear(connection)
        if launch is None:
            return None
        directory, plan = launch
        known = _known(plan) | {"dir": directory}
        head = f"{plan['timeout_s'] or ''} {plan['job']}\0".encode()
        boot, _init, _leader = plan["boot"], plan["init"], plan["leader"]
    except (LookupError, ValueError, TypeError, OSError) as error:
        os.write(start, f"\0no plan: {error!r}".encode())
        return None
    try:
        fds = claim(directory, boot, pid, stat)
    except (LaunchRefusedError, OSError) as error:
        os.write(start, f"\0{error}".encode("utf-8", "surrogateescape"))
        return None
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, CLAIMED.pack(*fds))]
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, start)
    channel.sendmsg((head, encode(known)), rights)
    channel.detach()
    for opened in fds:
        os.close(opened)
    return plan


def _hear(connection: int) -> tuple[str, dict[str, object]] | None:
    """Wait for a launch; give the job's directory and plan, or None if the supervisor went.

    Raises:
        LookupError, ValueError, TypeError, OSError: it is none.
    """
    supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, connection)
    room, flags = socket.CMSG_SPACE(_FD.size), socket.MSG_CMSG_CLOEXEC
    try:
        packet, ancillary, _, _ = supervisor.recvmsg(_LAUNCH_SIZE, room, flags)
    finally:
        supervisor.detach()
    if not packet:
        return None
    directory = str(unpack(packet)[1]["dir"])
    concerning(directory.rpartition("/")[2])
    (fd,) = _FD.unpack(ancillary[0][2])
    plan = os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)
    os.close(fd)
    return directory, decode(plan)  # type: ignore[return-value]


def _known(plan: dict[str, object]) -> dict[str, object]:
    """Give of the plan what a shim has to know; it need not know what its cgroups were given."""
    known = {name: plan[name] for name in KEPT}
    known["output"] = plan.get("output", ())
    cgroup: dict[str, list[list[object]]] | None = plan["cgroup"]  # type: ignore[assignment]
    if cgroup is not None:
        directories = [[name, path, ()] for name, path, _values in cgroup["directories"]]
        known["cgroup"] = {**cgroup, "directories": directories}
    return known


def _set_up(plan: dict[str, object], start: int, gate: int, streams: list[int]) -> None:
    """Make the cgroup, execute init's steps and fork the leader."""
    cgroup = Cgroup(plan["cgroup"])  # type: ignore[arg-type]
    try:
        cgroup.create()
        failpoint("launcher.cgroup-made")
        cgroup.open()
    except OSError as error:
        raise StepError("cgroup", error.errno or 0, error.filename) from None
    execute(plan["init"])
    try:
        pid, inside = cgroup.fork()
    except OSError as error:
        raise StepError("fork", error.errno or 0, None) from None
    if pid == 0:
        _lead(plan["leader"], start, gate, streams, cgroup, born_inside=inside)  # type: ignore[arg-type]
    failpoint("launcher.leader-forked")


def _lead(
    steps: list[object],
    start: int,
    gate: int,
    streams: list[int],
    cgroup: Cgroup,
    *,
    born_inside: bool,
) -> None:
    """Become the job's command; never returns."""
    try:
        os.setsid()
        os.write(start, LEADER)  # the shim learns our pid from the packet's credentials
        os.write(gate, b"%d" % os.getpid())
        for number, stream in enumerate(streams, 1):
            os.dup2(stream, number)
        _enter(cgroup, born_inside=born_inside)
        execute(steps[:-1])
        if os.read(gate, 1) == GO:
            execute(steps[-1:])
    except StepError as error:
        report(start, error)
    finally:
        os._exit(127)


def _enter(cgroup: Cgroup, *, born_inside: bool) -> None:
    try:
        cgroup.enter(born_inside=born_inside)
    except OSError as error:
        raise StepError("cgroup", error.errno or 0, error.filename) from None


def report(start: int, error: StepError) -> None:
    """Tell the shim which step failed."""
    os.write(start, encode([error.step, error.errno, error.path]))

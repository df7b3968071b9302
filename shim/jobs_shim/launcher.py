"""The launcher: a child of init that takes a job, sets itself up for it, and becomes its leader.

Theory. A process that was forked shares each page until it writes to it. All that is done once for
a launch is done here, in the process whose memory is gone when it executes the job's command; shim
and init, which stay for the job's life, have written to little. It is within the job's pid
namespace, and so dies with init, and init with the shim. What it has opened the shim is sent
(SCM_RIGHTS, unix(7)), with what it will have to know of the plan:

    born in the job's cgroup → steps that need no job executed → a job comes → lock taken →
    identity written → shim told → the other steps executed but the last → init lets it go →
    command executed

All up to the job's coming is done ahead of it (`jobs_supervisor.spare`). The supervisor's first
two words on the shim's connection, what to prepare and the launch, are for the launcher. Once it
has its own mounts it reaches nothing of the supervisor's by path: the job's directory it has by
descriptor.

A launcher that is killed before the identity is there has launched nothing. One that is killed
after that and before the shim is told leaves a job that is lost: the shim sees that init has ended,
and ends. One that is killed later leaves a start that failed.
"""

import os
import struct

from jobs_proto.failpoint import concerning, failpoint
from jobs_proto.files import decode, encode
from jobs_proto.shim import unpack
from jobs_shim import cgroup, mounts, syscalls
from jobs_shim.claim import LaunchRefusedError, claim
from jobs_shim.lean import signal, socket
from jobs_shim.steps import StepError, execute

# On the start channel. Launcher → shim: first, what a shim has to know, with the descriptors: its
# timeout in s, or nothing, a space, the job's id; a NUL; and the rest, encoded. If the job is not
# ours to launch, a NUL, and why. Then:
LEADER = b"leader"  # it is to execute; anything else is a failure: encoded [step, errno, path]
# Its end without a failure: it executes.

# On the gate, to init, that it is to execute; and init's answer:
READY = b"r"
GO = b"g"

CLAIMED = struct.Struct("=5i")
"""The descriptors that come with the claim."""

KEPT = ("job", "cgroup", "own_pids", "timeout_s", "grace_s")
"""What a shim has to know of the plan; and `output`, if there is a cap."""

_LAUNCH_SIZE = 8192  # it holds one path
_MOST_FDS = 16  # steps, and cgroups: one of v2, six of v1

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
        given = _receive(shim[0])
        if given is None:
            return
        packet, (ahead, *cgroups) = given
        try:
            _get_ready(_read(ahead), cgroups)
        except StepError as error:
            _report_of_a_job(start, shim, packet, error)
            return
        failpoint("launcher.ready")
        plan = claim_for(start, shim)
        for fd in shim[:2]:
            os.close(fd)
        if plan is not None:
            failpoint("launcher.told")
            _lead(plan, start, gate, streams)
    except StepError as error:
        report(start, error)
    finally:
        os._exit(127)


def _get_ready(steps: object, cgroups: list[int]) -> None:
    """Do what can be done before there is a job."""
    try:
        cgroup.enter(cgroups)
    except OSError as error:
        raise StepError("cgroup", error.errno or 0, error.filename) from None
    execute(steps)


def report_to(start: int, shim: OfShim, failed: StepError) -> None:
    """Claim the job that comes for a shim that could not be made, for there to be a record.

    If none comes at once, say it: what has failed now may be in order by then.
    """
    given = _receive(shim[0])
    if given is not None:
        _report_of_a_job(start, shim, given[0], failed)


def _report_of_a_job(start: int, shim: OfShim, prepare: bytes, failed: StepError) -> None:
    if not unpack(prepare)[1]["soon"]:
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
        path, directory, plan = launch
        known = _known(plan) | {"dir": path}
        head = f"{plan['timeout_s'] or ''} {plan['job']}\0".encode()
        boot, _steps = plan["boot"], plan["leader"]
    except (LookupError, ValueError, TypeError, OSError) as error:
        os.write(start, f"\0no plan: {error!r}".encode())
        return None
    try:
        if not mounts.unchanged():
            raise LaunchRefusedError("what was hidden ahead of the job has been replaced")
        fds = claim(f"/proc/self/fd/{directory}", boot, pid, stat)
    except (LaunchRefusedError, OSError) as error:
        os.write(start, f"\0{error}".encode("utf-8", "surrogateescape"))
        return None
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, CLAIMED.pack(*fds))]
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, start)
    channel.sendmsg((head, encode(known)), rights)
    channel.detach()
    for opened in (directory, *fds):
        os.close(opened)
    return plan


def _hear(connection: int) -> tuple[str, int, dict[str, object]] | None:
    """Wait for a launch; give the job's directory, path and descriptor, and plan.

    None if the supervisor went.

    Raises:
        LookupError, ValueError, TypeError, OSError: it is none.
    """
    launch = _receive(connection)
    if launch is None:
        return None
    packet, (plan, directory) = launch
    path = str(unpack(packet)[1]["dir"])
    concerning(path.rpartition("/")[2])
    return path, directory, _read(plan)  # type: ignore[return-value]


def _receive(connection: int) -> tuple[bytes, list[int]] | None:
    """Wait for the supervisor's next packet; give it with its descriptors. None if it went.

    Or if they did not all come: with some of its cgroups a job would have some of its limits.
    """
    supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, connection)
    room, flags = socket.CMSG_SPACE(4 * _MOST_FDS), socket.MSG_CMSG_CLOEXEC
    try:
        packet, ancillary, received, _ = supervisor.recvmsg(_LAUNCH_SIZE, room, flags)
    finally:
        supervisor.detach()
    if not packet or received & socket.MSG_CTRUNC:
        return None
    return packet, [fd for _, _, fds in ancillary for fd in memoryview(fds).cast("i")]


def _read(memory: int) -> object:
    """Decode what a memfd holds, which is others' as well, and close it."""
    content = os.pread(memory, os.fstat(memory).st_size, 0)
    os.close(memory)
    return decode(content)


def _known(plan: dict[str, object]) -> dict[str, object]:
    """Give of the plan what a shim has to know; it need not know what its cgroups were given."""
    known = {name: plan[name] for name in KEPT}
    known["output"] = plan.get("output", ())
    cgroup: dict[str, list[list[object]]] | None = plan["cgroup"]  # type: ignore[assignment]
    if cgroup is not None:
        directories = [[name, path, ()] for name, path, _values in cgroup["directories"]]
        known["cgroup"] = {**cgroup, "directories": directories}
    return known


def _lead(plan: dict[str, object], start: int, gate: int, streams: list[int]) -> None:
    """Become the job's command."""
    leader: list[object] = plan["leader"]  # type: ignore[assignment]
    os.setsid()
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
    execute(leader[:-1])
    os.write(start, LEADER)  # the shim learns our pid from the packet's credentials
    os.write(gate, READY)
    if os.read(gate, 1) == GO:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        execute(leader[-1:])


def report(start: int, error: StepError) -> None:
    """Tell the shim which step failed."""
    os.write(start, encode([error.step, error.errno, error.path]))

"""What makes a forked shim light and quick: the fork server has done it all before.

Theory. A fork shares every page until somebody writes to it; then the kernel copies it, which
costs 4 kB and some microseconds, and a shim and its init do little else. Much of what Python writes
when it first runs some code is the same each time: it specializes bytecode in place (PEP 659),
fills the type cache, versions types, interns strings. So the fork server lives through some
throw-away jobs in its own process, shim and init both, before it forks the first real one.

For the same reason init is forked as soon as there is a shim: of every page that the shim has
copied before and writes to after, the copy is left to init.
"""

import gc
import os
import sys

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_shim import claim, dense, init, launcher, shim, syscalls
from jobs_shim.asleep import Asleep
from jobs_shim.lean import signal, socket, socket_pair
from jobs_shim.supervisors import Supervisors

_TIMES = 12  # Python 3.11 specializes a function when it is called for the eighth time
_STEPS = [["unshare", 0]]  # which leaves nothing
_PLAN = {
    "job": "warm-up",
    "boot": "",
    "cgroup": None,
    "own_pids": True,
    "timeout_s": None,
    "grace_s": 1.0,
    "leader": [["exec", ["/bin/sh", "-c", "echo out; echo err >&2"], {}]],
}

_WISHES = (protocol.pack(protocol.WATCH, {"offset": 1 << 40}), protocol.pack(protocol.USAGE, {}))


def up() -> None:
    """Live through throw-away jobs; where there is no room for their files, do without.

    Standard error and the descriptors below it are the only ones open before and after.
    """
    directory = f"{os.environ.get('TMPDIR', '/tmp')}/jobs-warm-up-{os.urandom(8).hex()}"  # noqa: S108
    place = {"unified": False, "directories": [["", f"{directory}/cgroup", []]]}
    try:
        os.mkdir(directory, 0o700)
    except OSError:
        return
    stderr = os.dup(2)
    try:
        for cgroup in (None, place):
            for _ in range(_TIMES):
                for be in (_be_shim, _be_launcher, _be_init):
                    be(directory, cgroup)
                    _be_again_as_before(stderr)
    except OSError:
        _be_again_as_before(stderr)
    finally:
        _empty(directory)
        os.rmdir(directory)
        os.close(stderr)


def _be_shim(directory: str, cgroup: object) -> None:
    connection = _launching(directory, {**_PLAN, "cgroup": cgroup})
    claimed = shim.prepare(_STEPS, connection, os.open(directory, os.O_PATH))
    if claimed is None:
        raise OSError
    job = shim.wake(claimed)
    job.run()
    _come_back(job)
    _empty(directory)


def _come_back(job: shim.Shim) -> None:
    """Do as supervisors do that go, are started again and ask, and as the shim does then."""
    forked = job.forked
    (forked.start, _theirs), (forked.channel, _theirs) = socket_pair(), socket_pair()
    connection, first = socket_pair()
    forked.pipes = {}
    listener = claim.listen(job.directory)
    asleep = Asleep(b" warm-up", forked, listener, connection)
    os.close(first)
    supervisor = _connect(job.directory)
    supervisor.send(_WISHES[0])
    asleep.sleep()
    job.supervisors = Supervisors(job, listener)
    other = _connect(job.directory)
    job.events.wait(0)
    for packet in _WISHES:
        other.send(packet)
        job.events.wait(0)
    other.close()
    job.events.wait(0)
    supervisor.detach()  # closed with the others


def _connect(directory: str) -> socket.socket:
    fd = os.open(directory, os.O_PATH)
    supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor.connect(f"/proc/self/fd/{fd}/{files.SOCKET}")
    return supervisor


def _be_launcher(directory: str, cgroup: object) -> None:
    start, _shims_start = socket_pair()
    connection = _launching(directory, {**_PLAN, "cgroup": cgroup}, prepared=True)
    launcher.claim_for(start, (connection, *_shim()))
    _empty(directory)


def _be_init(directory: str, cgroup: object) -> None:
    channel, _shims_channel = socket_pair(socket.SOCK_NONBLOCK)
    start, _shims_start = socket_pair()
    signal.pthread_sigmask(signal.SIG_BLOCK, init.AWAITED)
    ours = (channel, start, *socket_pair(), os.open(directory, os.O_PATH), os.dup(0), os.dup(0))
    connection = _launching(directory, {**_PLAN, "cgroup": cgroup, "leader": _STEPS})
    init.run((connection, *_shim()), ours, (os.dup(0),), own_pids=True)
    _empty(directory)


def _launching(directory: str, plan: dict[str, object], *, prepared: bool = False) -> int:
    """Give a shim's end of a connection on which a job has come."""
    mine, supervisors = socket_pair()
    supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, supervisors)
    if not prepared:
        _say(
            supervisor,
            protocol.PREPARE,
            {"soon": True},
            [_memory(_STEPS), *_cgroups(directory, plan)],
        )
    fds = [_memory(plan), os.open(directory, os.O_PATH)]
    _say(supervisor, protocol.LAUNCH, {"dir": directory}, fds)
    supervisor.detach()  # closed with the others
    return mine


def _say(supervisor: socket.socket, kind: str, body: protocol.Body, fds: list[int]) -> None:
    packed = b"".join(fd.to_bytes(4, sys.byteorder) for fd in fds)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
    supervisor.sendmsg([protocol.pack(kind, body)], rights)


def _cgroups(directory: str, plan: dict[str, object]) -> list[int]:
    if plan["cgroup"] is None:
        return []
    os.mkdir(f"{directory}/cgroup")
    os.close(os.open(f"{directory}/cgroup.procs", os.O_CREAT))
    return [os.open(directory, os.O_PATH)]


def _memory(content: object) -> int:
    fd = os.memfd_create("content")
    os.write(fd, files.encode(content))
    return fd


def _shim() -> tuple[int, int]:
    # Not our own pid: a launcher whose parent is its shim has lost its init.
    return os.open("/proc/self/stat", os.O_RDONLY), os.getppid()


def _be_again_as_before(stderr: int) -> None:
    os.dup2(stderr, 2)
    syscalls.close_range(stderr + 1, 0xFFFF_FFFF)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _empty(directory: str) -> None:
    for name in os.listdir(directory):
        if name == "cgroup":
            os.rmdir(f"{directory}/{name}")
        else:
            os.unlink(f"{directory}/{name}")


def freeze() -> None:
    """Leave the objects that there are alone from now on: a collection would write to each."""
    gc.collect()
    dense.fill_holes()
    gc.disable()
    gc.freeze()

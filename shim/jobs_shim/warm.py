"""What makes a forked shim light and quick: the fork server has done it all before.

Theory. A fork shares every page until somebody writes to it; then the kernel copies it, which
costs 4 kB and some microseconds, and a shim and its init do little else. Much of what Python writes
when it first runs some code is the same each time: it specializes bytecode in place (PEP 659),
fills the type cache, versions types, interns strings. So the fork server lives through some
throw-away jobs in its own process, shim and init both, before it forks the first real one.

For the same reason init is forked as soon as there is a shim: of every page that the shim has
copied before and writes to after, the copy is left to init.
"""

import _signal as signal  # see jobs_shim
import gc
import os

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_shim import dense, init, shim, syscalls
from jobs_shim.cgroup import Cgroup

_TIMES = 12  # Python 3.11 specializes a function when it is called for the eighth time
_STEPS = [["unshare", 0]]  # which leaves nothing
_PLAN = {
    "job": "warm-up",
    "boot": "",
    "cgroup": None,
    "own_pids": True,
    "timeout_s": None,
    "grace_s": 1.0,
    "shim": _STEPS,
    "init": _STEPS,
    "leader": [["exec", ["/bin/sh", "-c", "echo out; echo err >&2"], {}]],
}


def up() -> None:
    """Live through throw-away jobs; where there is no room for their files, do without."""
    directory = f"{os.environ.get('TMPDIR', '/tmp')}/jobs-warm-up-{os.getpid()}"  # noqa: S108
    try:
        os.mkdir(directory, 0o700)  # fails, if somebody has put something there
        try:
            for _ in range(_TIMES):
                _be_shim(directory)
                _be_init()
        finally:
            _empty(directory)
            os.rmdir(directory)
    except OSError:
        pass


def _be_shim(directory: str) -> None:
    mine, supervisors = shim.socket_pair()
    stderr, plan = os.dup(2), os.memfd_create("plan")
    os.write(plan, files.encode(_PLAN))
    packet = protocol.pack(protocol.LAUNCH, {"dir": directory})
    job = shim.prepare(bytearray(packet), mine, plan)
    job.run()
    os.dup2(stderr, 2)
    sockets = (mine, supervisors, job.channel, job.listener.detach())
    for fd in (stderr, *sockets, job.init_fd, job.lock, *job.pipes, *job.output.files):
        os.close(fd)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    _empty(directory)


def _be_init() -> None:
    channel, shims_channel = shim.socket_pair()
    start, shims_start = shim.socket_pair()
    stderr = os.dup(2)
    os.write(shims_channel, init.GO)
    ours = (channel, start, os.dup(0), os.dup(0))
    init.run({**_PLAN, "leader": []}, ours, (os.dup(0),), cgroup=Cgroup(None), own_pids=True)
    os.dup2(stderr, 2)
    for fd in (stderr, channel, shims_channel, shims_start):
        os.close(fd)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _empty(directory: str) -> None:
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")


def freeze() -> None:
    """Leave the objects that there are alone from now on: a collection would write to each."""
    gc.collect()
    dense.fill_holes()
    gc.disable()
    gc.freeze()

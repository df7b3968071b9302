"""What makes a forked shim light and quick: the fork server has done it all before.

Theory. A fork shares every page until somebody writes to it; then the kernel copies it, which
costs 4 kB and some microseconds, and a shim and its init do little else. Much of what Python writes
when it first runs some code is the same each time: it specializes bytecode in place (PEP 659),
fills the type cache, versions types, interns strings, binds symbols of libraries. So the fork
server lives through some throw-away jobs in its own process, shim and init both, before it forks
the first real one. That is also a test that it can.
"""

import gc
import os
import _signal as signal  # see jobs_shim

from jobs_proto import files
from jobs_shim import dense, init, shim, syscalls

_TIMES = 12  # Python 3.11 specializes a function when it is called for the eighth time
_LEADER = [["exec", ["/bin/sh", "-c", "echo out; echo err >&2"], {}]]
_PLAN = {
    "job": "warm-up",
    "boot": "",
    "cgroup": None,
    "own_pids": True,
    "timeout_s": None,
    "grace_s": 1.0,
    "shim": [["unshare", 0]],
    "init": [["unshare", 0]],
    "leader": _LEADER,
}


def up() -> None:
    """Live through throw-away jobs; where there is no room for their files, do without."""
    directory = f"/tmp/jobs-warm-up-{os.getpid()}"
    try:
        for _ in range(_TIMES):
            os.mkdir(directory, 0o700)
            _be_shim(directory)
            _be_init()
            os.rmdir(directory)
    except OSError:
        pass


def _be_shim(directory: str) -> None:
    ours, supervisors = shim.socket_pair()
    plan = files.decode(files.encode(_PLAN))
    job = shim.Shim(directory, plan, ours)
    job.run()
    for fd in (ours, supervisors, job.channel, job.init_fd, job.lock, job.listener.detach(), *job.pipes):
        os.close(fd)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")


def _be_init() -> None:
    channel, shims = shim.socket_pair()
    start, shims_start = shim.socket_pair()
    os.write(shims, init.GO)
    init.run({**_PLAN, "leader": []}, channel, start, track=None, own_pids=True)
    for fd in (channel, shims, shims_start):
        os.close(fd)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def freeze() -> None:
    """Leave the objects that there are alone from now on: a collection would write to each."""
    gc.collect()
    if "NOFILL" not in os.environ: dense.fill_holes()
    gc.disable()
    gc.freeze()

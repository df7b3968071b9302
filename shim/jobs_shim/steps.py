"""The set-up of a job, as a plan: a list of steps that the supervisor writes and init executes.

A step is `[name, arguments…]`, plain data: it can be printed (`--dry-run`) and tested without root.
`STEPS` gives each name its function. A step that fails raises `StepError`, which is how a person
comes to read "cannot change to the directory /nowhere" and not exit code 125.
"""

import _signal as signal  # see jobs_shim
import os
import resource

from jobs_shim import confine, mounts, syscalls

# What Python and the fork server ignore or handle; a job starts as a shell would start it.
_CAUGHT = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGCHLD,
)


class StepError(Exception):
    """A step of the plan failed."""

    def __init__(self, step: str, error: OSError) -> None:
        super().__init__(step, error)
        self.step = step
        self.errno = error.errno or 0
        self.path = error.filename


def _map_ids(uid: int, gid: int) -> None:
    """Be in the new user namespace who one was outside; user_namespaces(7)."""
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{uid} {uid} 1"),
        ("/proc/self/gid_map", f"{gid} {gid} 1"),
    ):
        _write(path, text)


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def _attach(directory: str) -> None:
    """Move this process into a cgroup: cgroups(7), `cgroup.procs`."""
    _write(f"{directory}/cgroup.procs", "0")


def _user(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _rlimit(kind: int, soft: int, hard: int) -> None:
    resource.setrlimit(kind, (soft, hard))


def _exec(argv: list[str], env: dict[str, str]) -> None:
    for number in _CAUGHT:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        error.filename = argv[0]
        raise


STEPS = {
    "unshare": syscalls.unshare,
    "map_ids": _map_ids,
    "mount": syscalls.mount,
    "sethostname": syscalls.sethostname,
    "attach": _attach,
    "rlimit": _rlimit,
    "umask": os.umask,
    "user": _user,
    "no_new_privs": lambda: syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1),
    "chdir": os.chdir,
    "exec": _exec,
    **mounts.STEPS,
    **confine.STEPS,
}


def execute(plan: list[list[object]]) -> None:
    """Execute each step in turn.

    Raises:
        StepError: a step failed; those after it were not tried.
    """
    for name, *arguments in plan:
        try:
            STEPS[name](*arguments)  # type: ignore[index,operator]
        except OSError as error:
            raise StepError(str(name), error) from None

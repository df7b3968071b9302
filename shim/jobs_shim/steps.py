"""The set-up of a job, as a plan: steps that the supervisor writes and shim and launcher execute.

A step is `[name, arguments…]`, plain data: it can be printed (`--dry-run`) and tested without root.
`STEPS` gives each name its function. A step that fails raises `StepError`, which is how a person
comes to read "cannot change to the directory /nowhere" and not exit code 125.

A step runs in the job's mount namespace and as the job's user, so none may import anything: the
module's file may not be there to be read.
"""

import errno
import os
import resource

from jobs_shim import confine, mounts, syscalls
from jobs_shim.cgroup import write
from jobs_shim.lean import signal

IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
"""What the fork server, a shim and init ignore; a job starts with every signal at its default."""


_SHOWN = 1000
"""Characters of a path that are reported: what was asked for may be megabytes, a packet not."""


class StepError(Exception):
    """A step of the plan failed.

    Attributes:
        step: its name.
        errno: why.
        path: what it was about, if it was about something; the start of it, if it is long.
    """

    def __init__(self, step: str, number: int, path: object) -> None:
        super().__init__(step, number, path)
        self.step = step
        self.errno = number
        self.path = None if path is None else str(path)[:_SHOWN]


def _map_ids(uid: int, gid: int) -> None:
    """Be in the new user namespace who one was outside; user_namespaces(7)."""
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{uid} {uid} 1"),
        ("/proc/self/gid_map", f"{gid} {gid} 1"),
    ):
        write(path, text)


def _user(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _rlimit(kind: int, soft: int, hard: int) -> None:
    resource.setrlimit(kind, (soft, hard))


def _exec(argv: list[str], env: dict[str, str]) -> None:
    """Find the program as execvp(3) does, in the job's own PATH, and execute it."""
    for number in (*IGNORED, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    name = argv[0]
    if "/" in name:
        os.execve(name, argv, env)  # no shell is what we want
    why = errno.ENOENT
    for folder in env.get("PATH", os.defpath).split(":"):
        try:
            os.execve(f"{folder or '.'}/{name}", argv, env)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except PermissionError:
            why = errno.EACCES  # unless it is found further on
    raise OSError(why, os.strerror(why), name)


STEPS = {
    "unshare": syscalls.unshare,
    "map_ids": _map_ids,
    "mount": syscalls.mount,
    "sethostname": syscalls.sethostname,
    "rlimit": _rlimit,
    "umask": os.umask,
    "user": _user,
    "no_new_privs": lambda: syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1),
    "chdir": os.chdir,
    "exec": _exec,
    **mounts.STEPS,
    **confine.STEPS,
}


def execute(plan: object) -> None:
    """Execute each step of a list in turn.

    Raises:
        StepError: a step failed; those after it were not tried.
    """
    for name, *arguments in plan:  # type: ignore[attr-defined]
        try:
            STEPS[name](*arguments)  # type: ignore[operator]
        except OSError as error:
            raise StepError(name, error.errno or 0, error.filename) from None
        except Exception as error:  # no such step, or not with these arguments: a NUL in one
            raise StepError(str(name), errno.EINVAL, error) from None

"""Named places in the code where a test may have a process die. Shim-safe; off but in tests.

Theory. What must hold "whatever is killed, and when" is only shown by killing at every step that
means something. Each such step is a call, `failpoint("exit.renamed", job)`. The environment
variable JOBS_FAILPOINTS names a folder, looked at once, at import; without it a call does nothing.
In that folder, which a test owns:

    armed/NAME      put there by the test: the next process that comes to NAME dies, by SIGKILL
    struck/NAME.N   moved there by the one that dies; N is random; holds which job it was about, or
                    the pid of the shim whose family it belonged to
    jobs/PID        the job of that shim, from when it has one
    reached/NAME    somebody came by
    times           if it is there: nobody dies, and each who comes by writes down when, and where

The move is what makes it one process, whichever of the supervisor, the fork server, the shims and
the inits comes first. tests/faults/README.md lists the names.
"""

import os
import time

VARIABLE = "JOBS_FAILPOINTS"

_PR_SET_SECCOMP = 22  # prctl(2)
_SECCOMP_MODE_STRICT = 1
_SIGKILL = 9

_folder = os.environ.get(VARIABLE)
_reached: set[str] = set()
_shim = 0


def failpoint(name: str, about: str = "") -> None:
    """Die here, if a test has armed this place.

    Args:
        name: of the place.
        about: the id of the job that this is about, if it is about one; a shim need not say it.
    """
    if _folder is not None:
        _come_by(_folder, name, about)


def shim_forked() -> None:
    """Say that this process is a shim from now on, and that those which it forks are its family."""
    global _shim, _folder  # noqa: PLW0603  # a shim is a process; that is its one object
    if _folder is not None:
        _shim = os.getpid()
        # In the job's mounts its path may be something else's.
        _folder = f"/proc/self/fd/{os.open(_folder, os.O_PATH | os.O_CLOEXEC)}"


def concerning(job: str) -> None:
    """Say which job this shim's family is about."""
    if _shim:
        _write(f"{_folder}/jobs/{_shim}", job)


def environment() -> dict[str, str]:
    """Give what a process that is started with an environment of its own needs of ours."""
    return {} if _folder is None else {VARIABLE: _folder}


def _come_by(folder: str, name: str, about: str) -> None:
    if name.startswith(("shim.", "launcher.", "init.")) and not _shim:
        return  # the fork server, which only tries these ways (`jobs_shim.warm`)
    if _write_time(f"{folder}/times", name):
        return
    if name not in _reached:
        _reached.add(name)
        _write(f"{folder}/reached/{name}", "")
    struck = f"{folder}/struck/{name}.{os.urandom(4).hex()}"
    try:
        os.rename(f"{folder}/armed/{name}", struck)  # noqa: PTH104  # no pathlib in a shim
    except FileNotFoundError:
        return
    _write(struck, about or str(_shim or ""))
    _die()


def _write_time(path: str, name: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    os.write(fd, f"{time.monotonic_ns()} {name}\n".encode())
    os.close(fd)
    return True


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    os.write(fd, text.encode())
    os.close(fd)


def _die() -> None:
    os.kill(os.getpid(), _SIGKILL)
    # Still here: we are pid 1 of a namespace, which no signal from within kills. What a process
    # in strict mode must not call, seccomp(2), kills even that one, as SIGKILL would.
    import ctypes  # noqa: PLC0415  # only who dies here needs it

    ctypes.CDLL(None).prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_STRICT)
    os.getpid()

"""What this host lets us do, found out by doing it: documentation of kernels is not the kernel.

root      pid, mount, ipc, uts and cgroup namespaces
userns    the same, within a user namespace of one's own: what an ordinary user can have
none      no namespaces
"""

import os

from jobs_shim import syscalls
from jobs_shim.steps import StepError, execute

NAMESPACES = (
    syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
)


def _try(mode: str) -> str | None:
    """Set up an empty job's namespaces in a child; give the reason if it cannot be done."""
    read, write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            _set_up(mode)
        except StepError as error:
            os.write(write, f"{error.step}: {os.strerror(error.errno)}".encode())
        except OSError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        why = file.read().decode()
    os.waitpid(child, 0)
    return why or None


def _set_up(mode: str) -> None:
    if mode == "userns":
        ids = ["map_ids", os.geteuid(), os.getegid()]
        execute([["unshare", syscalls.CLONE_NEWUSER], ids])
    execute([["unshare", NAMESPACES]])
    inner = os.fork()
    if inner == 0:
        try:
            execute(
                [
                    ["mount", "none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE, ""],
                    ["mount", "proc", "/proc", "proc", syscalls.MS_NOSUID, ""],
                ]
            )
        except StepError as error:
            os._exit(error.errno)
        os._exit(0)
    _pid, status = os.waitpid(inner, 0)
    if status:
        errno = os.waitstatus_to_exitcode(status)
        raise StepError("mount /proc", errno, None)


def best_mode() -> tuple[str, str]:
    """Give the best mode that works here, and why a better one does not (empty if it is root)."""
    reasons: list[str] = []
    for mode in ("root", "userns"):
        why = _try(mode)
        if why is None:
            return mode, "; ".join(reasons)
        reasons.append(f"{mode}: {why}")
    return "none", "; ".join(reasons)

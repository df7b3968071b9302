"""The system calls that Python 3.11 does not have: one wrapper each, the kernel's own name.

Each raises OSError with the kernel's errno, and the path it was about where there is one.

Numbers are passed as they are: ctypes makes each a C int, and libffi fills a register with it. To
say c_ulong of each would make an object of each, in processes that pay for every object.
"""

import ctypes
import os

# Each function is looked up now: looking one up in a fork would write to pages that it shares.
_libc = ctypes.CDLL(None, use_errno=True)
_unshare = _libc.unshare
_mount = _libc.mount
_prctl = _libc.prctl
_sethostname = _libc.sethostname
_close_range = _libc.close_range
_syscall = ctypes.PyDLL(None, use_errno=True).syscall  # without letting go of the interpreter
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_CLONE3 = 435  # its number is the same on every architecture
_CLONE_INTO_CGROUP = 0x2_0000_0000
_SIGCHLD = 17  # x86-64 and arm64


class _CloneArguments(ctypes.Structure):
    """struct clone_args, clone3(2): eleven numbers, most of which are 0 for us."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 3),
        ("exit_signal", ctypes.c_uint64),
        ("unused_either", ctypes.c_uint64 * 5),
        ("cgroup", ctypes.c_uint64),
    )


_CLONE = _CloneArguments(flags=_CLONE_INTO_CGROUP, exit_signal=_SIGCHLD)
_CLONE_POINTER = ctypes.byref(_CLONE)
_CLONE_SIZE = ctypes.sizeof(_CLONE)


def _check(result: int, path: str | None = None) -> None:
    if result == -1:
        errno = ctypes.get_errno()
        if path is None:
            raise OSError(errno, os.strerror(errno))
        raise OSError(errno, os.strerror(errno), path)


def unshare(flags: int) -> None:
    """unshare(2): leave the namespaces of `flags` (CLONE_NEW…) for new ones."""
    _check(_unshare(flags))


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """mount(2); `target` is the path in the error."""
    where = target.encode("utf-8", "surrogateescape")
    what = source.encode("utf-8", "surrogateescape")
    _check(_mount(what, where, fstype.encode(), flags, data.encode()), target)


def prctl(option: int, value: int | bytes) -> None:
    """prctl(2) with one argument."""
    _check(_prctl(option, value, 0, 0, 0))


def sethostname(name: str) -> None:
    """sethostname(2), within this UTS namespace."""
    raw = name.encode()
    _check(_sethostname(raw, len(raw)))


def close_range(first: int, last: int) -> None:
    """close_range(2): close every descriptor from `first` to `last`, both included."""
    _check(_close_range(ctypes.c_uint(first), ctypes.c_uint(last), 0))


def clone_into(cgroup: int) -> int:
    """clone3(2) as a fork(2) whose child is born in a cgroup; gives its pid, and 0 in the child.

    Moving a process by `cgroup.procs` stops every fork and exit of the host for an RCU grace
    period, some 5 ms; being born somewhere costs nothing. Python lets a caller do the fork, if it
    calls what os.fork calls around it. libc is not asked, which is right in a process of one
    thread only: what its fork does beyond the kernel's is to settle the locks of others.

    Args:
        cgroup: a descriptor of the directory of a cgroup v2.
    """
    _CLONE.cgroup = cgroup
    _before_fork()
    pid = int(_syscall(_CLONE3, _CLONE_POINTER, _CLONE_SIZE))
    if pid == 0:
        _after_fork_child()
    else:
        _after_fork_parent()
    _check(pid)
    return pid

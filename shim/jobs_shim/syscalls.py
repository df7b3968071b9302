"""The system calls that Python 3.11 does not have: one wrapper each, the kernel's own name.

Each raises OSError with the kernel's errno, and the path it was about where there is one.

Numbers are passed as they are: ctypes makes each a C int, and libffi fills a register with it. To
say c_ulong of each would make an object of each, in processes that pay for every object.
"""

import ctypes
import errno
import os
import resource

# Each function is looked up now: looking one up in a fork would write to pages that it shares.
_libc = ctypes.CDLL(None, use_errno=True)
_unshare = _libc.unshare
_setns = _libc.setns
_mount = _libc.mount
_prctl = _libc.prctl
_sethostname = _libc.sethostname
_close_range = _libc.close_range
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)  # off_t
_syscall = ctypes.PyDLL(None, use_errno=True).syscall  # without letting go of the interpreter

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

_PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

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


_PLAIN = _CloneArguments(exit_signal=_SIGCHLD)
_BORN = _CloneArguments(flags=_CLONE_INTO_CGROUP, exit_signal=_SIGCHLD)
_AS_PLAIN, _AS_BORN = map(ctypes.byref, (_PLAIN, _BORN))
_CLONE_SIZE = ctypes.sizeof(_PLAIN)


def _check(result: int, path: str | None = None) -> None:
    if result == -1:
        number = ctypes.get_errno()
        if path is None:
            raise OSError(number, os.strerror(number))
        raise OSError(number, os.strerror(number), path)


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` (CLONE_NEW…) for new ones: unshare(2)."""
    _check(_unshare(flags))


def setns(fd: int, flags: int) -> None:
    """Enter namespaces of the process of a pidfd, by their flags (CLONE_NEW…): setns(2)."""
    _check(_setns(fd, flags))


def mount(source: str, target: str, fstype: str, flags: int, data: str) -> None:
    """Mount as mount(2) does; `target` is the path in the error."""
    where = target.encode("utf-8", "surrogateescape")
    what = source.encode("utf-8", "surrogateescape")
    _check(_mount(what, where, fstype.encode(), flags, data.encode()), target)


def prctl(option: int, value: int | bytes) -> None:
    """Change something of this process by prctl(2), with one argument."""
    _check(_prctl(option, value, 0, 0, 0))


def sethostname(name: str) -> None:
    """Set the name of the host in this UTS namespace: sethostname(2)."""
    raw = name.encode()
    _check(_sethostname(raw, len(raw)))


def allow_all_files() -> None:
    """Have as many descriptors as we may: who forked us may have left itself few, for a while."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def close_range(first: int, last: int) -> None:
    """Close every descriptor from `first` to `last`, both included: close_range(2)."""
    _check(_close_range(ctypes.c_uint(first), ctypes.c_uint(last), 0))


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Give back the blocks of a part of a file, which then reads as zeros: fallocate(2)."""
    _check(_fallocate(fd, _PUNCH_HOLE, offset, size))


def fork(cgroup: int = -1) -> int:
    """Fork by clone3(2) alone; gives the child's pid, and 0 in the child.

    What os.fork does beyond it (PyOS_AfterFork_Child, and libc's own) is to put in order what other
    threads may have been about to do: their locks, their state, pending signals of handlers. The
    processes of this package have one thread, no handlers and no at-fork functions, so that there
    is nothing to be done; doing it would cost each of them some 40 kB and 0.1 ms.

    Moving a process by `cgroup.procs` stops every fork and exit of the host for an RCU grace
    period, some 5 ms; being born somewhere (CLONE_INTO_CGROUP) costs nothing.

    Args:
        cgroup: a descriptor of the directory of a cgroup v2 to be born in; -1: ours. Where that is
            refused, it is born in ours all the same, and has to enter that by itself.
    """
    if cgroup >= 0:
        _BORN.cgroup = cgroup
        pid = int(_syscall(_CLONE3, _AS_BORN, _CLONE_SIZE))
        if pid >= 0:
            return pid
    try:
        pid = int(_syscall(_CLONE3, _AS_PLAIN, _CLONE_SIZE))
        _check(pid)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        pid = os.fork()  # a seccomp filter without clone3(2)
    return pid

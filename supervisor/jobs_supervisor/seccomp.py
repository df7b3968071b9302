"""The system call filter of jobs: compiled here by libseccomp, loaded by the shim as plain BPF.

Theory. Everything is allowed but what stands in `DENIED`: calls that change the host, that give
namespaces (which open the kernel's most attacked parts to anybody), that look into other
processes past ptrace(2), or that have no use in a job and a history of faults. They fail with
EPERM, as if a capability were missing, which for most is what happens anyway: the filter is the
second lock on the same door. A capability that a job was given on purpose (`--cap-add`) opens both.

Arguments are compared in their lower 32 bits, because that is what the kernel looks at: a filter
that compares 64 is passed by with a bit set that nobody reads.
"""

import errno
import os
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

LOW = 0xFFFF_FFFF

_BINARY_TREE = 2
"""Of the system calls, and not a chain: the kernel goes through it for each number at load time."""

DENIED: Final = MappingProxyType(
    {
        "SYS_ADMIN": (
            "mount umount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick "
            "mount_setattr unshare setns quotactl quotactl_fd swapon swapoff lookup_dcookie "
            "nfsservctl vhangup"
        ),
        "DAC_READ_SEARCH": "open_by_handle_at",
        "SYS_PTRACE": "process_vm_readv process_vm_writev kcmp userfaultfd",
        "SYS_MODULE": "init_module finit_module delete_module",
        "SYS_BOOT": "reboot kexec_load kexec_file_load",
        "SYS_TIME": (
            "settimeofday stime clock_settime clock_settime64 clock_adjtime clock_adjtime64 "
            "adjtimex"
        ),
        "SYS_RAWIO": "iopl ioperm",
        "SYS_PACCT": "acct",
        "SYSLOG": "syslog",
        "BPF": "bpf",
        "PERFMON": "perf_event_open",
        "": (
            "keyctl add_key request_key io_uring_setup io_uring_enter io_uring_register "
            "vm86 vm86old"
        ),
    }
)
"""System calls that fail with EPERM, by the capability that lifts this; "": none does."""

NAMESPACES = MappingProxyType(
    {
        "CLONE_NEWNS": 0x0002_0000,
        "CLONE_NEWCGROUP": 0x0200_0000,
        "CLONE_NEWUTS": 0x0400_0000,
        "CLONE_NEWIPC": 0x0800_0000,
        "CLONE_NEWUSER": 0x1000_0000,
        "CLONE_NEWPID": 0x2000_0000,
        "CLONE_NEWNET": 0x4000_0000,
    }
)
"""Flags with which clone(2) fails; SYS_ADMIN lifts this. clone3(2), whose flags no filter can
read, does not exist for a job (ENOSYS): C libraries then take clone."""

TERMINAL_IOCTLS = MappingProxyType({"TIOCSTI": 0x5412, "TIOCLINUX": 0x541C})
"""Requests that put words into the mouth of whoever owns the terminal."""

PERSONALITIES = 0x0004_0000 | 0x0002_0000 | 0x0008  # ADDR_NO_RANDOMIZE, UNAME26, PER_LINUX32
"""Bits of personality(2) that may be set; 0xffffffff, which only asks, may be given too."""

ALSO = MappingProxyType({"x86_64": "X86", "aarch64": "ARM"})
"""The 32-bit architecture whose programs a machine runs too, and so is filtered too."""


class UnavailableError(Exception):
    """No filter can be made here; the message says what to install."""


@cache
def compiled(machine: str, lifted: frozenset[str]) -> bytes:
    """Give the filter as BPF: an array of `struct sock_filter`, seccomp(2).

    Args:
        machine: `x86_64` or `aarch64`, as uname(2) has it.
        lifted: capabilities that a job was given on purpose, by their names.

    Raises:
        UnavailableError: libseccomp is not there, or does not know this machine.
    """
    library = _library()
    lifted = lifted & DENIED.keys()
    try:
        bpf = library.SyscallFilter(library.ALLOW)
        bpf.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.ENOSYS))
        bpf.set_attr(library.Attr.CTL_OPTIMIZE, _BINARY_TREE)
        _set_architectures(library, bpf, machine)
        for action, name, *arguments in _rules(library, lifted):
            bpf.add_rule(library.ERRNO(action), name, *arguments)
        fd = os.memfd_create("jobs-seccomp", os.MFD_CLOEXEC)
        with os.fdopen(fd, "w+b", buffering=0) as file:
            bpf.export_bpf(file)
            return os.pread(fd, os.fstat(fd).st_size, 0)
    except (OSError, ValueError, AttributeError) as error:
        raise UnavailableError(f"libseccomp cannot make it: {error}") from None


def of_this_machine(lifted: frozenset[str] = frozenset()) -> bytes:
    """Give the filter for jobs on this machine; as `compiled`."""
    return compiled(os.uname().machine, lifted)


def _library() -> Any:
    try:
        import pyseccomp  # noqa: PLC0415  # loads libseccomp.so.2, which may not be there
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise UnavailableError(
            f"libseccomp.so.2 cannot be loaded ({error}); install it: the Debian package "
            "libseccomp2, libseccomp in other distributions"
        ) from None
    return pyseccomp


def _set_architectures(library: Any, bpf: Any, machine: str) -> None:
    if machine not in ALSO:
        raise UnavailableError(f"this machine is {machine}; {' and '.join(ALSO)} are known")
    wanted = {getattr(library.Arch, name) for name in (machine.upper(), ALSO[machine])}
    for arch in wanted:
        if not bpf.exist_arch(arch):
            bpf.add_arch(arch)
    if library.system_arch() not in wanted:
        bpf.remove_arch(library.system_arch())


def _rules(library: Any, lifted: frozenset[str]) -> "Iterator[tuple[Any, ...]]":
    """Give each rule: errno, system call, comparisons that must all hold."""

    def low(argument: int, mask: int, value: int) -> Any:
        return library.Arg(argument, library.MASKED_EQ, mask, value)

    for capability, names in DENIED.items():
        if capability not in lifted:
            yield from ((errno.EPERM, name) for name in names.split())
    if "SYS_ADMIN" not in lifted:
        yield errno.ENOSYS, "clone3"
        for flag in NAMESPACES.values():
            yield errno.EPERM, "clone", low(0, flag, flag)
    for request in TERMINAL_IOCTLS.values():
        yield errno.EPERM, "ioctl", low(1, LOW, request)
    for mask, value in unusual(PERSONALITIES):
        yield errno.EPERM, "personality", low(0, mask, value)


def unusual(allowed: int) -> "Iterator[tuple[int, int]]":
    """Give comparisons (mask, value), one of which holds for each number that is not harmless.

    Harmless is what has only bits of `allowed`, and the number of ones only. The other bits must
    then be all alike: seen as a ring, nowhere a one before a nought. And if they are ones, so must
    those of `allowed` be.
    """
    bits = [1 << n for n in range(32)]
    others = [bit for bit in bits if not bit & allowed]
    for bit, following in zip(others, others[1:] + others[:1], strict=True):
        yield bit | following, bit
    for bit in bits:
        if bit & allowed:
            yield others[0] | bit, others[0]

"""The steps that take rights away: capabilities(7) and seccomp(2); and the loopback device."""

import _socket as socket
import ctypes
import errno as errors
import fcntl
import os
import struct

from jobs_shim import syscalls

# Looked up now, as in `syscalls`.
_libc = ctypes.CDLL(None, use_errno=True)
_capset = _libc.capset
_prctl = _libc.prctl

_PR_SET_KEEPCAPS = 8
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_SOCK_FILTER = 8  # bytes in a struct sock_filter
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def _check(result: int) -> None:
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def bounding(keep: int) -> None:
    """Drop from the bounding set all but the capabilities in `keep` (bit n is number n).

    And let a change of the user leave the permitted set alone, until `capabilities` sets it.
    """
    number = 0
    try:
        while True:
            if not keep >> number & 1:
                syscalls.prctl(_PR_CAPBSET_DROP, number)
            number += 1
    except OSError as error:
        if error.errno != errors.EINVAL:  # there are no more of them
            raise
    syscalls.prctl(_PR_SET_KEEPCAPS, 1)


def capabilities(keep: int, ambient: bool) -> None:  # noqa: FBT001  # a step's argument
    """Have these capabilities (bit n is number n) and no others.

    Args:
        keep: for the permitted and the effective set.
        ambient: keep them across exec(2), for a user that is not root.
    """
    inheritable = keep if ambient else 0
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    sets = (keep, keep, inheritable)
    low = (each & 0xFFFF_FFFF for each in sets)
    high = (each >> 32 for each in sets)
    _check(_capset(header, struct.pack("=6I", *low, *high)))
    number = 0
    while ambient and keep >> number:
        if keep >> number & 1:
            _check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0))
        number += 1


def seccomp(program: bytes) -> None:
    """Load a filter: from here on only what it allows."""
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a short, and an aligned pointer
    fprog = struct.pack("@HP", len(program) // _SOCK_FILTER, ctypes.addressof(buffer))
    _check(_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0))


def loopback() -> None:
    """Bring up the one device of a new network namespace: netdevice(7)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    request = struct.pack("16sh14x", b"lo", 0)
    (flags,) = struct.unpack_from("=h", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
    fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    sock.close()


STEPS = {
    "bounding": bounding,
    "capabilities": capabilities,
    "seccomp": seccomp,
    "loopback": loopback,
}

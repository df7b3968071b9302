"""The system calls around mounts and paths by descriptor: one wrapper each, as in `syscalls`.

Descriptors, because a path that a job's user may write to can be another one a moment later.
"""

import ctypes
import os

# Looked up now, as in `syscalls`.
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_umount2 = _libc.umount2

# The same on every architecture, but for the first.
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}[os.uname().machine]
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_OPENAT2 = 437
_MOUNT_SETATTR = 442

AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 0x1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_MNT_DETACH = 0x2
_CLOEXEC = 0x1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_DATA = 0x2 | MOUNT_ATTR_NODEV | 0x8  # no set-user-ID, no devices, no programs


def _check(result: int, path: str | None = None) -> int:
    if result == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), path)
    return result


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """openat2(2), close-on-exec: open a path, which must keep to the rules in `resolve`."""
    how = (ctypes.c_uint64 * 3)(flags | os.O_CLOEXEC, 0, resolve)  # struct open_how
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _check(_syscall(_OPENAT2, directory, os.fsencode(path), how, size), path)


def open_tree(fd: int, path: str, *, recursive: bool) -> int:
    """open_tree(2): copy the mounts of a directory or file; they are nowhere until moved."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH
    flags |= _AT_RECURSIVE if recursive else 0
    return _check(_syscall(_OPEN_TREE, fd, os.fsencode(path), ctypes.c_uint(flags)), path)


def move_mount(tree: int, target: int, path: str) -> None:
    """move_mount(2): put a tree where an open path is; `path` is for the error only."""
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)
    _check(_syscall(_MOVE_MOUNT, tree, b"", target, b"", flags), path)


def mount_setattr(fd: int, path: str, *, on: int = 0, off: int = 0, recursive: bool) -> None:
    """mount_setattr(2): set and clear attributes of the mount at `fd`, and of all below it."""
    attr = (ctypes.c_uint64 * 4)(on, off, 0, 0)  # struct mount_attr
    size = ctypes.c_size_t(ctypes.sizeof(attr))
    flags = ctypes.c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0))
    _check(_syscall(_MOUNT_SETATTR, fd, b"", flags, attr, size), path)


def pivot_root(root: int, path: str) -> None:
    """pivot_root(2) to an open directory, and away with the old root; `path` is for the error.

    Both its paths are the same one, as the manual page shows: the old root comes to lie over the
    new one, whence it is unmounted.
    """
    os.fchdir(root)
    _check(_syscall(_PIVOT_ROOT, b".", b"."), path)
    _check(_umount2(b".", _MNT_DETACH), path)
    os.chdir("/")


def new(fstype: str, options: str, attributes: int) -> int:
    """fsopen(2), fsconfig(2), fsmount(2): make a file system that is nowhere yet; give its root.

    Args:
        fstype: its type.
        options: its own, `key=value,…`.
        attributes: MOUNT_ATTR_…, whose numbers are those of MS_… in mount(2).
    """
    context = _check(_syscall(_FSOPEN, fstype.encode(), ctypes.c_uint(_CLOEXEC)), fstype)
    try:
        for option in options.split(",") if options else ():
            key, _, value = option.encode().partition(b"=")
            _check(_syscall(_FSCONFIG, context, _FSCONFIG_SET_STRING, key, value, 0), option)
        _check(_syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), fstype)
        made = _syscall(_FSMOUNT, context, ctypes.c_uint(_CLOEXEC), ctypes.c_uint(attributes))
        return _check(made, fstype)
    finally:
        os.close(context)

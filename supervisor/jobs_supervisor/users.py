"""The Unix user of a job: of the host, or of the job's own root directory.

The default user is always the host's. Another one, which takes the right to `run_as`, may be one
that only the root directory knows. A name that both know must stand for the same number in both:
otherwise the right to run as the host's `build` would be that to run as whoever the owner of
a directory calls so.
"""

import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from jobs_proto.errors import JobsError
from jobs_proto.job import Spec

MAX_UID = 2**32 - 2
MAX_TABLE = 1 << 20
"""Bytes of a root directory's /etc/passwd or /etc/group that are read."""


@frozen
class User:
    """A Unix user, as the kernel and as programs want it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def find_user(name: str) -> User:
    """Look up a user of the host by name or number.

    Raises:
        JobsError: `invalid_argument`: there is none.
    """
    found = _of_host(name)
    if found is None:
        raise JobsError("invalid_argument", f"there is no user {name!r} on this host")
    return found


def user_of(spec: Spec, default: str, *, root: bool) -> User:
    """Give the user that a job of this spec runs as.

    May read files in the spec's root directory, and so wait for its disk.

    Args:
        spec: what was asked for.
        default: the user of a spec that names none.
        root: jobs can become other users.

    Raises:
        JobsError: no such user, or one that we have no rights to become.
    """
    if not root:
        return _ourselves(spec)
    name = spec.user or default
    if spec.isolation.rootfs is None or name == default:
        return find_user(name)
    return _in_root(Path(spec.isolation.rootfs), name)


def _ourselves(spec: Spec) -> User:
    own = find_user(str(os.geteuid()))
    if spec.user not in (None, own.name, str(own.uid)):
        raise JobsError(
            "failed_precondition",
            f"this supervisor does not run as root: its jobs run as {own.name}, not {spec.user}",
        )
    return own


def _of_host(name: str) -> User | None:
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        return None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(
        entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir, entry.pw_shell or "/bin/sh"
    )


def _in_root(root: Path, name: str) -> User:
    found = next(_matching(_table(root, "etc/passwd", 7), name), None)
    if found is not None:
        user = _of_entry(root, found)
        host = None if name.isdecimal() else _of_host(name)
        if host is None or host.uid == user.uid:
            return user
        raise JobsError(
            "invalid_argument",
            f"the user {name} is {host.uid} on this host and {user.uid} in {root}; "
            "say which by its number",
        )
    if name.isdecimal() and int(name) <= MAX_UID:
        return User(name, int(name), int(name), (int(name),), "/", "/bin/sh")
    raise JobsError("invalid_argument", f"there is no user {name!r} in {root}/etc/passwd")


def _matching(rows: list[list[str]], name: str) -> Iterator[list[str]]:
    column = 2 if name.isdecimal() else 0
    return (row for row in rows if row[column] == name)


def _of_entry(root: Path, row: list[str]) -> User:
    name, _, uid, gid, _, home, shell = row
    others = [group[2] for group in _table(root, "etc/group", 4) if name in group[3].split(",")]
    try:
        groups = tuple(dict.fromkeys(map(_number, (gid, *others))))
        return User(name, _number(uid), groups[0], groups, home or "/", shell or "/bin/sh")
    except ValueError:
        raise JobsError(
            "invalid_argument", f"the entry of {name} in {root}/etc/passwd or group has no numbers"
        ) from None


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_UID:
        raise ValueError(text)
    return int(text)


def _table(root: Path, path: str, columns: int) -> list[list[str]]:
    """Read a table of somebody's directory; links and what would wait are not read."""
    try:
        fd = _open_below(root, path)
    except OSError:
        return []
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        text = file.read(MAX_TABLE).decode(errors="surrogateescape")
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) == columns]


def _open_below(root: Path, path: str) -> int:
    """Open for reading, one name after the other, so that a link is an error."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    *directories, name = path.split("/")
    for directory in directories:
        parent = fd
        try:
            fd = os.open(
                directory,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=parent,
            )
        finally:
            os.close(parent)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=fd)
    finally:
        os.close(fd)


def reach(path: str, user: User) -> os.stat_result | None:
    """Look at a path as a user could; None: it is not there, or its directories are closed."""
    named = Path(path)
    try:
        found = named.stat()
        above = {*named.absolute().parents, *named.resolve().parents}
    except (OSError, ValueError):
        return None
    return found if all(may_execute(each, user) for each in above) else None


def may_execute(path: Path, user: User) -> bool:
    """Tell whether a file's mode lets a user execute it, or enter it; inode(7).

    One that has an access control list is taken for open: the kernel decides on it, acl(5).
    """
    try:
        status = path.stat()
        listed = "system.posix_acl_access" in _attributes(path)
    except OSError:
        return False
    if user.uid == status.st_uid:
        allowed = status.st_mode & stat.S_IXUSR
    elif status.st_gid in (user.gid, *user.groups):
        allowed = status.st_mode & stat.S_IXGRP
    else:
        allowed = status.st_mode & stat.S_IXOTH
    return bool(allowed) or user.uid == 0 or listed


def _attributes(path: Path) -> list[str]:
    try:
        return os.listxattr(path)
    except OSError:
        return []  # a file system that has none

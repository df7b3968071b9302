"""The steps that make the job's view of the file system, executed by the launcher.

The launcher, not init: both are in one mount namespace, and what the launcher touches in memory is
gone when it executes; and what is kept in a tmpfs is counted to the job's cgroup.

Theory. Who can write to a directory on the way can make a path another one while it is looked at.
So each path is opened once, by openat2(2), and then used by its descriptor:

- a *source* (what a bind or the root directory is made of) with the rights of the job's user: a
  job is given nothing that its user could not reach. It is taken with all that is mounted below
  it, when hidden paths are covered and /proc and /sys are the job's own: these come along.
- a *target* within the job's root, which no link leads out of. What is missing is made only in
  file systems that this very plan has made.

A step may leave a descriptor for a later one, under a name, in `_held`; one process executes one
plan.
"""

import errno as errors
import os
import stat

from jobs_proto import files
from jobs_shim import mount_api

_ROOT = "/"
_COVER = "cover"
_DIRECTORY, _FILE = "directory", "file"
_UNREACHABLE = (errors.ENOENT, errors.ENOTDIR)

_held: dict[str, int] = {}
_made: set[int] = set()  # the device numbers of the file systems that this plan has made
_over: set[str] = set()  # the host's own places that it mounts something over
_ours: set[int] = set()  # the device numbers of what it mounts there


def _root() -> int:
    if _ROOT not in _held:
        _held[_ROOT] = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return _held[_ROOT]


def _open(path: str) -> int:
    resolve = mount_api.RESOLVE_IN_ROOT | mount_api.RESOLVE_NO_MAGICLINKS
    return mount_api.openat2(_root(), path, os.O_PATH, resolve)


def _open_if_there(path: str) -> int | None:
    try:
        return _open(path)
    except OSError as error:
        # Without root rights the job's user is our own: what we cannot reach, it cannot.
        if error.errno in _UNREACHABLE or (error.errno == errors.EACCES and os.geteuid() != 0):
            return None
        raise


def _note(path: str, place: int | None, tree: int | None) -> None:
    """Note what is mounted over a place of the host's own, if there is one."""
    if place is None or os.fstat(place).st_dev not in _made:
        _over.add(path)
    if tree is not None:
        _ours.add(os.fstat(tree).st_dev)


def unchanged() -> bool:
    """Whether at the host's own places that this plan mounts over there is nothing but its own.

    When somebody removes such a place on the host, or renames another to it, the mount on it goes
    without a word: rename(2) and unlink(2) care for the mounts of their own namespace only.
    """
    for path in _over:
        fd = _open_if_there(path)
        if fd is not None:
            device = os.fstat(fd).st_dev
            os.close(fd)
            if device not in _ours:
                return False
    return True


# -- what must not be seen or changed --------------------------------------------------------


def cover(paths: list[str]) -> None:
    """Mount something that is empty, and that nobody may open, over each path that is there."""
    for path in paths:
        fd = _open_if_there(path)
        if fd is None:
            _note(path, None, None)
            continue
        place = os.dup(fd)
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        if is_directory and _COVER not in _held:
            # Before Linux 6.15 only what is mounted somewhere can be copied: so it is, here first,
            # and is then covered as well.
            _held[_COVER] = _new_cover()
            mount_api.move_mount(_held[_COVER], fd, path)
            os.close(fd)
            fd = _open(path)
        if _COVER in _held:
            kind = _DIRECTORY if is_directory else _FILE
            tree = mount_api.open_tree(_held[_COVER], kind, recursive=False)
        else:
            tree = mount_api.open_tree(mount_api.AT_FDCWD, "/dev/null", recursive=False)
        mount_api.move_mount(tree, fd, path)
        _note(path, place, tree)
        for opened in (place, tree, fd):
            os.close(opened)


def _new_cover() -> int:
    fd = mount_api.new("tmpfs", "mode=0,size=4k", mount_api.MOUNT_ATTR_DATA)
    os.mkdir(_DIRECTORY, 0, dir_fd=fd)
    os.close(os.open(_FILE, os.O_CREAT | os.O_CLOEXEC, 0, dir_fd=fd))
    mount_api.mount_setattr(fd, _COVER, on=mount_api.MOUNT_ATTR_RDONLY, recursive=False)
    return fd


def seal(paths: list[str]) -> None:
    """Let what is at each path, if it is there, be read only."""
    for path in paths:
        fd = _open_if_there(path)
        if fd is None:
            continue
        tree = mount_api.open_tree(fd, "", recursive=True)
        mount_api.mount_setattr(tree, path, on=mount_api.MOUNT_ATTR_RDONLY, recursive=True)
        mount_api.move_mount(tree, fd, path)
        os.close(tree)
        os.close(fd)


def read_only(path: str, but: list[str]) -> None:
    """Let a mount and all below it be read only, but for some of them themselves."""
    fd = _open(path)
    mount_api.mount_setattr(fd, path, on=mount_api.MOUNT_ATTR_RDONLY, recursive=True)
    os.close(fd)
    for other in but:
        fd = _open(other)
        mount_api.mount_setattr(fd, other, off=mount_api.MOUNT_ATTR_RDONLY, recursive=False)
        os.close(fd)


# -- sources ---------------------------------------------------------------------------------


def take(name: str, path: str, user: list[object] | None) -> None:
    """Copy the mounts at a path of the host's, for `bind` or `root`.

    Args:
        name: to hold them by.
        path: absolute.
        user: [uid, gid, groups] whose rights count; None: our own.
    """
    fd = _open(path) if user is None else _open_as(path, *user)
    _held[name] = mount_api.open_tree(fd, "", recursive=True)
    os.close(fd)


def _open_as(path: str, uid: object, gid: object, groups: object) -> int:
    _root()  # by ourselves
    own_uid, own_gid, own_groups = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups(groups)  # type: ignore[arg-type]
    os.setresgid(-1, gid, -1)  # type: ignore[arg-type]
    os.setresuid(-1, uid, -1)  # type: ignore[arg-type]  # the effective capabilities go, and return
    try:
        return _open(path)
    finally:
        os.setresuid(-1, own_uid, -1)
        os.setresgid(-1, own_gid, -1)
        os.setgroups(own_groups)


def secrets(name: str, path: str, uid: int, gid: int) -> None:
    """Move what a file of the job's directory holds into a new tmpfs, for `bind`.

    Args:
        name: to hold it by.
        path: the file: a map of names to contents; it is deleted.
        uid: the owner of the files.
        gid: their group.
    """
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    contents = files.decode(os.read(source, os.fstat(source).st_size))
    os.close(source)
    directory = mount_api.new("tmpfs", "mode=755", mount_api.MOUNT_ATTR_DATA)
    for file, content in contents.items():  # type: ignore[attr-defined]
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(file, flags, 0o400, dir_fd=directory)
        os.write(fd, content)
        os.fchown(fd, uid, gid)
        os.close(fd)
    _held[name] = directory
    os.unlink(path)


# -- the root --------------------------------------------------------------------------------


def root(name: str, path: str, user: list[object] | None) -> None:
    """Let a tree that was taken be where each later target is looked for.

    It is mounted over its own directory, because pivot_root(2) wants a mount of this namespace.
    """
    tree = _held.pop(name)
    mount_api.mount_setattr(tree, path, on=mount_api.MOUNT_ATTR_NODEV, recursive=True)
    place = _open(path) if user is None else _open_as(path, *user)
    mount_api.move_mount(tree, place, path)
    os.close(place)
    os.close(_root())
    _held[_ROOT] = tree


def pivot() -> None:
    """Make it the root of every process in this mount namespace; the host's is gone then."""
    mount_api.pivot_root(_root(), "/")


# -- what is put into it ---------------------------------------------------------------------


def place(fstype: str, target: str, flags: int, options: str) -> None:
    """Mount a new file system."""
    fd = _target(target, directory=True)
    try:
        tree = mount_api.new(fstype, options, flags)
    except OSError as error:
        error.filename = target
        raise
    mount_api.move_mount(tree, fd, target)
    _note(target, fd, tree)
    _made.add(os.fstat(tree).st_dev)
    os.close(tree)
    os.close(fd)


def place_if_there(fstype: str, target: str, flags: int, options: str) -> None:
    """Mount a new file system, if this root has a directory for it."""
    fd = _open_if_there(target)
    if fd is None:
        _note(target, None, None)
    else:
        os.close(fd)
        place(fstype, target, flags, options)


def bind(name: str, target: str, read_only: bool) -> None:  # noqa: FBT001  # a step's argument
    """Mount a tree that was taken."""
    tree = _held.pop(name)
    if read_only:
        mount_api.mount_setattr(tree, target, on=mount_api.MOUNT_ATTR_RDONLY, recursive=True)
    fd = _target(target, directory=stat.S_ISDIR(os.fstat(tree).st_mode))
    mount_api.move_mount(tree, fd, target)
    os.close(fd)
    os.close(tree)


def _target(path: str, *, directory: bool) -> int:
    """Open a path to mount on; make what is missing of it in file systems of our own."""
    try:
        return _open(path)
    except FileNotFoundError:
        parent, _, name = path.rpartition("/")
        above = _target(parent or "/", directory=True)
        try:
            if os.fstat(above).st_dev not in _made:
                raise
            _make(above, name, directory=directory)
        finally:
            os.close(above)
    return _open(path)


def _make(parent: int, name: str, *, directory: bool) -> None:
    if directory:
        os.mkdir(name, 0o755, dir_fd=parent)
    else:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=parent))


def make_directory(path: str) -> None:
    """Make a directory for a mount, if it is not there, on the host itself."""
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        pass


def link(text: str, path: str) -> None:
    """Make a symbolic link."""
    parent, _, name = path.rpartition("/")
    fd = _open(parent)
    os.symlink(text, name, dir_fd=fd)
    os.close(fd)


def devices(directory: str, flags: int, options: str, names: list[str]) -> None:
    """Make the job's /dev: a tmpfs with some of the host's device nodes, and pts and shm."""
    nodes = {name: os.open(f"/dev/{name}", os.O_PATH | os.O_CLOEXEC) for name in names}
    place("tmpfs", directory, flags, options)
    fd = _open(directory)
    for name, node in nodes.items():
        _device_node(fd, name, node)
        os.close(node)
    for name, mode in (("pts", 0o755), ("shm", 0o1777)):
        os.mkdir(name, dir_fd=fd)
        os.chmod(name, mode, dir_fd=fd)  # whatever the umask
    os.close(fd)


def _device_node(directory: int, name: str, node: int) -> None:
    try:
        os.mknod(name, stat.S_IFCHR | 0o666, os.fstat(node).st_rdev, dir_fd=directory)
        os.chmod(name, 0o666, dir_fd=directory)  # noqa: S103  # as on every host
    except PermissionError:  # only the host's root may make one; anybody may bind one
        _make(directory, name, directory=False)
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        tree = mount_api.open_tree(node, "", recursive=False)
        mount_api.move_mount(tree, target, f"/dev/{name}")
        os.close(tree)
        os.close(target)


STEPS = {
    "cover": cover,
    "seal": seal,
    "read_only": read_only,
    "take": take,
    "secrets": secrets,
    "root": root,
    "pivot": pivot,
    "place": place,
    "place_if_there": place_if_there,
    "bind": bind,
    "make_directory": make_directory,
    "link": link,
    "devices": devices,
}

"""Whether a `--rootfs` has the command, found out before anything is started.

The question is put with the job's user's rights and not our own: else whoever may run a job could
ask us which files there are in directories that are closed to them. What that user may not reach
and what is not there get the same answer. The mode of each directory is looked at; one that has an
access control list is left to the kernel, when the job starts (acl(5)).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from jobs_proto.errors import JobsError
from jobs_proto.job import Spec
from jobs_shim import mount_api
from jobs_supervisor.users import User, may_execute


def check_command(spec: Spec, user: User, path: str) -> None:
    """Refuse a root directory that does not have the spec's command, or cannot be used.

    Args:
        spec: with a root directory.
        user: the job's.
        path: the PATH of jobs, where the spec has none of its own.

    Raises:
        JobsError: `invalid_argument`.
    """
    root = spec.isolation.rootfs
    assert root is not None, "only a spec with a root directory is checked"
    command = spec.argv[0]
    tried = [command] if "/" in command else _candidates(command, spec.env.get("PATH", path))
    if not any(_executable(root, os.path.join(spec.cwd, each), user) for each in tried):  # noqa: PTH118
        raise JobsError(
            "invalid_argument",
            f"--rootfs {root}: there is no program {command!r} in it that {user.name} could "
            "execute; name a directory that holds a whole system, and a program in it",
        )


def _candidates(command: str, path: str) -> list[str]:
    return [f"{directory or '.'}/{command}" for directory in path.split(":")]


def _executable(root: str, path: str, user: User) -> bool:
    """Tell whether `path`, symbolic links taken within `root`, is a program for `user`."""
    try:
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        program = mount_api.openat2(fd, path, os.O_PATH, mount_api.RESOLVE_IN_ROOT)
    except OSError:
        return False
    finally:
        os.close(fd)
    try:
        there = Path(os.readlink(f"/proc/self/fd/{program}"))  # noqa: PTH115  # a magic link
        is_file = stat.S_ISREG(os.fstat(program).st_mode)
    finally:
        os.close(program)
    return is_file and all(may_execute(each, user) for each in _with_parents(there, Path(root)))


def _with_parents(path: Path, root: Path) -> Iterator[Path]:
    yield path
    yield from path.parents
    yield from root.resolve().parents

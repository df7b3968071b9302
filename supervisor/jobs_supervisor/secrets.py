"""The secrets of a job between `run` and its launch: one file in its directory, root's alone.

It is written durably before the record, so that a job that was answered has its secrets after a
crash. The leader deletes it as it reads it (`jobs_shim.mounts.secrets`); should there be no leader,
the end of the job does; and where a crash left a directory without a record, the next start.
"""

import os
import shutil
from pathlib import Path

from jobs_proto import files


def write(directory: Path, contents: dict[str, bytes]) -> None:
    """Make a job's directory with its secrets in it; return when they are on the disk."""
    directory.mkdir(mode=0o700)
    path = directory / files.SECRETS
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(files.encode(contents))
        file.flush()
        os.fsync(file.fileno())
    for each in (directory, directory.parent):
        fd = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def withdraw(directory: Path) -> None:
    """Remove a directory that `write` made for a job that came to nothing."""
    shutil.rmtree(directory, ignore_errors=True)


def forget(directory: Path) -> None:
    """Delete a job's secrets, if they are still there."""
    (directory / files.SECRETS).unlink(missing_ok=True)

"""What a job's directory says about it: the one judgement, at start and whenever a shim is gone.

    exit there                        finished
    lock held                         its shim lives: reattach
    lock free, no identity            never launched: launch it
    lock free, identity, no exit      its shim died: lost

`jobs_shim.shim` says in which order these come to be. A query that fails is not an answer: every
OSError but "there is no such file" leaves this function, and nothing is decided on it.
"""

import fcntl
import os
from contextlib import suppress
from enum import Enum
from pathlib import Path

from jobs_proto import files


class Verdict(Enum):
    """What is the case."""

    FINISHED = "finished"
    ALIVE = "alive"
    FRESH = "fresh"
    DEAD = "dead"


def judge(directory: Path) -> Verdict:
    """Judge a job by its directory.

    Raises:
        OSError: it cannot be known now.
    """
    if (directory / files.EXIT).exists():
        return Verdict.FINISHED
    if _lock_held(directory / files.LOCK):
        return Verdict.ALIVE
    # The shim may have ended between the two looks above: its record is written before its lock
    # goes free, so a second look at the record is the last word.
    if (directory / files.EXIT).exists():
        return Verdict.FINISHED
    return Verdict.DEAD if (directory / files.IDENTITY).exists() else Verdict.FRESH


def _lock_held(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def sweep(directory: Path) -> None:
    """Remove what a shim that was killed has left half done; its job must have ended."""
    for name in (files.SOCKET, f"{files.IDENTITY}.new", f"{files.EXIT}.new"):
        with suppress(OSError):  # it takes a few bytes, and says nothing: not worth a failure
            (directory / name).unlink()


def exit_record(directory: Path) -> dict[str, object]:
    """Read the exit record.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    record = files.decode((directory / files.EXIT).read_bytes())
    if not isinstance(record, dict):
        raise ValueError(f"the exit record in {directory} is no map")  # noqa: TRY004  # damage
    return record

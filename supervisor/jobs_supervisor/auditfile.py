"""The audit log's files: where the chain goes on after any end, and when the next one begins."""

import errno
import hashlib
import mmap
import os
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

from jobs_proto.audit import (
    CURRENT,
    OPENED,
    ROTATED,
    START,
    TORN,
    Head,
    read_line,
    rotated_name,
    seal,
)
from jobs_proto.job import timestamp
from jobs_supervisor.config import AuditSettings

NEXT: Final = "audit.new"
"""A file that is being made; what a crash leaves of it is empty but for its first line."""

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class AuditFiles:
    """The chain, as far as it is written.

    Args:
        directory: where the files are, or will be.
        settings: when one is full, and how many are kept.

    Attributes:
        head: the last line.

    Raises:
        OSError: they cannot be read or written.
    """

    def __init__(self, directory: Path, settings: AuditSettings) -> None:
        self.head = START
        self._directory = directory
        self._path = directory / CURRENT
        self._settings = settings
        self._full: list[int] = []  # files that are written no more, and not on the disk yet
        self._renamed = False
        self._syncing = threading.Lock()
        self._closed = False
        self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        (directory / NEXT).unlink(missing_ok=True)
        if self._path.exists():
            self._go_on()
        else:
            self._go_on_after_rotation()

    # -- where it goes on --------------------------------------------------------------------

    def _go_on(self) -> None:
        self._fd = os.open(self._path, _FLAGS)
        self._size = os.fstat(self._fd).st_size
        written = _survey(self._path)
        self.head = written.head if written else self._head_before()
        self._first = written.first if written else self.head.seq + 1
        self._opened_at = written.opened_at if written else time.time()
        if (end := written.end if written else 0) < self._size:
            self._mend_end(end)

    def _go_on_after_rotation(self) -> None:
        """There is no current file: this is the first start, or one was being made."""
        self.head = self._head_before()
        self._open_next()

    def _head_before(self) -> Head:
        for path in reversed(self._rotated()):
            if written := _survey(path):
                return written.head
        return START

    def _mend_end(self, start: int) -> None:
        """End a line that lacks only that; leave other loose bytes, and say so after them."""
        with self._path.open("rb") as file:
            file.seek(start)
            loose = file.read()
        if not loose.endswith(b"\n"):
            self._append(b"\n")
        said = read_line(loose)
        if said and (said["seq"], said["prev"]) == (self.head.seq + 1, self.head.hash):
            self.head = Head(hashlib.sha256(loose).hexdigest(), said["seq"])
            return
        self.write(
            {
                "timestamp": timestamp(time.time_ns()),
                "event": TORN,
                "bytes": len(loose),
                "sha256": hashlib.sha256(loose).hexdigest(),
            }
        )

    # -- writing -----------------------------------------------------------------------------

    def write(self, fields: dict[str, object]) -> None:
        """Write the next line, or nothing.

        Raises:
            OSError: the disk does not take it.
        """
        line, head = seal(self.head, fields)
        self._append(line + b"\n")
        self.head = head

    def _append(self, data: bytes) -> None:
        """Write all of it in one call: what a full disk took a part of is given back."""
        try:
            _write_whole(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def sync(self) -> None:
        """Have all that was written on the disk; in a thread, beside which lines may be written.

        Raises:
            OSError: it is not.
        """
        with self._syncing:
            if self._closed:
                raise OSError(errno.EBADF, "the audit log is closed")
            current = self._fd  # before those that are full: it may become one of them meanwhile
            while self._full:
                os.fdatasync(self._full[0])
                if (full := self._full.pop(0)) == current:
                    current = self._fd
                os.close(full)
            renamed, self._renamed = self._renamed, False
            try:
                if renamed:
                    os.fsync(self._directory_fd)
                os.fdatasync(current)
            except OSError:
                self._renamed |= renamed
                raise

    def close(self) -> None:
        """Let go of the files, which have been synced."""
        with self._syncing:
            self._closed = True
            for fd in (self._fd, self._directory_fd, *self._full):
                os.close(fd)

    # -- rotation ----------------------------------------------------------------------------

    def rotate_if_due(self) -> bool:
        """Begin the next file if this one is large or old enough; whether that was done.

        Raises:
            OSError: it could not be made; this one goes on.
        """
        age_s = time.time() - self._opened_at
        if self._size < self._settings.max_bytes and age_s < self._settings.max_age_s:
            return False
        self._open_next(rename=self._directory / rotated_name(self._first))
        return True

    def _open_next(self, rename: Path | None = None) -> None:
        """Begin a file.

        The order is that of what a crash may leave: no current file, or more old ones than are
        wanted; both are mended at the next start.
        """
        rotated = self._rotated() + ([rename] if rename else [])
        expired = rotated[: max(0, len(rotated) - self._settings.keep)]
        kept = rotated[len(expired) :]
        new, first = self._directory / NEXT, self.head.seq + 1
        line, head = seal(
            self.head,
            {
                "timestamp": timestamp(time.time_ns()),
                "event": OPENED,
                "kept_from": int(kept[0].stem.removeprefix("audit-")) if kept else first,
            },
        )
        fd = os.open(new, _FLAGS | os.O_EXCL, 0o600)
        try:
            _write_whole(fd, line + b"\n")
            if rename and self._path.exists():
                self._path.rename(rename)
            new.rename(self._path)
        except OSError:
            os.close(fd)
            new.unlink(missing_ok=True)
            if rename and not self._path.exists():
                with suppress(OSError):  # else the next try finds it as it is
                    rename.rename(self._path)
            raise
        self._renamed = True
        if rename:  # first: who syncs now must find the one or the other
            self._full.append(self._fd)
        self._fd, self._size, self.head = fd, len(line) + 1, head
        self._first, self._opened_at = first, time.time()
        for path in expired:
            with suppress(OSError):  # the next rotation tries again
                path.unlink()

    def _rotated(self) -> list[Path]:
        return sorted(self._directory.glob(ROTATED))


def _write_whole(fd: int, data: bytes) -> None:
    if os.write(fd, data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Written(NamedTuple):
    """What a file holds."""

    first: int
    opened_at: float
    head: Head
    end: int  # what follows there is no whole line of ours


def _survey(path: Path) -> _Written | None:
    """Look at a file's ends; None: no line of ours is in it."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            end = data.rfind(b"\n") + 1
            while end:
                start = data.rfind(b"\n", 0, end - 1) + 1
                line = data[start : end - 1]
                if said := read_line(line):
                    head = Head(hashlib.sha256(line).hexdigest(), said["seq"])
                    first = _first(data)
                    return _Written(first["seq"], _opened_at(first), head, end)
                end = start
            return None


def _first(data: mmap.mmap) -> dict[str, Any]:
    return next(said for line in iter(data.readline, b"") if (said := read_line(line)))


def _opened_at(first: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(first["timestamp"]).timestamp()
    except (KeyError, TypeError, ValueError):  # somebody has changed it, as `verify` will say
        return time.time()

"""The job's output, from its pipes into one file and its index, by splice(2).

An offset counts bytes since the job's start across both streams and never changes. What cannot be
written (a full disk, a broken one) still moves the offset: the file gets a hole there and the index
a GAP chunk, so that a reader is told, and the job is neither blocked nor killed.
"""

import fcntl
import os
import time

from jobs_proto.failpoint import failpoint
from jobs_proto.files import CHUNK, GAP, INDEX, OUTPUT, STDOUT

PORTION = 1 << 20
_NONBLOCK = 2  # SPLICE_F_NONBLOCK, splice(2)
_FIONREAD = 0x541B  # bytes that can be read now; x86-64 and arm64
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_MAX_PENDING = 4096 * CHUNK.size


class Output:
    """The two files, and the counts of what went into them.

    Args:
        directory: the job's directory.
    """

    __slots__ = (
        "_clock",
        "_file",
        "_index",
        "_null",
        "_pending",
        "_pending_kind",
        "lost",
        "stderr",
        "stdout",
        "total",
    )

    def __init__(self, directory: str) -> None:
        # splice(2) refuses a file opened with O_APPEND; the shim alone writes, so offsets are its.
        self._file = os.open(f"{directory}/{OUTPUT}", _FLAGS, 0o600)
        self._index = os.open(f"{directory}/{INDEX}", _FLAGS, 0o600)
        self._null = -1
        self._pending = bytearray()
        self._pending_kind = 0
        # A wall clock that never goes back, whatever is done to the host's.
        self._clock = time.time_ns() - time.monotonic_ns()
        self.total = self.stdout = self.stderr = self.lost = 0

    @property
    def files(self) -> tuple[int, int]:
        """The descriptors of the two files."""
        return self._file, self._index

    def now_ns(self) -> int:
        """Give the time in ns since the epoch; never less than before."""
        return time.monotonic_ns() + self._clock

    def take(self, pipe: int, stream: int) -> int:
        """Move what a pipe holds, at most `PORTION` bytes, into the file and index it.

        Returns:
            The number of bytes; 0 at the pipe's end; -1 if it is empty just now.
        """
        kind = stream
        try:
            count = os.splice(pipe, self._file, PORTION, flags=_NONBLOCK)
        except BlockingIOError:
            return -1
        except OSError:
            kind |= GAP
            count = self._drop(pipe)
        if count > 0:
            failpoint("shim.output-kept")
            self._record(count, stream, kind)
        return count

    def _drop(self, pipe: int) -> int:
        """Take a portion of the pipe without keeping it; the offset moves over a hole."""
        if self._null < 0:
            self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        try:
            count = os.splice(pipe, self._null, PORTION, flags=_NONBLOCK)
        except BlockingIOError:
            return -1
        os.lseek(self._file, count, os.SEEK_CUR)
        self.lost += count
        return count

    def _record(self, count: int, stream: int, kind: int) -> None:
        self.total += count
        if stream == STDOUT:
            self.stdout += count
        else:
            self.stderr += count
        chunk = CHUNK.pack(self.total, self.now_ns(), kind, 0)
        mergeable = kind == self._pending_kind or len(self._pending) > _MAX_PENDING
        if mergeable and len(self._pending) >= CHUNK.size:
            self._pending[-CHUNK.size :] = chunk
        else:
            self._pending += chunk
        self._pending_kind = kind
        self._write_index()

    def _write_index(self) -> None:
        """Append what is pending; on a full disk it stays pending, and adjacent chunks merge."""
        try:
            del self._pending[: os.write(self._index, self._pending)]
        except OSError:
            pass

    def drain(self, pipes: dict[int, int]) -> None:
        """Take what is left in the pipes (descriptor → stream), now that the job has ended.

        No more than there is at the call: a job can hand its pipe to a process that is none of its
        own (SCM_RIGHTS, unix(7)), which may write for ever.
        """
        for pipe, stream in pipes.items():
            left = int.from_bytes(fcntl.ioctl(pipe, _FIONREAD, bytes(4)), "little")
            while left > 0 and (count := self.take(pipe, stream)) > 0:
                left -= count

    def sync(self) -> None:
        """Put what was written on the disk: the exit record's totals are true after a crash."""
        if self.total:
            if self._pending:
                self._write_index()
            try:
                os.fdatasync(self._file)
                os.fdatasync(self._index)
            except OSError:
                pass  # the disk is broken; that the job has ended is true all the same

    def counts(self) -> dict[str, int]:
        """Give the counts as they stand in the exit record."""
        return {
            "total": self.total,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "retained_from": 0,
            "lost": self.lost,
        }

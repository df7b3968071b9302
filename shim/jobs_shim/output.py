"""The job's output, from its pipes into one file and its index, by splice(2).

An offset counts bytes since the job's start across both streams and never changes. What cannot be
written (a full disk, a broken one) still moves the offset: the file gets a hole there and the index
a GAP chunk, so that a reader is told, and the job is neither blocked nor killed.

Theory of caps. A cap counts bytes in the file; the index may take as much again. At the cap,

    keep-tail   the oldest bytes go, before newer ones are taken: `output.from` is made as long as
                the first offset that is kept, then a hole is punched before it. The order is what
                lets a reader read first and look at `output.from` after it: what it has read from
                there on was data. A length is one number of the inode: it is never read by half,
                it takes no space, and it is there whoever is killed.
    keep-head   later bytes are counted and dropped. The file is made longer over them, so that its
                length tells their number even of a shim that was killed; the index says by one
                empty CAPPED chunk where that began, and by another one its end.
    block       the pipes are not read; the job waits in write(2).

Room is made before a portion is taken and for no more than there is to take: the file is within its
cap at every moment, but for what its last block is larger than its part of it. Holes are punched in
whole blocks, some at a time; the index's, when it has become as large as it may.
"""

import fcntl
import os
import time

from jobs_proto.failpoint import failpoint
from jobs_proto.files import (
    BLOCK,
    CAPPED,
    CHUNK,
    FROM,
    GAP,
    INDEX,
    KEEP_HEAD,
    KEEP_TAIL,
    OUTPUT,
    STDOUT,
)
from jobs_shim import syscalls

PORTION = 1 << 20
_NONBLOCK = 2  # SPLICE_F_NONBLOCK, splice(2)
_FIONREAD = 0x541B  # bytes that can be read now; x86-64 and arm64
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_MAX_PENDING = 4096 * CHUNK.size
_STRIDES = 64  # a cap is so many steps in which the kept part moves on, if they are whole blocks
_LEAST_INDEX = 16  # blocks


def open_files(directory: str) -> tuple[int, int]:
    """Make the two files, empty; give their descriptors.

    Raises:
        OSError: they cannot be made.
    """
    # splice(2) refuses a file opened with O_APPEND; the shim alone writes, so offsets are its.
    output = os.open(f"{directory}/{OUTPUT}", _FLAGS, 0o600)
    return output, os.open(f"{directory}/{INDEX}", _FLAGS, 0o600)


class Output:
    """The two files, and the counts of what went into them.

    Args:
        directory: the job's directory.
        fds: of `open_files`.
        clock: what makes of the monotonic clock a wall clock that never goes back, in ns.
        limit: bytes that the file may hold; None: no cap.
        policy: what happens at the cap.
    """

    __slots__ = (
        "_block",
        "_capping",
        "_clock",
        "_directory",
        "_file",
        "_from",
        "_index",
        "_index_from",
        "_index_size",
        "_null",
        "_pending",
        "_pending_kind",
        "_punched",
        "capped",
        "indexed",
        "limit",
        "lost",
        "policy",
        "retained_from",
        "stderr",
        "stdout",
        "total",
    )

    def __init__(
        self,
        directory: str,
        fds: tuple[int, int],
        clock: int,
        limit: int | None = None,
        policy: str = KEEP_TAIL,
    ) -> None:
        self._file, self._index = fds
        self._null = self._from = -1
        self._directory = directory
        self._pending = bytearray()
        self._pending_kind = 0
        self._index_size = self._index_from = 0  # bytes; where what is not punched begins
        self._block = self._punched = 0
        self._capping = False  # within a range that is dropped for the cap
        self._clock = clock
        self.total = self.stdout = self.stderr = self.lost = self.capped = self.retained_from = 0
        self.indexed = 0  # the end of what the index covers, or is about to
        self.limit: int | None = None
        self.policy = policy
        if limit is not None:
            self.allow(limit)

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
            The number of bytes; 0 at the pipe's end; -1 if it is empty just now, or left alone.
        """
        portion = PORTION
        if self.limit is not None:
            portion = self._room(pipe)
            if portion <= 0:
                return -1 if self.policy == BLOCK else self._discard(pipe, stream)
            self._end_gap()
        kind = stream
        try:
            count = os.splice(pipe, self._file, portion, flags=_NONBLOCK)
        except BlockingIOError:
            return -1
        except OSError:
            kind |= GAP
            count = self._drop(pipe, portion)
            self.lost += max(count, 0)
        if count > 0:
            failpoint("shim.output-kept")
            self._count(count, stream)
            self._record(kind)
        return count

    def _drop(self, pipe: int, portion: int) -> int:
        """Take a portion of the pipe without keeping it; the offset moves over a hole."""
        if self._null < 0:
            self._null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        try:
            count = os.splice(pipe, self._null, portion, flags=_NONBLOCK)
        except BlockingIOError:
            return -1
        os.lseek(self._file, count, os.SEEK_CUR)
        return count

    def _count(self, count: int, stream: int) -> None:
        self.total += count
        if stream == STDOUT:
            self.stdout += count
        else:
            self.stderr += count

    def _record(self, kind: int) -> None:
        """Index what lies between the last chunk and `total`."""
        self.indexed = self.total
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
            written = os.write(self._index, self._pending)
        except OSError:
            return
        self._index_size += written
        del self._pending[:written]

    # -- the cap -----------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """The pipes are left alone until the cap is raised."""
        return self.policy == BLOCK and self.limit is not None and self._left() <= 0

    def allow(self, limit: int) -> None:
        """Have another cap, or one at all."""
        self.limit = limit
        self._block = os.fstat(self._file).st_blksize
        if self.policy == KEEP_TAIL:
            beyond = (self.total // self._block + 1) * self._block
            try:
                syscalls.punch_hole(self._file, beyond, self._block)
                self._make_room(0, limit)
            except OSError:
                self.policy = KEEP_HEAD  # this file system cannot

    def _room(self, pipe: int) -> int:
        """Give how many bytes may be taken now; make room for them, if the tail is kept."""
        if self.policy != KEEP_TAIL:
            return min(PORTION, self._left())
        limit: int = self.limit  # type: ignore[assignment]
        try:
            if self._index_full():
                self._shorten_index()
            portion = min(PORTION, max(limit // 4, 1))
            if self.total - self.retained_from + portion > limit:
                portion = min(portion, readable(pipe))
                self._make_room(portion, limit)
        except OSError:
            return 0  # what cannot be given back cannot be used again
        return max(portion, 1)  # of an empty pipe, to see whether it has ended

    def _left(self) -> int:
        """Give how many bytes more the file may hold, if nothing of it is given back."""
        if self._index_full():
            return 0
        return self.limit - (self.total - self.lost - self.capped)  # type: ignore[operator]

    def _make_room(self, portion: int, limit: int) -> None:
        """Give back the head of the file for a portion, and some more, so as to do it seldom."""
        excess = self.total + portion - limit
        if excess > self.retained_from:
            block = self._block
            stride = max(min(limit // _STRIDES, PORTION) // block * block, block)
            if limit < 8 * block:
                stride = 1  # blocks are too coarse: exactly `limit` bytes count, in a block more
            self._give_back(min(-(-excess // stride) * stride, self.total))

    def _give_back(self, offset: int) -> None:
        """Let go of all bytes before an offset: say so, then punch whole blocks."""
        if self._from < 0:
            self._from = os.open(f"{self._directory}/{FROM}", _FLAGS, 0o600)
        os.ftruncate(self._from, offset)
        self.retained_from = offset
        failpoint("shim.output-given-up")
        end = offset // self._block * self._block
        if end > self._punched:
            syscalls.punch_hole(self._file, self._punched, end - self._punched)
            self._punched = end

    def _most_index(self) -> int:
        return max(self.limit, _LEAST_INDEX * self._block)  # type: ignore[type-var, return-value]

    def _index_full(self) -> bool:
        return self._index_size - self._index_from >= self._most_index()

    def _shorten_index(self) -> None:
        """Give back the head of the index, a quarter of it at least; with it, what it is about."""
        least = (self._index_size - self._most_index() * 3 // 4) // CHUNK.size
        low, high = least, self._index_size // CHUNK.size
        while low < high:  # the first entry beyond `retained_from`, if `least` is before it
            middle = (low + high) // 2
            low, high = (
                (low, middle) if self._end(middle) > self.retained_from else (middle + 1, high)
            )
        if low == least:
            self._give_back(max(self._end(low - 1), self.retained_from))
        begin = low * CHUNK.size // self._block * self._block
        syscalls.punch_hole(self._index, self._index_from, begin - self._index_from)
        self._index_from = begin

    def _end(self, entry: int) -> int:
        """Give the end offset of an entry of the index."""
        return CHUNK.unpack(os.pread(self._index, CHUNK.size, entry * CHUNK.size))[0]  # type: ignore[no-any-return]

    def _discard(self, pipe: int, stream: int) -> int:
        """Take a portion that is over the cap, and count it."""
        if not self._capping:
            self._capping = True
            self._record(GAP | CAPPED)
        count = self._drop(pipe, PORTION)
        if count > 0:
            self.capped += count
            self._count(count, stream)
            try:
                os.ftruncate(self._file, self.total)
            except OSError:
                pass  # beyond what a file may be long here; the exit record tells
        return count

    def _end_gap(self) -> None:
        """Index the range that was dropped for the cap, if there is one."""
        if self._capping:
            self._capping = False
            if self.total > self.indexed:
                self._record(GAP | CAPPED)

    # -- the end -----------------------------------------------------------------------------

    def drain(self, pipes: dict[int, int]) -> None:
        """Take what is left in the pipes (descriptor → stream), now that the job has ended.

        No more than there is at the call: a job can hand its pipe to a process that is none of its
        own (SCM_RIGHTS, unix(7)), which may write for ever.
        """
        if self.policy == BLOCK:
            self.policy = KEEP_HEAD  # nobody is left who could wait
        for pipe, stream in pipes.items():
            left = readable(pipe)
            while left > 0 and (count := self.take(pipe, stream)) > 0:
                left -= count

    def sync(self) -> None:
        """Put what was written on the disk: the exit record's totals are true after a crash."""
        if self.total:
            self._end_gap()
            if self._pending:
                self._write_index()
            try:
                os.fdatasync(self._file)
                os.fdatasync(self._index)
                if self._from >= 0:
                    os.fdatasync(self._from)
            except OSError:
                pass  # the disk is broken; that the job has ended is true all the same

    def counts(self) -> dict[str, object]:
        """Give the counts as they stand in the exit record."""
        return {
            "total": self.total,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "retained_from": self.retained_from,
            "lost": self.lost,
            "capped": self.capped,
            "blocked": self.blocked,
        }


def readable(pipe: int) -> int:
    """Give how many bytes a pipe holds."""
    return int.from_bytes(fcntl.ioctl(pipe, _FIONREAD, bytes(4)), "little")

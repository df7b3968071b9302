"""Reading a job's output: from its file, by its index, for one follower. The job notices nothing.

An index entry is written after its bytes, so what the index covers can be read. Reads come from the
page cache without waiting (preadv2(2), RWF_NOWAIT); only what is not there goes through a thread.

A shim whose output has a cap may give back the head of both files at any time, which then reads as
zeros. It says so before it does (`jobs_shim.output`). So whoever reads first, and then looks at
what was given up, knows which of the bytes are the job's; and an index entry before that is zeros,
or ends before it: both are passed over.
"""

import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

import trio

from jobs_proto.files import CAPPED, CHUNK, FROM, GAP, INDEX, OUTPUT, STDERR, STDOUT

PORTION = 256 * 1024
"""Bytes of output in one chunk at most."""

NO_SPACE = "no space to keep it"
UNWRITTEN = "the host went down before it was on the disk"
OLDER = "over --output-max, which keeps the end of the output"
LATER = "over --output-max, which keeps the beginning of the output"

SPARE = 8
"""Buffers of that size that are kept. A new one costs a page fault for each 4 KiB of it, and
zeros, as much as all the rest that is done for a chunk before it is encrypted."""

_SPARE: list[bytearray] = []
_ENTRIES = 1024
_ENTRY = CHUNK.size


class Piece(NamedTuple):
    """A range of the output that came from one stream, or that was dropped (`gap`: why)."""

    start: int
    end: int
    stream: int
    time_ns: int
    gap: str | None


class OutputReader:
    """One follower's position in a job's output.

    Args:
        directory: the job's.
        offset: the first byte wanted.
        merge: join neighbours of one stream into pieces of up to `PORTION`.

    Attributes:
        unwritten: why the file may be shorter than the output.
    """

    def __init__(self, directory: Path, offset: int, *, merge: bool) -> None:
        self.offset = offset
        self.unwritten = UNWRITTEN
        self._directory = directory
        self._from = os.path.join(directory, FROM)  # noqa: PTH118  no Path made for each piece
        self._merge = merge
        self._file = self._index = -1
        self._entry = 0
        self._ahead: deque[tuple[int, int, int, int]] = deque()
        self._buffer: bytearray | None = None  # while there is something to send

    def _open(self) -> bool:
        """Open the files, which are there once the shim has begun."""
        if self._index < 0:
            try:
                self._file = os.open(self._directory / OUTPUT, os.O_RDONLY | os.O_CLOEXEC)
                self._index = os.open(self._directory / INDEX, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self.close()
                return False
            self._entry = self._find(self.offset)
        return True

    def _find(self, offset: int) -> int:
        """Give the number of the entry that holds `offset`: bisection, since ends only grow."""
        low, high = 0, os.fstat(self._index).st_size // _ENTRY
        while low < high:
            middle = (low + high) // 2
            end = CHUNK.unpack(os.pread(self._index, _ENTRY, middle * _ENTRY))[0]
            low, high = (low, middle) if end > offset else (middle + 1, high)
        return low

    def next(self) -> Piece | None:
        """Give the next piece, and step over it; None: the index has no more for now."""
        while not self._ahead:
            if not (self._open() and self._read_ahead()):
                self._give_back()
                return None
            self._pass_over()
            if not self._ahead:  # of an index that was given back, there may be any length before
                self._entry = self._find(self.offset)
        if (given_up := self._given_up(self.offset)) is not None:
            return given_up
        start, limit = self.offset, self.offset + PORTION
        end, time_ns, kind, _ = self._ahead[0]
        if end > limit and not kind & GAP:
            end = limit
        else:
            self._ahead.popleft()
            while self._merge and self._ahead:
                next_end, next_time, next_kind, _ = self._ahead[0]
                if next_kind != kind or next_end > limit:
                    break
                end, time_ns = next_end, next_time
                self._ahead.popleft()
        self.offset = end
        self._pass_over()
        gap = (LATER if kind & CAPPED else NO_SPACE) if kind & GAP else None
        return Piece(start, end, kind & (STDOUT | STDERR), time_ns, gap)

    def _given_up(self, start: int) -> Piece | None:
        """Give what is not kept any more from `start` on, and step over it."""
        end = _length(self._from)
        if end <= start:
            return None
        self.offset = max(self.offset, end)
        self._pass_over()
        return Piece(start, end, 0, 0, OLDER)

    def _pass_over(self) -> None:
        """Leave out entries that have nothing for us: of what is before, or empty, or zeros."""
        while self._ahead and self._ahead[0][0] <= self.offset:
            self._ahead.popleft()

    def overtaken(self, piece: Piece) -> Piece | None:
        """Give what was given up of a piece, and perhaps after it, by the time it was read."""
        return self._given_up(piece.start)

    def _read_ahead(self) -> bool:
        block = os.pread(self._index, _ENTRIES * _ENTRY, self._entry * _ENTRY)
        whole = len(block) // _ENTRY
        self._entry += whole
        self._ahead.extend(CHUNK.iter_unpack(block[: whole * _ENTRY]))
        return whole > 0

    def rest(self, total: int) -> Piece | None:
        """Give what lies between the index's end and `total`: a killed shim had not indexed it."""
        if not self._open() or self.offset >= total:
            return None
        start, time_ns = self.offset, os.fstat(self._file).st_mtime_ns
        if _last_entry(self._index)[2] & CAPPED:
            self.offset = total
            return Piece(start, total, 0, time_ns, LATER)
        self.offset = min(total, start + PORTION)
        return Piece(start, self.offset, STDOUT, time_ns, None)

    async def data(self, piece: Piece) -> memoryview:
        """Read a piece's bytes; fewer than it has, if a crash of the host cut the file short.

        They are there until the next call of a method.
        """
        size = piece.end - piece.start
        if self._buffer is None:
            self._buffer = _SPARE.pop() if _SPARE else bytearray(PORTION)
        view = memoryview(self._buffer)[:size]
        try:
            if os.preadv(self._file, [view], piece.start, os.RWF_NOWAIT) == size:
                return view
        except OSError:
            pass  # not in the page cache, or a file system that cannot tell
        read = await trio.to_thread.run_sync(_read_all, self._file, size, piece.start)
        return memoryview(read)

    def _give_back(self) -> None:
        """A follower that waits has no buffer."""
        if self._buffer is not None and len(_SPARE) < SPARE:
            _SPARE.append(self._buffer)
        self._buffer = None

    def close(self) -> None:
        """Close the files."""
        self._give_back()
        for fd in (self._file, self._index):
            if fd >= 0:
                os.close(fd)
        self._file = self._index = -1


def retained_from(directory: Path) -> int:
    """Give the first offset of a job's output that is still kept."""
    return _length(str(directory / FROM))


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116  # as above
    except FileNotFoundError:
        return 0


def indexed(directory: Path) -> int:
    """Give how many bytes of output the index covers now."""
    try:
        with (directory / INDEX).open("rb") as file:
            return _last_entry(file.fileno())[0]
    except FileNotFoundError:
        return 0


def _last_entry(index: int) -> tuple[int, int, int, int]:
    """Give the last entry of an index; zeros if it has none."""
    entries = os.fstat(index).st_size // _ENTRY
    if not entries:
        return 0, 0, 0, 0
    entry: tuple[int, int, int, int] = CHUNK.unpack(os.pread(index, _ENTRY, (entries - 1) * _ENTRY))
    return entry


def _read_all(fd: int, size: int, offset: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts)

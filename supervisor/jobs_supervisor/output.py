"""Reading a job's output: from its file, by its index, for one follower. The job notices nothing.

An index entry is written after its bytes, so what the index covers can be read. Reads come from the
page cache without waiting (preadv2(2), RWF_NOWAIT); only what is not there goes through a thread.
"""

import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

import trio

from jobs_proto.files import CHUNK, GAP, INDEX, OUTPUT, STDOUT

PORTION = 256 * 1024
"""Bytes of output in one chunk at most."""

_ENTRIES = 1024
_ENTRY = CHUNK.size


class Piece(NamedTuple):
    """A range of the output that came from one stream, or that was dropped."""

    start: int
    end: int
    stream: int
    time_ns: int
    gap: bool


class OutputReader:
    """One follower's position in a job's output.

    Args:
        directory: the job's.
        offset: the first byte wanted.
        merge: join neighbours of one stream into pieces of up to `PORTION`.
    """

    def __init__(self, directory: Path, offset: int, *, merge: bool) -> None:
        self.offset = offset
        self._directory = directory
        self._merge = merge
        self._file = self._index = -1
        self._entry = 0
        self._ahead: deque[tuple[int, int, int, int]] = deque()

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
        if not self._ahead and not (self._open() and self._read_ahead()):
            return None
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
        return Piece(start, end, kind & ~GAP, time_ns, bool(kind & GAP))

    def _read_ahead(self) -> bool:
        block = os.pread(self._index, _ENTRIES * _ENTRY, self._entry * _ENTRY)
        whole = len(block) // _ENTRY
        self._entry += whole
        entries = CHUNK.iter_unpack(block[: whole * _ENTRY])
        self._ahead.extend(entry for entry in entries if entry[0] > self.offset)
        return bool(self._ahead)

    def rest(self, total: int) -> Piece | None:
        """Give what lies between the index's end and `total`: a killed shim had not indexed it."""
        if not self._open() or self.offset >= total:
            return None
        start = self.offset
        self.offset = min(total, start + PORTION)
        return Piece(start, self.offset, STDOUT, os.fstat(self._file).st_mtime_ns, gap=False)

    async def data(self, piece: Piece) -> bytes | bytearray:
        """Read a piece's bytes; fewer than it has, if a crash of the host cut the file short."""
        size = piece.end - piece.start
        buffer = bytearray(size)
        try:
            if os.preadv(self._file, [buffer], piece.start, os.RWF_NOWAIT) == size:
                return buffer
        except OSError:
            pass  # not in the page cache, or a file system that cannot tell
        return await trio.to_thread.run_sync(_read_all, self._file, size, piece.start)

    def close(self) -> None:
        """Close the files."""
        for fd in (self._file, self._index):
            if fd >= 0:
                os.close(fd)
        self._file = self._index = -1


def indexed(directory: Path) -> int:
    """Give how many bytes of output the index covers now."""
    try:
        with (directory / INDEX).open("rb") as file:
            entries = os.fstat(file.fileno()).st_size // _ENTRY
            if not entries:
                return 0
            end: int = CHUNK.unpack(os.pread(file.fileno(), _ENTRY, (entries - 1) * _ENTRY))[0]
            return end
    except FileNotFoundError:
        return 0


def _read_all(fd: int, size: int, offset: int) -> bytes:
    parts = []
    while size > 0 and (part := os.pread(fd, size, offset)):
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts)

"""The audit log's chain: each line bears the hash of the one before it. Pure: no files here.

Theory. A line is one JSON object in ASCII, with `seq`, which counts from 1, and `prev`, the SHA-256
of the exact bytes of the line before it, without its newline. So no line can be changed, removed,
put in or moved without the next one contradicting it; the last line's hash, the *head*, stands for
all lines up to it. What no chain can show is that its end was cut off, or that all of it was
written anew: for that somebody notes the head elsewhere, and compares.

The chain goes on over the borders of files. A file's first line is `opened`, and says from which
`seq` on files were kept when it was opened: older ones may be missing, later ones must not.

A supervisor that dies while it writes leaves a line without its end. The next one leaves it where
it is and writes `torn` after it, with the number and the hash of these loose bytes. They are in the
chain by that.
"""

import hashlib
import json
import re
from typing import Any, Final, NamedTuple

GENESIS: Final = "0" * 64
"""What the first line names as the hash before it."""

OPENED: Final = "opened"
TORN: Final = "torn"

CURRENT: Final = "audit.log"
"""The file that is written to."""

ROTATED: Final = "audit-*.log"
"""Those before it, each with the `seq` of its first line in its name."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")


class Head(NamedTuple):
    """The last line of a chain, which stands for all before it."""

    hash: str
    seq: int

    def __str__(self) -> str:
        return f"{self.hash}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Read `HASH:SEQ`.

        Raises:
            ValueError: it is not.
        """
        digest, _, seq = text.partition(":")
        if not (_HASH.fullmatch(digest) and seq.isascii() and seq.isdigit()):
            raise ValueError(f"a head is HASH:SEQ, as `jobsctl audit head` prints it, not {text!r}")
        return cls(digest, int(seq))


START: Final = Head(GENESIS, 0)


def rotated_name(first_seq: int) -> str:
    """Name a file that is written no more; names sort as their lines do."""
    return f"audit-{first_seq:012}.log"


def seal(head: Head, fields: dict[str, object]) -> tuple[bytes, Head]:
    """Make the next line of a chain; give it, without its newline, and the new head."""
    line = json.dumps({"seq": head.seq + 1, "prev": head.hash, **fields}).encode("ascii")
    return line, Head(hashlib.sha256(line).hexdigest(), head.seq + 1)


def read_line(line: bytes) -> dict[str, Any] | None:
    """Give what a line says; None: it is no line of a chain."""
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or type(said.get("seq")) is not int or said["seq"] < 1:
        return None
    return said if _HASH.fullmatch(str(said.get("prev"))) else None


class AuditError(Exception):
    """A chain is broken.

    Args:
        where: the file and the line, as people say it.
        what: a sentence without its end.
        file: the file's name.
        line: the number of the line in it; None: its end, or the whole.
    """

    def __init__(self, what: str, file: str | None = None, line: int | None = None) -> None:
        where = "".join((f"{file}, " if file else "", f"line {line}: " if line else ""))
        super().__init__(f"{where}{what}")
        self.what = what
        self.file = file
        self.line = line


class Loose:
    """Bytes between lines of the chain; their number and hash, with and without a last newline."""

    def __init__(self) -> None:
        self.size = 0
        self.line = 0
        self.lines = 0
        self.ended = True
        self._hash = hashlib.sha256()

    def add(self, line: bytes, number: int, *, ended: bool) -> None:
        """Take one line more, which ends with a newline or with the file."""
        self.line = self.line or number
        self.lines += 1
        if self.size:
            self._hash.update(b"\n")
        self._hash.update(line)
        self.size += len(line) + ended
        self.ended = ended

    def is_told_by(self, said: dict[str, Any]) -> bool:
        """Whether a `torn` line is about just these bytes."""
        whole = self._hash.copy()
        whole.update(b"\n")
        known = {
            (self.size, whole.hexdigest()),
            (self.size - 1, self._hash.hexdigest()),  # that newline was put before `torn`
        }
        return said.get("event") == TORN and (said.get("bytes"), said.get("sha256")) in known


class Chain:
    """Reads lines in their order, and raises at the first that contradicts the ones before it.

    Args:
        expected: a head that was noted, which has to be in it; None: nobody noted any.

    Attributes:
        first: the `seq` of the first line that was read; None: none yet.
        head: the last one.
        torn: bytes at the very end that are no whole line, and that nobody has marked yet.
    """

    def __init__(self, expected: Head | None = None) -> None:
        self.first: int | None = None
        self.head = START
        self.torn = 0
        self._expected = expected
        self._kept_from = 1
        self._file: str | None = None
        self._number = 0
        self._loose = Loose()

    def begin(self, file: str) -> None:
        """Go on in the next file."""
        self._settle_end_of_file()
        self._file, self._number = file, 0

    def take(self, raw: bytes) -> None:
        """Take the file's next line, with its newline if it has one.

        Raises:
            AuditError: it contradicts the lines before it.
        """
        self._number += 1
        line = raw.removesuffix(b"\n")
        ended = len(line) < len(raw)
        said = read_line(line) if ended else None
        if said is None:
            self._loose.add(line, self._number, ended=ended)
            return
        self._check_loose(said)
        self._check_order(said)
        if said.get("event") == OPENED and type(said.get("kept_from")) is int:
            self._kept_from = said["kept_from"]
        self.head = Head(hashlib.sha256(line).hexdigest(), said["seq"])
        if self._expected is not None and self.head.seq == self._expected.seq:
            self._check_expected(self._expected)

    def finish(self, *, whole: bool) -> None:
        """There is no more.

        Args:
            whole: these were all files that there are.

        Raises:
            AuditError: something is missing.
        """
        if self._loose.ended or self._loose.lines > 1:
            self._settle_end_of_file()
        self.torn = self._loose.size
        if self.first is None:
            raise self._fault("there is no line of an audit log in it", at=None)
        if whole and self.first > self._kept_from:
            raise AuditError(
                f"{_lines(self._kept_from, self.first - 1)} not there, and were not rotated away"
            )
        if self._expected is not None and not self.first <= self._expected.seq <= self.head.seq:
            raise self._lacks(self._expected)

    def _fault(self, what: str, at: int | None) -> AuditError:
        return AuditError(what, self._file, at)

    def _check_loose(self, said: dict[str, Any]) -> None:
        loose, self._loose = self._loose, Loose()
        if bool(loose.size) != (said.get("event") == TORN):
            raise self._fault(
                "it is no line of an audit log"
                if loose.size
                else "it tells of a torn line, and there is none",
                loose.line or self._number,
            )
        if loose.size and not loose.is_told_by(said):
            raise self._fault("it is not what was there when it was marked as torn", loose.line)

    def _check_order(self, said: dict[str, Any]) -> None:
        seq = said["seq"]
        if self.first is None:
            self.first = seq
            if seq > 1:
                return  # what was before it is not here to be compared
        if seq > self.head.seq + 1:
            raise self._fault(
                f"{_lines(self.head.seq + 1, seq - 1)} missing before it", self._number
            )
        if seq <= self.head.seq:
            raise self._fault(f"seq {seq} stands after seq {self.head.seq}", self._number)
        if said["prev"] != self.head.hash:
            raise self._fault(
                f"seq {self.head.seq}, the line before it, is not the one it was written after: "
                "one of the two was changed",
                self._number,
            )

    def _check_expected(self, expected: Head) -> None:
        if self.head.hash != expected.hash:
            raise self._fault(
                f"seq {expected.seq} is not the line whose hash was noted: it, or one before it, "
                "was changed",
                self._number,
            )

    def _settle_end_of_file(self) -> None:
        if self._loose.size:
            raise self._fault("it is no line of an audit log", self._loose.line)

    def _lacks(self, expected: Head) -> AuditError:
        if expected.seq > self.head.seq:
            return self._fault(
                f"it ends with seq {self.head.seq}, and seq {expected.seq} was noted: "
                "its end was cut off",
                at=None,
            )
        return AuditError(f"seq {expected.seq}, which was noted, was before all that is here")


def _lines(first: int, last: int) -> str:
    return f"seq {first} is" if first == last else f"seq {first} to {last} are"

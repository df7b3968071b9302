"""The audit log's files, read in the order of their lines."""

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from jobs_cli.failure import Failure

if TYPE_CHECKING:
    from jobs_proto.audit import Chain


def read_chain(chain: "Chain", paths: Iterable[Path]) -> None:
    """Have a chain checked through files, and through all of directories.

    Args:
        chain: fresh.
        paths: files in any order, and state directories.

    Raises:
        AuditError: it is broken.
        Failure: a file cannot be read, or a directory has none.
    """
    paths = tuple(paths)
    with ExitStack() as stack:
        opened = [file for path in paths for file in _open(stack, path)]
        unique = {os.fstat(file.fileno()).st_ino: file for file in opened}
        for file in sorted(unique.values(), key=_first_seq):
            with _telling_failure(Path(file.name)):
                chain.begin(Path(file.name).name)
                for line in file:
                    chain.take(line)
    chain.finish(whole=any(path.is_dir() for path in paths))


def _open(stack: ExitStack, path: Path) -> Iterator[BinaryIO]:
    from jobs_proto.audit import CURRENT, ROTATED

    with _telling_failure(path):
        if not path.is_dir():
            yield stack.enter_context(path.open("rb"))
            return
        # The current one first: if a rotation renames it now, it is found twice, not missed.
        current = path / CURRENT
        found = [stack.enter_context(current.open("rb"))] if current.exists() else []
        found += [stack.enter_context(old.open("rb")) for old in path.glob(ROTATED)]
        if not found:
            next(path.iterdir(), None)  # says if it may not be read
            raise Failure(f"there is no audit log in {path}; name its file, or its directory")
        yield from found


def _first_seq(file: BinaryIO) -> int:
    from jobs_proto.audit import read_line

    with _telling_failure(Path(file.name)):
        said = next(filter(None, map(read_line, file)), None)
        file.seek(0)
        return said["seq"] if said else 0


@contextmanager
def _telling_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(f"cannot read {error.filename or path}: {error.strerror}") from None

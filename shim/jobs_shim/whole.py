"""A file that is there whole under its name, or not at all; if need be, with room kept for it."""

import os

from jobs_proto.failpoint import failpoint

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC

RESERVED = 12288
"""Bytes kept: no record is larger; the longest name in one has 8192."""


class WholeFile:
    """A record to be written once.

    Its room may be taken from the disk beforehand: a disk that a job fills must not keep that job's
    own end from being written down.

    Args:
        directory: where it will be.
        name: its name.
        fd: of `open` or `reserve`.
    """

    __slots__ = ("_directory", "_fd", "_name")

    def __init__(self, directory: str, name: str, fd: int) -> None:
        self._directory = directory
        self._name = name
        self._fd = fd

    @staticmethod
    def open(directory: str, name: str) -> int:
        """Open it under another name, for what need not be written if there is no room."""
        return os.open(f"{directory}/{name}.new", _FLAGS, 0o600)

    @staticmethod
    def reserve(directory: str, name: str) -> int:
        """Open it under another name, with room for it.

        Raises:
            OSError: there is no room.
        """
        fd = WholeFile.open(directory, name)
        os.posix_fallocate(fd, 0, RESERVED)
        return fd

    def write(self, data: bytes, *, sync: bool) -> None:
        """Write it and give it its name.

        Args:
            data: all of it.
            sync: have it on the disk before this returns, name and all.
        """
        os.pwrite(self._fd, data, 0)
        os.ftruncate(self._fd, len(data))
        if sync:
            os.fsync(self._fd)
        os.close(self._fd)
        path = f"{self._directory}/{self._name}"
        failpoint("shim.before-rename")
        os.rename(f"{path}.new", path)
        failpoint("shim.renamed")
        if sync:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.fsync(fd)
            os.close(fd)

"""The process table, read from /proc: who lives, whose child it is, what it has open."""

import contextlib
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
GONE = (FileNotFoundError, ProcessLookupError)


class Process(NamedTuple):
    """One line of the table; proc_pid_stat(5)."""

    pid: int
    comm: str
    state: str
    parent: int
    session: int
    start: int

    @property
    def alive(self) -> bool:
        return self.state not in "ZX"


def look_at(pid: int) -> Process | None:
    """Give a process; None: there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except GONE:
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    comm = head.partition("(")[2]
    return Process(pid, comm, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def processes() -> Iterator[Process]:
    """Give every process that is alive."""
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (process := look_at(int(entry.name))) and process.alive:
            yield process


def children(pid: int) -> list[Process]:
    """Give the living children of a process."""
    return [process for process in processes() if process.parent == pid]


def descendants(pid: int) -> list[Process]:
    """Give the living children of a process, theirs, and so on."""
    return [each for child in children(pid) for each in (child, *descendants(child.pid))]


def bearing(mark: str) -> list[int]:
    """Give the processes with `mark` in their command line or environment."""
    return [
        process.pid
        for process in processes()
        if any(mark.encode() in _read(process.pid, name) for name in ("cmdline", "environ"))
    ]


def with_environment(variables: set[bytes]) -> list[int]:
    """Give the processes with one of these, `NAME=value`, in their environment."""
    return [
        process.pid
        for process in processes()
        if not variables.isdisjoint(_read(process.pid, "environ").split(b"\0"))
    ]


def _read(pid: int, name: str) -> bytes:
    try:
        return (PROC / str(pid) / name).read_bytes()
    except (*GONE, PermissionError):
        return b""  # gone; or not ours, and so nothing that we started


def open_files(pid: int) -> dict[int, str]:
    """Give the descriptors of a process and what they are: `pipe:[123]`, `/dev/null`."""
    files = {}
    for entry in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(*GONE):  # closed meanwhile
            files[int(entry.name)] = str(entry.readlink())
    return files


def channels(pid: int) -> set[str]:
    """Give the pipes and sockets that a process has open."""
    return {what for what in open_files(pid).values() if what.startswith(("pipe:", "socket:"))}


def threads(pid: int) -> int:
    """Count the threads of a process."""
    return len(list((PROC / str(pid) / "task").iterdir()))


def sleeps(pid: int) -> int:
    """Count how often a process has waited for something; proc_pid_status(5)."""
    rows = (PROC / str(pid) / "status").read_text().splitlines()
    (count,) = [row.split()[1] for row in rows if row.startswith("voluntary_ctxt_switches:")]
    return int(count)


def pss_kb(pid: int) -> int:
    """Give a process's proportional set size; proc_pid_smaps_rollup(5)."""
    text = (PROC / str(pid) / "smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0])


def wait_gone(pid: int, deadline_s: float) -> bool:
    """Wait until a process, of anybody's, has ended; False: it has not within `deadline_s`."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(deadline_s * 1000))
    finally:
        os.close(fd)

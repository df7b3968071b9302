"""What a job's directory holds, and the exact form of each file. Shim-safe: msgpack and struct.

    lock        empty; the shim holds flock(2) on it for life
    identity    who the shim is: written before anything of the job exists
    shim.sock   SOCK_SEQPACKET; a supervisor that comes back connects here
    output      the job's bytes in the order in which they arrived
    output.idx  one `Chunk` for each portion of them; zeros, where its head was given back
    output.from empty, and as long as the first offset of `output` that is kept; absent if it is 0
    exit        the exit record; its being there means that the job has ended
    secrets     a map of names to contents, from `run` until the job's launch
    shim.err    a traceback, if the shim itself failed

`identity` and `exit` are MessagePack maps. Keys may be added; a reader takes those it knows.
"""

import os
from struct import Struct

import msgpack

LOCK = "lock"
IDENTITY = "identity"
SOCKET = "shim.sock"
OUTPUT = "output"
INDEX = "output.idx"
FROM = "output.from"
EXIT = "exit"
SECRETS = "secrets"
SHIM_ERROR = "shim.err"

# End offset of the chunk, time in ns since the epoch, kind, reserved. Little-endian, 24 bytes.
CHUNK = Struct("<QQII")

STDOUT = 1
STDERR = 2
GAP = 16
"""Flag beside a stream: these bytes were written by the job and could not be kept."""

CAPPED = 32
"""Flag beside GAP, in place of a stream: they were over the output's cap. A chunk of no bytes says
that from here on they are dropped, until there is another chunk or the output ends."""

KEEP_TAIL = "keep-tail"
KEEP_HEAD = "keep-head"
BLOCK = "block"
POLICIES = (KEEP_TAIL, KEEP_HEAD, BLOCK)
"""What happens to output at its cap: the oldest goes; the newest goes; the job waits."""

STREAM_NAMES = {STDOUT: "stdout", STDERR: "stderr"}


# One for all: to make one for each record is to copy its pages in each shim. pack() is one call
# into C, which lets no other thread in between.
_packer = msgpack.Packer(unicode_errors="surrogateescape")


def encode(value: object) -> bytes:
    """Encode a record; text may hold bytes that are no UTF-8."""
    packed: bytes = _packer.pack(value)
    return packed


def decode(data: bytes) -> object:
    """Decode a record.

    Raises:
        ValueError: these bytes are no whole record (a file cut short by a crash, for example).
    """
    return msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)


def boot_id() -> str:
    """Give the kernel's id of this boot (random(4)): pids and start times hold only within one."""
    fd = os.open("/proc/sys/kernel/random/boot_id", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 64).decode().strip()
    finally:
        os.close(fd)


def start_time(pid: int) -> int:
    """Give the time a process started, in clock ticks since boot: with its pid, its identity.

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such process, or none that we may see.
    """
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_start_time(fd)
    finally:
        os.close(fd)


def read_start_time(stat: int) -> int:
    """Read it from a descriptor of the process's `stat`, which serves whoever has it.

    proc_pid_stat(5), field 22; the second field may hold spaces and parentheses.

    Raises:
        ProcessLookupError: there is no such process any more.
    """
    return int(os.read(stat, 450).rpartition(b")")[2].split(b" ", 21)[20])

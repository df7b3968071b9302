"""A job's claim: what makes a launch happen at most once.

Theory. The lock is taken first, and held for the shim's life: flock(2) belongs to the open file,
of which the shim is given a descriptor. Under it, and only if there is no identity, everything
that the shim will need is made, and the identity is written last: from then on the job counts as
launched, and nothing of it exists yet. The identity names the shim; the claim is made for it by a
process that ends (`jobs_shim.launcher`).
"""

import errno
import fcntl
import os

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.failpoint import failpoint
from jobs_shim.lean import socket
from jobs_shim.output import open_files
from jobs_shim.whole import WholeFile

_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_PATH_FLAGS = os.O_PATH | os.O_CLOEXEC
_BACKLOG = 16


class LaunchRefusedError(Exception):
    """This job was launched before, and would be run twice; or it cannot be launched from here."""


def claim(directory: str, boot: object, shim: int, stat: int) -> tuple[int, ...]:
    """Take the lock, make what a shim needs and write its identity.

    What a shim that died before it had an identity left here is overwritten.

    Args:
        directory: the job's.
        boot: this boot's id.
        shim: the pid of the shim.
        stat: a descriptor of its proc_pid_stat(5): on a host with `hidepid` only it may open that.

    Returns:
        Descriptors: the lock, output and index, the exit record's file, the listening socket.

    Raises:
        LaunchRefusedError: another shim has, or had, this job.
        OSError: its directory cannot be used.
    """
    lock = os.open(f"{directory}/{files.LOCK}", _LOCK_FLAGS, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LaunchRefusedError("another shim holds this job") from None
    failpoint("launcher.locked")
    if os.access(f"{directory}/{files.IDENTITY}", os.F_OK):
        raise LaunchRefusedError("this job was launched before")
    output, index = open_files(directory)
    record = WholeFile.reserve(directory, files.EXIT)
    listener = listen(directory)
    # If there is no room for this one, nothing has happened yet.
    identity = WholeFile(directory, files.IDENTITY, WholeFile.open(directory, files.IDENTITY))
    known = {
        "boot": boot,
        "pid": shim,
        "start": files.read_start_time(stat),
        "protocol": protocol.PROTOCOL,
    }
    failpoint("launcher.before-identity")
    identity.write(files.encode(known), sync=False)
    failpoint("launcher.identified")
    return lock, output, index, record, listener


def listen(directory: str) -> int:
    """Make `shim.sock`, where a supervisor that comes back connects."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    os.fchmod(listener.fileno(), 0o600)  # bind(2) gives the file what the socket has
    # A path to a socket is at most 107 bytes long, unix(7); a directory's descriptor is short.
    fd = os.open(directory, _PATH_FLAGS)
    path = f"/proc/self/fd/{fd}/{files.SOCKET}"
    try:
        listener.bind(path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        os.unlink(path)  # of a shim that died before it had launched
        listener.bind(path)
    os.close(fd)
    listener.listen(_BACKLOG)
    return listener.detach()

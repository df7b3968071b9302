"""A fork server, spawned. Imports next to nothing: it is done before all else at a start."""

import os
import socket
import sys
from typing import NamedTuple

from jobs_proto.failpoint import environment


class Spawned(NamedTuple):
    """A fork server that is getting ready.

    Attributes:
        pid: its process, our child.
        socket: our connection to it; it ends by itself at the end of that.
    """

    pid: int
    socket: socket.socket


def spawn() -> Spawned:
    """Start a fork server.

    Raises:
        OSError: it cannot be started.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-X", "utf8", "-m", "jobs_shim"],
            # LD_BIND_NOW: a symbol bound after the fork is a page of one's own
            {"LD_BIND_NOW": "1", **environment()},
            file_actions=[(os.POSIX_SPAWN_DUP2, its.fileno(), 0)],
        )
    return Spawned(pid, ours)

"""The connection to one shim: packets of `jobs_proto.shim` over a unix socket, under trio."""

import os
from contextlib import suppress
from pathlib import Path

import structlog
import trio

from jobs_proto import files
from jobs_proto import shim as protocol

TAKE_S = 5.0
"""How long a shim may take to read one packet; it has one thread, which does nothing that waits."""

log = structlog.get_logger()


class ShimLink:
    """One shim, as long as it or we live.

    Args:
        sock: SOCK_SEQPACKET, connected.
    """

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._socket = sock

    async def receive(self) -> tuple[str, protocol.Body] | None:
        """Give the next packet; None when the shim has gone."""
        try:
            try:
                packet = await self._socket.recv(protocol.MAX_PACKET)
            except ConnectionResetError:  # it had not read all, and may have said why
                packet = await self._socket.recv(protocol.MAX_PACKET)
            return protocol.unpack(packet) if packet else None
        except OSError:
            return None
        except ValueError:
            log.exception("a shim sent what is no packet")
            return None

    async def send(self, kind: str, body: protocol.Body) -> None:
        """Tell the shim; if it has gone, or reads nothing, `receive` will say that it has gone."""
        with suppress(OSError):
            with trio.move_on_after(TAKE_S) as late:
                await self._socket.send(protocol.pack(kind, body))
            if late.cancelled_caught:
                self._socket.shutdown(trio.socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go; the shim goes on."""
        self._socket.close()


async def connect(directory: Path) -> ShimLink:
    """Connect to the shim that holds a job's directory.

    Raises:
        OSError: it does not listen: not yet, or not any more.
    """
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET)
    # The path of a socket is at most 107 bytes long, unix(7); a directory's descriptor is short.
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        await sock.connect(f"/proc/self/fd/{fd}/{files.SOCKET}")
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(fd)
    return ShimLink(sock)

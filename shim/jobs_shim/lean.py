"""The C modules below `signal` and `socket`, under the names that type checkers know.

Without the enums and the wrapper classes above them a shim has 100 kB less of its own.
"""

TYPE_CHECKING = False  # what type checkers take for typing's, without importing typing
if TYPE_CHECKING:
    import signal
    import socket
else:
    import _signal as signal
    import _socket as socket

__all__ = ["signal", "socket", "socket_pair"]


def socket_pair(flags: int = 0) -> tuple[int, int]:
    """Make two connected sockets that keep packets whole."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | flags)
    return one.detach(), other.detach()

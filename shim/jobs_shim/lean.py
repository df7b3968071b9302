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

__all__ = ["signal", "socket"]

"""Memory that a crowd of clients has used goes back to the host when the crowd has gone.

Theory. malloc(3) gives back the end of its heap, and nothing that is free before something that is
not: what a hundred followers had would be kept for the next hundred, who may never come.
malloc_trim(3) gives back every page that is free; that takes milliseconds, so it is done when most
of a crowd has gone, and not for each of them.
"""

import ctypes

CROWD = 16
"""So many clients at once may leave something behind that is worth while."""

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl gives back without it


class Memory:
    """Watches how many clients there are."""

    def __init__(self) -> None:
        self._most = 0

    def clients(self, count: int) -> None:
        """Be told how many there are now."""
        self._most = max(self._most, count)
        if self._most >= CROWD and count <= self._most // 4:
            self._most = count
            if _trim is not None:
                _trim(0)

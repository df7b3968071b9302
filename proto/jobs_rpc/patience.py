"""How long to go on trying, and how often: bounded exponential back-off."""

import random
from collections.abc import Callable
from typing import Final

import trio

FIRST_S: Final = 0.05
LONGEST_S: Final = 5.0


class Patience:
    """Ends `total_s` seconds after the first failure that no success has followed.

    Args:
        total_s: seconds.
        told: called with the first error after a success: whoever waits may want to know why.
    """

    def __init__(self, total_s: float, told: Callable[[Exception], None] | None = None) -> None:
        self._total_s: Final = total_s
        self._told: Final = told
        self._until: float | None = None
        self._pause_s = FIRST_S

    def succeeded(self) -> None:
        """Start anew."""
        self._until = None
        self._pause_s = FIRST_S

    async def pause(self, error: Exception) -> None:
        """Wait a little before the next try, or raise `error` if patience is at its end."""
        now = trio.current_time()
        if self._until is None:
            self._until = now + self._total_s
            if self._told is not None:
                self._told(error)
        if now >= self._until:
            raise error
        # Not all clients of a supervisor that restarts come back in the same moment.
        jittered = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311  no secret
        await trio.sleep(min(jittered, self._until - now))
        self._pause_s = min(self._pause_s * 2, LONGEST_S)

"""Places that some may have at once, in tasks that come to a checkpoint all the same."""

from types import TracebackType
from typing import Final

import trio


class Slots:
    """So many may be within `async with` at once; the others wait, in the order they came.

    Unlike trio's own, a place that is free is taken without a checkpoint: each of those is a
    turn of all tasks, and costs a request more than its decision does. What is done within has one,
    since it sends.

    Args:
        count: how many; with one, it is a lock.
    """

    def __init__(self, count: int) -> None:
        self._places: Final = trio.Semaphore(count)

    async def __aenter__(self) -> None:
        """Take a place."""
        try:
            self._places.acquire_nowait()
        except trio.WouldBlock:
            await self._places.acquire()

    async def __aexit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """Give it to the next one."""
        self._places.release()

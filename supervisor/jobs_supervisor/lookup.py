"""Looking into directories that somebody else chose, which may be on anything.

Theory. A file system that hangs (a network's, a user's own) holds whoever asks it for ever, signals
or not. So nobody asks in the event loop; a thread does, and is left behind when its time is over.
A thread that hangs is still a thread: each owner has a few, and none of anybody else's.
"""

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

import trio

from jobs_proto.errors import JobsError

LOOKUP_S = 5.0
"""How long a directory may take to say what is in it."""

AT_ONCE = 4
"""Threads that look, or hang, for one owner."""

T = TypeVar("T")


class Lookups:
    """Those who look."""

    def __init__(self) -> None:
        # Kept by the threads that go by it: an owner for whom none looks has none.
        self._limiters: WeakValueDictionary[str, trio.CapacityLimiter] = WeakValueDictionary()

    async def look(self, owner: str, where: str, find: Callable[[], T]) -> T:
        """Call `find` in a thread.

        Args:
            owner: for whom.
            where: what it looks at, for people.
            find: may wait for ever.

        Raises:
            JobsError: `failed_precondition`: it took too long; or what `find` raises. Not
                `unavailable`, which clients try again: what hangs will hang.
        """
        limiter = self._limiters.setdefault(owner, trio.CapacityLimiter(AT_ONCE))
        try:
            with trio.fail_after(LOOKUP_S):
                return await trio.to_thread.run_sync(find, abandon_on_cancel=True, limiter=limiter)
        except trio.TooSlowError:
            raise JobsError(
                "failed_precondition",
                f"{where} gave no answer within {LOOKUP_S:g} s: see whether what it is on (a "
                f"network file system, for example) hangs; {AT_ONCE} of your jobs may wait for "
                "such an answer at a time",
            ) from None

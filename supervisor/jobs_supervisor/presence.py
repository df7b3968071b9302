"""Who is here: each identity's connections, followers and pace, and the requests under way."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import trio

from jobs_proto.errors import JobsError
from jobs_supervisor.quotas import Quotas, refusal


class Presence:
    """Everybody who is connected now.

    Args:
        quotas: theirs.
        max_connections: of all together.
    """

    def __init__(self, quotas: Quotas, max_connections: int) -> None:
        self._quotas = quotas
        self._max_connections = max_connections
        self._connections: Counter[str] = Counter()
        self._followers: Counter[str] = Counter()
        self._due: dict[str, float] = {}
        self._working = 0
        self._rested = trio.Event()

    @contextmanager
    def connection(self, name: str) -> Iterator[None]:
        """Count a connection of `name`, for as long as the `with` statement lasts.

        Raises:
            JobsError: `resource_exhausted`: there are too many, of theirs or of all.
        """
        if self._connections.total() >= self._max_connections:
            raise JobsError(
                "resource_exhausted",
                f"the supervisor has {self._max_connections} connections, which is its limit "
                "(max_connections); try again later",
            )
        quota = self._quotas.of(name).connections
        with _counted(self._connections, name, "connections", quota, "close some"):
            yield

    @contextmanager
    def follower(self, name: str) -> Iterator[None]:
        """Count a follower of `name`, likewise.

        Raises:
            JobsError: `resource_exhausted`: they have too many.
        """
        quota = self._quotas.of(name).followers
        with _counted(self._followers, name, "followers", quota, "end some"):
            yield

    async def pace(self, name: str) -> None:
        """Wait until `name` may ask one thing more (the generic cell rate algorithm).

        Not reading a request is the answer to too many: honest clients become slower, and nobody
        has to ask again.
        """
        quota, now = self._quotas.of(name), trio.current_time()
        if quota.requests_per_s == inf:
            return
        due = max(self._due.get(name, 0), now)  # when all that was asked would be, at this rate
        self._due[name] = due + 1 / quota.requests_per_s
        late = due - now - (quota.burst - 1) / quota.requests_per_s
        if late > 0:
            await trio.sleep(late)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count a request that is being answered, for as long as the `with` statement lasts."""
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._rested.set()
                self._rested = trio.Event()

    def is_awaited(self) -> bool:
        """Whether a request is being answered."""
        return self._working > 0

    async def rest(self) -> None:
        """Wait until none is."""
        while self._working:
            await self._rested.wait()

    def used(self, name: str) -> dict[str, float]:
        """Give what an identity has of each quota of connections."""
        return {"connections": self._connections[name], "followers": self._followers[name]}


@contextmanager
def _counted(
    counter: Counter[str], name: str, quota_name: str, quota: int, do: str
) -> Iterator[None]:
    if counter[name] >= quota:
        raise refusal(quota_name, quota, counter[name], do)
    counter[name] += 1
    try:
        yield
    finally:
        counter[name] -= 1
        if not counter[name]:
            del counter[name]

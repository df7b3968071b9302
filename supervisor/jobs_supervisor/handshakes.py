"""Connections of which nobody knows yet whose they are: bounded apart from all others.

Theory. Who opens connections and says nothing must not keep others out. An honest handshake is over
within a round trip or two, so when there are too many, the oldest one goes: of the same address, if
that has too many, else of the address that has most. Whoever floods us thus drives out itself; the
newcomer always gets its turn.

Nor may a crowd of strangers make those wait whom we know. Who says nothing is a socket and a task;
a TLS object, 100 kB, is made when there is something to read. A step of a handshake is up to some
milliseconds of signatures, for which OpenSSL needs no Python: it is taken in a thread, one at a
time, and a crowd's steps are spread (`Turn`). And while a request is being answered, strangers are
let in more slowly (`Door`).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, ip_address
from math import inf

import trio
from attrs import define, field

from jobs_supervisor.config import ServerSettings

SHARE = 1 / 6
"""Of the time, for steps of handshakes while several wait, or somebody who is known does."""

ACCEPT_S = 0.001
"""Between two connections that are accepted while somebody who is known waits for us."""


@define(eq=False)
class Handshake:
    """One that is not over.

    Attributes:
        scope: ends it.
        why: it was ended, in words.
    """

    scope: trio.CancelScope
    why: str = field(default="")

    def end(self, why: str) -> None:
        """Close the connection."""
        self.why = why
        self.scope.cancel()

    @contextmanager
    def waits_for_us(self) -> Iterator[None]:
        """Have its time stand still, for as long as the `with` statement lasts."""
        left = self.scope.deadline - trio.current_time()
        self.scope.deadline = inf
        try:
            yield
        finally:
            self.scope.deadline = trio.current_time() + left


class Handshakes:
    """All that are not over, by address.

    Args:
        settings: how many there may be, and how long.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._open: defaultdict[str, dict[Handshake, None]] = defaultdict(dict)  # oldest first

    @contextmanager
    def begin(self, host: str) -> Iterator[Handshake]:
        """Count one, for as long as the `with` statement lasts; end an older one to make room."""
        address = network(host)
        limit = self.settings.handshake_s
        with trio.move_on_after(limit) as scope:
            ours = Handshake(scope, f"it did not finish its handshake within {limit:g} s")
            self._make_room(address)
            self._open[address][ours] = None
            try:
                yield ours
            finally:
                self._forget(address, ours)

    def _make_room(self, address: str) -> None:
        if len(self._open.get(address, ())) >= self.settings.max_handshakes_per_address:
            self._end_oldest(address, "its address has too many unfinished handshakes")
        elif sum(map(len, self._open.values())) >= self.settings.max_handshakes:
            most = max(self._open, key=lambda each: len(self._open[each]))
            self._end_oldest(most, "there are too many unfinished handshakes, most of its address")

    def _end_oldest(self, address: str, why: str) -> None:
        oldest = next(iter(self._open[address]))
        self._forget(address, oldest)
        oldest.end(why)

    def _forget(self, address: str, handshake: Handshake) -> None:
        self._open[address].pop(handshake, None)
        if not self._open[address]:
            del self._open[address]


class Turn:
    """Lets one handshake compute at a time, and a crowd no more than `SHARE` of the time.

    Args:
        awaited: whether somebody who is known waits for us.
    """

    def __init__(self, awaited: Callable[[], bool]) -> None:
        self._awaited = awaited
        self._lock = trio.Lock()
        self._thread = trio.CapacityLimiter(1)  # its own: a step waits for nobody's slow disk
        self._took_s = 0.0
        self._due = 0.0

    async def take(self, handshake: Handshake, step: Callable[[], None]) -> None:
        """Call a step of a handshake, in a thread, when it is its turn."""
        with handshake.waits_for_us():
            await self._take(step)

    async def _take(self, step: Callable[[], None]) -> None:
        async with self._lock:
            if self._lock.statistics().tasks_waiting or self._awaited():
                await trio.sleep_until(self._due)
            try:
                await trio.to_thread.run_sync(self._time, step, limiter=self._thread)
            finally:
                self._due = trio.current_time() + self._took_s * (1 / SHARE - 1)

    def _time(self, step: Callable[[], None]) -> None:
        began = time.thread_time()  # not what others took of the processor meanwhile
        try:
            step()
        finally:
            self._took_s = time.thread_time() - began


class Door(trio.abc.Listener[trio.SocketStream]):
    """Lets strangers in, but slowly while somebody who is known waits for us.

    Whom it leaves outside, the kernel keeps in its queue, where they cost nothing.

    Args:
        listener: where they come to.
        awaited: whether somebody who is known waits for us.
    """

    def __init__(self, listener: trio.SocketListener, awaited: Callable[[], bool]) -> None:
        self._listener = listener
        self._awaited = awaited
        self._due = 0.0

    async def accept(self) -> trio.SocketStream:
        """Wait for the next one."""
        if self._awaited():
            await trio.sleep_until(self._due)
        stream = await self._listener.accept()
        self._due = trio.current_time() + ACCEPT_S
        return stream

    async def aclose(self) -> None:
        """Let nobody in any more."""
        await self._listener.aclose()


def network(host: str) -> str:
    """Give what stands for one site: an IPv4 address, or the 64 bits that an IPv6 site has."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return host
    mapped = address.ipv4_mapped
    return str(mapped or IPv6Address(int(address) >> 64 << 64))


def peer_of(sock: trio.socket.SocketType) -> tuple[str, int]:
    """Give the host and the port that a connection comes from."""
    try:
        host, port = sock.getpeername()[:2]
    except OSError:  # it has gone already
        return "", 0
    return host, port

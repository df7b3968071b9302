"""Events on their way to plugins: each plugin has a queue, and a task that tells it one by one.

Nothing waits for a plugin. A queue that is full loses what comes next: a plugin that is too slow
misses events, and no job or request is later for it.
"""

from collections.abc import Callable
from typing import Final

import pluggy
import trio

from jobs_plugins.event import JobEvent
from jobs_plugins.hook import Failure, Hook
from jobs_plugins.plugins import hooks_of

EVENT_S: Final = 10.0
"""How long a plugin has for one event, unless the settings say otherwise."""

MAX_WAITING: Final = 10_000
"""Events that wait for one plugin."""


class LostError(Exception):
    """A plugin did not keep up with events."""


class Events:
    """Tells plugins what has happened to jobs, in the order in which it did.

    Args:
        manager: has loaded the plugins.
        event_s: seconds that each has for one event; then it gets the next one.
        failed: is told of each failure: what was raised, out of time, or lost.
        max_waiting: events that wait for one plugin; more are lost.
    """

    def __init__(
        self,
        manager: pluggy.PluginManager,
        *,
        event_s: float = EVENT_S,
        failed: Callable[[Failure], None],
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._listeners = [
            _Listener(hook, event_s, failed, max_waiting)
            for hook in hooks_of(manager.hook.jobs_event)
        ]

    def publish(self, event: JobEvent) -> None:
        """Have every plugin told, soon; returns at once."""
        for listener in self._listeners:
            listener.put(event)

    def close(self) -> None:
        """Take no more: `run` returns when all that were taken are told."""
        for listener in self._listeners:
            listener.close()

    async def run(self) -> None:
        """Tell the plugins; what waits when this is cancelled is never told."""
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                nursery.start_soon(listener.run)


class _Listener:
    """One plugin, and what it has yet to be told."""

    def __init__(
        self, hook: Hook, seconds: float, failed: Callable[[Failure], None], max_waiting: int
    ) -> None:
        self._hook = hook
        self._seconds = seconds
        self._failed = failed
        self._sender, self._receiver = trio.open_memory_channel[JobEvent](max_waiting)
        self._lost = 0

    def put(self, event: JobEvent) -> None:
        try:
            self._sender.send_nowait(event)
        except trio.WouldBlock:
            self._lost += 1
            if self._lost == 1:
                self._complain("it does not keep up; events are lost until it does")

    def close(self) -> None:
        self._sender.close()

    async def run(self) -> None:
        async for event in self._receiver:
            (answer,) = await self._hook.ask([{"event": event}], self._seconds)
            if isinstance(answer, Failure):
                self._failed(answer)
            if self._lost and not self._receiver.statistics().current_buffer_used:
                self._complain(f"it has caught up; {self._lost} events were lost")
                self._lost = 0

    def _complain(self, why: str) -> None:
        self._failed(Failure(plugin=self._hook.plugin, error=LostError(why)))

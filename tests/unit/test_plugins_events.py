"""Events: in order, from a bounded queue, whatever a plugin does with one."""

import pytest
import trio

from jobs_plugins import JobEvent, Kind, hookimpl
from jobs_plugins.events import Events, LostError
from jobs_plugins.hook import HungError
from jobs_plugins.manager import make_manager

COUNT = 50


def event_of(number):
    return JobEvent(kind=Kind.STARTED, job_id=str(number), time="", job=None)


class Listener:
    """Does to each event what it was told to, then notes it."""

    def __init__(self, does=None, until=COUNT):
        self.does = does or {}
        self.until = until
        self.told = []
        self.done = trio.Event()

    @hookimpl
    async def jobs_event(self, event):
        number = int(event.job_id)
        try:
            if number in self.does:
                await self.does[number]()
            self.told.append(number)
        finally:
            if number == self.until - 1:
                self.done.set()


async def dawdles():
    await trio.sleep(5)


async def fails():
    raise ValueError("no")


def events_of(listeners, failures, **options):
    named = [(f"p{n}", plugin) for n, plugin in enumerate(listeners)]
    return Events(make_manager(named, load=False), failed=failures.append, **options)


async def test_each_plugin_is_told_all_in_order(autojump_clock):
    one, other, failures = Listener(), Listener({3: dawdles}), []
    events = events_of([one, other], failures)
    for number in range(COUNT):
        events.publish(event_of(number))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run)
        await one.done.wait()
        assert other.told == [0, 1, 2]  # the slow one holds up itself alone
        await other.done.wait()
        nursery.cancel_scope.cancel()
    assert one.told == other.told == list(range(COUNT))
    assert failures == []


async def test_one_that_raises_or_hangs_is_told_the_next(autojump_clock):
    plugin, failures = Listener({3: fails, 5: trio.sleep_forever}), []
    events = events_of([plugin], failures, event_s=10)
    for number in range(COUNT):
        events.publish(event_of(number))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run)
        await plugin.done.wait()
        nursery.cancel_scope.cancel()
    assert plugin.told == [n for n in range(COUNT) if n not in (3, 5)]
    assert [type(failure.error) for failure in failures] == [ValueError, HungError]


async def test_what_is_too_much_is_lost_and_counted(autojump_clock):
    plugin, failures = Listener(until=10), []
    events = events_of([plugin], failures, max_waiting=10)
    for number in range(COUNT):
        events.publish(event_of(number))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run)
        await plugin.done.wait()
        await trio.testing.wait_all_tasks_blocked()
        plugin.done, plugin.until = trio.Event(), 100
        events.publish(event_of(99))
        await plugin.done.wait()
        nursery.cancel_scope.cancel()
    assert plugin.told == [*range(10), 99]
    assert [type(failure.error) for failure in failures] == [LostError, LostError]
    assert "40 events were lost" in str(failures[1].error)


@pytest.mark.parametrize("answer", [None, "thanks", 7])
async def test_what_is_answered_counts_for_nothing(answer, autojump_clock):
    class Polite(Listener):
        @hookimpl
        async def jobs_event(self, event):
            await Listener.jobs_event(self, event)
            return answer

    plugin, failures = Polite(until=1), []
    events = events_of([plugin], failures)
    events.publish(event_of(0))
    events.close()
    await events.run()
    assert (plugin.told, failures) == ([0], [])

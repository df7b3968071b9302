"""Plugins that hang in a thread, are asked too much, or leave the request no time."""

import threading

import pytest
import trio
from trio.testing import assert_no_checkpoints

from jobs_plugins import Allow, hookimpl
from jobs_plugins.hook import MAX_HUNG, HungError
from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import Plugins
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import Job, Limits, Spec

ADMIN = Identity(name="root", roles=["admin"], fingerprint="", not_after="")
SPEC = Spec(argv=("true",))
JOB = Job(id="0", owner="somebody", spec=SPEC, created_at="")
SOON_S = 0.2
"""A deadline that a hung plugin is given."""

LONG_S = 60.0
"""One that no test waits for."""


class Stuck:
    """Waits in its thread until the test lets go, then allows."""

    def __init__(self, *, stuck_on=("kill",)):
        self.go_on = threading.Event()
        self.stuck_on = stuck_on
        self.begun = 0
        self.ended = 0

    @hookimpl
    def jobs_authorize(self, action):
        self.begun += 1
        if action in self.stuck_on:
            assert self.go_on.wait(LONG_S)
        self.ended += 1
        return Allow("at last")


@pytest.fixture
def stuck():
    plugin = Stuck()
    yield plugin
    plugin.go_on.set()


def plugins_of(*plugins, decide_s=SOON_S, failed=lambda _failure: None):
    named = [(f"p{n}", plugin) for n, plugin in enumerate(plugins)]
    return Plugins(make_manager(named, load=False), decide_s=decide_s, failed=failed)


async def test_a_thread_that_hangs_denies_and_holds_up_nobody(stuck):
    plugins = plugins_of(stuck)
    decision = await plugins.decide(ADMIN, "kill", None, JOB)  # the built-in alone would allow it
    assert (decision.allow, decision.plugin) == (False, "p0")
    assert decision.why == f"the plugin p0 gave no answer within {SOON_S:g} s"
    assert isinstance(decision.failures[0].error, HungError)
    stuck.go_on.set()
    with trio.fail_after(LONG_S):
        while not (await plugins.decide(ADMIN, "inspect", None, JOB)).allow:
            await trio.lowlevel.checkpoint()


async def test_too_many_hung_threads_deny_at_once_until_they_come_back(stuck):
    plugins = plugins_of(stuck)
    with trio.fail_after(LONG_S):
        while stuck.begun < MAX_HUNG:  # a thread may begin after its deadline
            await plugins.decide(ADMIN, "kill", None, JOB)
    for action in ("kill", "inspect"):
        decision = await plugins.decide(ADMIN, action, None, JOB)
        assert (
            decision.why == f"the plugin p0 is not asked: {MAX_HUNG} earlier calls have never ended"
        )
    assert stuck.begun == MAX_HUNG
    stuck.go_on.set()
    with trio.fail_after(LONG_S):
        while not (await plugins.decide(ADMIN, "inspect", None, JOB)).allow:
            await trio.lowlevel.checkpoint()


async def test_what_a_hung_plugin_says_late_is_not_heard(stuck):
    plugins = plugins_of(stuck)
    (decision,) = await plugins.decide_each(ADMIN, "kill", None, [JOB])
    stuck.go_on.set()
    with trio.fail_after(LONG_S):
        while not stuck.ended:
            await trio.lowlevel.checkpoint()
    assert not decision.allow


async def test_of_many_jobs_those_that_were_decided_in_time_are_decided():
    release = threading.Event()

    class Slow:
        @hookimpl
        def jobs_authorize(self, job):
            if job.id == "2":
                release.wait(LONG_S)
            return Allow("quick")

    failures = []
    plugins = plugins_of(Slow(), failed=failures.append)
    jobs = [Job(id=str(n), owner="x", spec=SPEC, created_at="") for n in range(5)]
    with trio.fail_after(LONG_S):
        while True:  # until the thread could begin within its time
            failures.clear()
            decisions = await plugins.decide_each(ADMIN, "inspect", None, jobs)
            if decisions[0].allow:
                break
    release.set()
    assert [each.allow for each in decisions] == [True, True, False, False, False]
    assert [each.hung for each in decisions] == [False, False, True, True, True]
    assert len(failures) == 1  # said once, and not for each job


async def test_a_request_that_is_cancelled_leaves_its_thread_behind(stuck):
    plugins = plugins_of(stuck, decide_s=LONG_S)
    with trio.move_on_after(SOON_S) as scope:
        await plugins.decide(ADMIN, "kill", None, JOB)
    assert scope.cancelled_caught


async def test_a_cancellation_that_a_plugin_makes_up_is_its_failure():
    kept = []

    class Keeper:
        @hookimpl
        async def jobs_authorize(self):
            if kept:
                raise kept[0]
            with trio.move_on_after(0):
                try:
                    await trio.sleep_forever()
                except trio.Cancelled as cancelled:
                    kept.append(cancelled)
                    raise
            return Allow("the first time")

    plugins = plugins_of(Keeper(), decide_s=LONG_S)
    assert (await plugins.decide(ADMIN, "kill", None, JOB)).allow
    decision = await plugins.decide(ADMIN, "kill", None, JOB)
    assert (decision.allow, decision.failures[0].error) == (False, kept[0])


async def test_without_other_plugins_nothing_waits():
    plugins = plugins_of()
    jobs = [JOB] * 500
    with assert_no_checkpoints():
        decisions = await plugins.decide_each(ADMIN, "inspect", None, jobs)
        assert await plugins.limit(ADMIN, SPEC) == []
    assert all(decision.allow for decision in decisions)


class Limiter:
    def __init__(self, answer):
        self.answer = answer

    @hookimpl
    async def jobs_limits(self, identity, spec):
        if self.answer == "hang":
            await trio.sleep_forever()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


async def test_limits_come_with_their_plugins_names():
    some, none, more = Limiter(Limits(pids=3)), Limiter(None), Limiter(Limits(cpus=1))
    given = await plugins_of(some, none, more).limit(ADMIN, SPEC)
    assert given == [("p2", Limits(cpus=1)), ("p0", Limits(pids=3))]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("hang", "the plugin p1 gave no answer within"),
        (ValueError("a secret"), "the plugin p1 failed when it was asked"),
        ({"pids": 3}, "the plugin p1 failed when it was asked"),
    ],
)
async def test_a_limits_plugin_that_fails_refuses_the_job(answer, told):
    failures = []
    plugins = plugins_of(Limiter(Limits(pids=3)), Limiter(answer), failed=failures.append)
    with pytest.raises(JobsError, match=told) as caught:
        await plugins.limit(ADMIN, SPEC)
    assert caught.value.code == "failed_precondition"
    assert "a secret" not in caught.value.message
    assert [failure.plugin for failure in failures] == ["p1"]


async def test_a_limits_plugin_refuses_in_its_own_words():
    refusal = JobsError("resource_exhausted", "Closed on Sundays.")
    with pytest.raises(JobsError) as caught:
        await plugins_of(Limiter(refusal)).limit(ADMIN, SPEC)
    assert caught.value is refusal

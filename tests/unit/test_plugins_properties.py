"""What plugins cannot bring about, whatever they answer, raise or wait for."""

from pathlib import Path

import attrs
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from jobs_plugins import Allow, Deny, hookimpl
from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import Plugins
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import Job, Limits, Spec
from jobs_proto.tightest import LIMITS, tightest
from jobs_supervisor.cgroups import Tree
from jobs_supervisor.limits import grant

NOBODY = Identity(name="nobody", fingerprint="", not_after="")
SPEC = Spec(argv=("true",))
JOBS = [Job(id=str(n), owner="x", spec=SPEC, created_at="") for n in range(3)]
DEADLINE = 2.0


class Scripted:
    """Does one thing for each question: waits, catches its cancellation or not, then answers."""

    def __init__(self, script):
        self.script = script
        self.given = []

    @hookimpl
    async def jobs_authorize(self, job):
        seconds, stubborn, answer = self.script[int(job.id) % len(self.script)]
        try:
            await trio.sleep(seconds)
        except trio.Cancelled:
            if not stubborn:
                raise
        if isinstance(answer, BaseException):
            raise answer
        self.given.append((job.id, trio.current_time(), answer))
        return answer


SECONDS = st.sampled_from([0, 0.5, 1.9, 2.1, 5, float("inf")])
ANSWERS = st.one_of(
    st.none(),
    st.builds(Allow, st.text(max_size=3)),
    st.builds(Deny, st.text(max_size=3)),
    st.sampled_from([True, "allow", 1, [Allow("x")]]),
    st.builds(lambda kind: kind("x"), st.sampled_from([ValueError, SystemExit, GeneratorExit])),
    st.just(JobsError("internal", "x")),
)
SCRIPTS = st.lists(st.tuples(SECONDS, st.booleans(), ANSWERS), min_size=1, max_size=3)
PLUGINS = st.lists(st.builds(Scripted, SCRIPTS), max_size=3)


def ask(plugins, *, gone_after=float("inf")):
    """Have them decide on all jobs, by a clock that jumps; None: the request was cancelled."""
    asked = Plugins(
        make_manager([(f"p{n}", p) for n, p in enumerate(plugins)], load=False), decide_s=DEADLINE
    )

    async def decide():
        decisions = None
        with trio.move_on_after(gone_after):
            decisions = await asked.decide_each(NOBODY, "kill", None, JOBS)
        return decisions, trio.current_time()

    return trio.run(decide, clock=MockClock(autojump_threshold=0))


@settings(deadline=None)  # of time that passes elsewhere
@given(PLUGINS)
@example([Scripted([(5, True, Allow("late"))])])
def test_no_answers_exceptions_and_hangs_give_an_allow_that_no_plugin_gave(plugins):
    decisions, took = ask(plugins)
    assert took <= DEADLINE + 1e-6
    for job, decision in zip(JOBS, decisions, strict=True):
        in_time = [
            [answer for ident, when, answer in plugin.given if ident == job.id and when < DEADLINE]
            for plugin in plugins
        ]
        silent_or_allowing = all(
            answers and (answers[0] is None or type(answers[0]) is Allow) for answers in in_time
        )
        allowing = any(type(answer) is Allow for answers in in_time for answer in answers)
        assert decision.allow is (silent_or_allowing and allowing)
        if decision.allow:
            said = plugins[int(decision.plugin[1:])]
            assert (job.id, decision.why) in [
                (ident, answer.why) for ident, _, answer in said.given if type(answer) is Allow
            ]


@settings(deadline=None)  # of time that passes elsewhere
@given(PLUGINS, st.sampled_from([0, 0.4, 1, 1.95]))
@example([Scripted([(5, True, Allow("late"))])], 1)
def test_a_request_that_is_cancelled_is_never_decided_late(plugins, gone_after):
    decisions, took = ask(plugins, gone_after=gone_after)
    assert took <= gone_after + 1e-6
    waits = [plugin.script[n % len(plugin.script)][0] for plugin in plugins for n in range(3)]
    if any(seconds > gone_after for seconds in waits):
        assert decisions is None


def _cpusets(cpus):
    return ",".join(map(str, sorted(cpus)))


VALUES = {
    "cpus": st.sampled_from([0.01, 0.5, 1.0, 4.0]),
    "cpuset": st.sets(st.integers(0, 0), min_size=1).map(_cpusets),
    "memory_bytes": st.integers(2 << 20, 1 << 30),
    "enforcement": st.sampled_from(["required", "best-effort"]),
    "io_device": st.none(),
    "nofile": st.integers(1, 1000),
}
OF_ONE = {
    field.name: VALUES.get(field.name, st.integers(1, 1000)) for field in attrs.fields(Limits)
}
SOME_LIMITS = st.builds(
    Limits,
    **{
        name: values if name == "enforcement" else st.none() | values
        for name, values in OF_ONE.items()
    },
)
CONTROLLERS = ("cpu", "memory", "pids", "io", "cpuset", "swap")
TREES = st.sets(st.sampled_from(CONTROLLERS)).map(
    lambda there: Tree(
        unified=True,
        track=Path("/cg/x"),
        controllers=dict.fromkeys(there, (Path("/cg/x"),)),
        missing=dict.fromkeys(set(CONTROLLERS) - there, "it was not handed on"),
    )
)


def granted(asked, default, maximum, tree, imposed):
    try:
        return grant(asked, default, maximum, tree, imposed=imposed)
    except JobsError:
        return None


@settings(deadline=None)  # of time that passes elsewhere
@given(SOME_LIMITS, SOME_LIMITS, SOME_LIMITS, TREES, st.lists(SOME_LIMITS, max_size=4))
def test_limits_only_ever_tighten(asked, default, maximum, tree, given_by_plugins):
    imposed = [(f"p{n}", limits) for n, limits in enumerate(given_by_plugins)]
    without = granted(asked, default, maximum, tree, [])
    got = granted(asked, default, maximum, tree, imposed)
    if without is None:
        assert got is None  # a plugin makes nothing possible
    if got is None:
        return
    assert tightest(without.limits, got.limits) == got.limits
    for name in LIMITS:
        there = [getattr(limits, name) for _, limits in imposed]
        wanted = [value for value in [getattr(without.limits, name), *there] if value is not None]
        value = getattr(got.limits, name)
        if value is not None and wanted:
            assert value in wanted
        if name in got.limited_by:
            plugin = dict(imposed)[got.limited_by[name]]
            assert value == getattr(plugin, name)
        else:
            assert value == getattr(without.limits, name) or name == "swap_bytes"


@settings(deadline=None)  # of time that passes elsewhere
@given(st.lists(SOME_LIMITS, min_size=1, max_size=5), st.randoms())
def test_the_order_of_limits_changes_none(some, random):
    shuffled = some[:]
    random.shuffle(shuffled)
    one, other = tightest(*some), tightest(*shuffled)
    assert [getattr(one, name) for name in LIMITS] == [getattr(other, name) for name in LIMITS]


def test_limits_that_contradict_each_other():
    with pytest.raises(ValueError, match="no CPU in common"):
        tightest(Limits(cpuset="0-1"), Limits(cpuset="2"))
    assert tightest(Limits(cpuset="0-3"), Limits(cpuset="2,5,3")).cpuset == "2,3"
    assert tightest(Limits(cpuset="2-3"), Limits(cpuset="0-7")).cpuset == "2-3"

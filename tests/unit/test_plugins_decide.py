"""Plugins.decide: nothing but an allow that a plugin gave, and that nobody opposes, is an allow."""

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs_plugins import Allow, Deny, hookimpl
from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import Plugins
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import Job, Spec

NOBODY = Identity(name="nobody", fingerprint="", not_after="")  # no roles: the built-in is silent
JOB = Job(id="0", owner="somebody", spec=Spec(argv=("true",)), created_at="")


class Plugin:
    """Answers what it was told to, or raises it."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = 0

    @hookimpl
    def jobs_authorize(self, action):
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class AsyncPlugin(Plugin):
    """The same, after a checkpoint."""

    @hookimpl
    async def jobs_authorize(self, action):
        await trio.lowlevel.checkpoint()
        return Plugin.jobs_authorize(self, action)


async def decide(plugins, identity):
    asked = Plugins(make_manager(plugins, load=False), decide_s=60)
    return await asked.decide(identity, "kill", None, JOB)


class Unspeakable:
    def __repr__(self):
        raise RuntimeError("not even this")

    def __bool__(self):
        raise RuntimeError("nor that")

    def __eq__(self, other):
        return True

    __hash__ = None


ALLOWS = st.builds(Allow, st.text(max_size=5))
DENIES = st.builds(Deny, st.text(max_size=5))
ERRORS = st.sampled_from(
    [
        ValueError("x"),
        JobsError("internal", "x"),
        SystemExit(0),
        StopIteration(),
        MemoryError(),
        GeneratorExit(),
        ExceptionGroup("x", [ValueError("y")]),
        BaseExceptionGroup("x", [SystemExit("y")]),
    ]
)
NONSENSE = st.sampled_from(
    [True, 1, "allow", "", 0, [], [Allow("x")], Allow, object(), Unspeakable()]
)
ANSWERS = st.one_of(st.none(), ALLOWS, DENIES, ERRORS, NONSENSE)
KINDS = st.sampled_from([Plugin, AsyncPlugin])
SOME = st.lists(st.builds(lambda kind, answer: kind(answer), KINDS, ANSWERS), max_size=8)


@settings(deadline=None)  # threads take as long as the machine is busy
@given(SOME)
async def test_no_sequence_of_answers_gives_an_allow_that_nobody_gave(some):
    plugins = {f"p{n}": plugin for n, plugin in enumerate(some)}
    decision = await decide(plugins.items(), NOBODY)

    allowing = {n for n, p in plugins.items() if type(p.answer) is Allow}
    denying = {n for n, p in plugins.items() if type(p.answer) is Deny}
    silent = {n for n, p in plugins.items() if p.answer is None}
    failing = set(plugins) - allowing - denying - silent

    assert decision.allow is (bool(allowing) and not denying and not failing)
    assert {f.plugin for f in decision.failures} == failing
    if decision.allow:
        assert decision.plugin in allowing
        assert decision.why == plugins[decision.plugin].answer.why
    elif denying or failing:
        assert decision.plugin in denying | failing
        if decision.plugin in denying:
            assert decision.why == plugins[decision.plugin].answer.why
    else:
        assert decision.plugin is None
        assert decision.why == "nobody has no role; ask an admin for one"
    assert all(plugin.asked == 1 for plugin in plugins.values())


@settings(deadline=None)  # threads take as long as the machine is busy
@given(SOME, st.randoms())
async def test_the_plugins_order_changes_no_verdict(some, random):
    shuffled = some[:]
    random.shuffle(shuffled)
    one, other = [
        await decide([(f"p{n}", plugin) for n, plugin in enumerate(order)], NOBODY)
        for order in (some, shuffled)
    ]
    assert one.allow == other.allow


async def test_a_failure_hides_no_deny_and_is_told_apart():
    error = ValueError("a secret")
    plugins = [("denies", Plugin(Deny("ask bob"))), ("fails", Plugin(error))]
    decision = await decide(plugins, NOBODY)
    assert [(f.plugin, f.error) for f in decision.failures] == [("fails", error)]
    assert "a secret" not in decision.why
    assert plugins[0][1].asked == 1


async def test_a_deny_outweighs_the_built_in():
    admin = Identity(name="root", roles=["admin"], fingerprint="", not_after="")
    plugins = [("denies", Plugin(Deny("not today")))]
    assert (await decide([], admin)).allow
    decision = await decide(plugins, admin)
    assert (decision.allow, decision.why, decision.plugin) == (False, "not today", "denies")


async def test_control_c_is_not_a_plugins_failure():
    """It comes to the main thread only, and so never to a hook that is not async."""
    plugins = [("interrupted", Plugin(KeyboardInterrupt()))]
    assert not (await decide(plugins, NOBODY)).allow
    plugins = [("interrupted", AsyncPlugin(KeyboardInterrupt()))]
    with pytest.raises(BaseExceptionGroup) as caught:
        await decide(plugins, NOBODY)
    assert caught.value.subgroup(KeyboardInterrupt)


async def test_a_plugin_gets_what_it_asks_for():
    class Curious:
        @hookimpl
        def jobs_authorize(self, job, request, identity, action):
            return Allow(f"{identity.name} {action} {request} {job.id}")

    plugins = Plugins(make_manager([("curious", Curious())], load=False))
    assert (await plugins.decide(NOBODY, "kill", "R", JOB)).why == "nobody kill R 0"


@pytest.mark.parametrize("kind", [Allow, Deny])
def test_a_verdict_without_words_cannot_be_given(kind):
    with pytest.raises(TypeError):
        kind(None)

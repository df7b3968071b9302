"""decide(): nothing but an allow that a plugin gave, and that nobody opposes, is an allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_plugins import Allow, Deny, hookimpl
from jobs_plugins.manager import decide, make_manager
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
    [ValueError("x"), JobsError("internal", "x"), SystemExit(0), StopIteration(), MemoryError()]
)
NONSENSE = st.sampled_from(
    [True, 1, "allow", "", 0, [], [Allow("x")], Allow, object(), Unspeakable()]
)
ANSWERS = st.one_of(st.none(), ALLOWS, DENIES, ERRORS, NONSENSE)


@given(st.lists(ANSWERS, max_size=8))
def test_no_sequence_of_answers_gives_an_allow_that_nobody_gave(answers):
    plugins = {f"p{n}": Plugin(answer) for n, answer in enumerate(answers)}
    decision = decide(make_manager(plugins.items(), load=False), NOBODY, "kill", None, JOB)

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
        assert decision.why == "nothing allows nobody to kill"
    assert all(plugin.asked == 1 for plugin in plugins.values())


@given(st.lists(ANSWERS, max_size=6), st.randoms())
def test_the_plugins_order_changes_no_verdict(answers, random):
    def verdict(some):
        plugins = [(f"p{n}", Plugin(answer)) for n, answer in enumerate(some)]
        return decide(make_manager(plugins, load=False), NOBODY, "kill", None, JOB).allow

    shuffled = answers[:]
    random.shuffle(shuffled)
    assert verdict(shuffled) == verdict(answers)


def test_a_failure_hides_no_deny_and_is_told_apart():
    error = ValueError("a secret")
    plugins = [("denies", Plugin(Deny("ask bob"))), ("fails", Plugin(error))]
    decision = decide(make_manager(plugins, load=False), NOBODY, "kill", None, JOB)
    assert [(f.plugin, f.error) for f in decision.failures] == [("fails", error)]
    assert "a secret" not in decision.why
    assert plugins[0][1].asked == 1


def test_a_deny_outweighs_the_built_in():
    admin = Identity(name="root", roles=["admin"], fingerprint="", not_after="")
    plugins = [("denies", Plugin(Deny("not today")))]
    assert decide(make_manager(load=False), admin, "kill", None, JOB).allow
    decision = decide(make_manager(plugins, load=False), admin, "kill", None, JOB)
    assert (decision.allow, decision.why, decision.plugin) == (False, "not today", "denies")


def test_control_c_is_not_a_plugins_failure():
    plugins = [("interrupted", Plugin(KeyboardInterrupt()))]
    with pytest.raises(KeyboardInterrupt):
        decide(make_manager(plugins, load=False), NOBODY, "kill", None, JOB)


def test_a_plugin_gets_what_it_asks_for():
    class Curious:
        @hookimpl
        def jobs_authorize(self, job, request, identity, action):
            return Allow(f"{identity.name} {action} {request} {job.id}")

    manager = make_manager([("curious", Curious())], load=False)
    assert decide(manager, NOBODY, "kill", "R", JOB).why == "nobody kill R 0"


@pytest.mark.parametrize("kind", [Allow, Deny])
def test_a_verdict_without_words_cannot_be_given(kind):
    with pytest.raises(TypeError):
        kind(None)

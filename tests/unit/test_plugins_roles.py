"""Role x action x whose job, against a list written by hand from the design, not from the rules."""

import pytest

from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import Plugins
from jobs_plugins.rules import ACTIONS, EVERY, RULES
from jobs_proto.identity import Identity
from jobs_proto.job import Job, Spec
from jobs_proto.methods import METHODS

# What is about no job: who may do it.
WITHOUT_A_JOB = {
    "hello": "admin operator viewer",
    "whoami": "admin operator viewer",
    "plugins": "admin",
    "list": "admin operator viewer",
    "run": "admin operator",
    "can_i": "admin operator viewer",
    "policy": "admin operator viewer",
    "run_as": "admin",
    "run_privileged": "admin",
    "can_i_as": "admin",
}

# What is about a job: who may do it to their own, and to another's.
WITH_A_JOB = {
    "inspect": ("admin operator viewer", "admin viewer"),
    "wait": ("admin operator viewer", "admin viewer"),
    "follow": ("admin operator viewer", "admin viewer"),
    "events": ("admin operator viewer", "admin viewer"),
    "stats": ("admin operator viewer", "admin viewer"),
    "kill": ("admin operator", "admin"),
    "signal": ("admin operator", "admin"),
    "pause": ("admin operator", "admin"),
    "resume": ("admin operator", "admin"),
    "update": ("admin operator", "admin"),
    "exec": ("admin operator", "admin"),
    "attach": ("admin operator", "admin"),
    "remove": ("admin operator", "admin"),
}

PLUGINS = Plugins(make_manager(load=False))


def somebody(*roles):
    return Identity(name="me", roles=roles, fingerprint="", not_after="")


def job_of(owner):
    return Job(id="0", owner=owner, spec=Spec(argv=("true",)), created_at="")


def cases():
    for role in ("admin", "operator", "viewer", "stranger", "Admin", EVERY):
        for action, allowed in WITHOUT_A_JOB.items():
            yield role, action, None, role in allowed.split()
        for action, (own, other) in WITH_A_JOB.items():
            yield role, action, "me", role in own.split()
            yield role, action, "somebody else", role in other.split()


@pytest.mark.parametrize(("role", "action", "owner", "allowed"), list(cases()))
async def test_who_may_do_what(role, action, owner, allowed):
    job = None if owner is None else job_of(owner)
    decision = await PLUGINS.decide(somebody(role), action, None, job)
    assert decision.allow is allowed
    assert decision.plugin == ("jobs.roles" if allowed else None)
    assert (action if allowed else "none of me's roles allows it; ask an admin") in decision.why


def test_the_table_above_leaves_nothing_out():
    assert {*WITHOUT_A_JOB, *WITH_A_JOB} == set(ACTIONS)
    assert {action for action, method in METHODS.items() if method.on_job} <= set(WITH_A_JOB)


def test_rules_name_nothing_unknown():
    assert {rule.action for rule in RULES} <= {*ACTIONS, EVERY}
    assert len(set(RULES)) == len(RULES)


async def test_no_role_is_nothing():
    for action in ACTIONS:
        assert not (await PLUGINS.decide(somebody(), action, None, job_of("me"))).allow


async def test_roles_add_up():
    both = somebody("viewer", "operator")
    assert (await PLUGINS.decide(both, "run", None, None)).allow
    assert (await PLUGINS.decide(both, "inspect", None, job_of("x"))).allow
    assert not (await PLUGINS.decide(both, "kill", None, job_of("x"))).allow


@pytest.mark.parametrize("role", ["operator", "viewer"])
async def test_an_action_that_does_not_exist_is_allowed_to_no_one_but_admin(role):
    assert not (await PLUGINS.decide(somebody(role), "conquer", None, job_of("me"))).allow
    assert (await PLUGINS.decide(somebody("admin"), "conquer", None, job_of("me"))).allow

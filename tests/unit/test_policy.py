"""The policy: rules, bindings and groups as they are written, and what comes of them."""

import pytest

from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import Plugins
from jobs_plugins.policy import Policy
from jobs_plugins.roles import Roles
from jobs_plugins.rules import RULES
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import Job, Spec
from jobs_proto.wire import structure


def policy(**raw):
    return structure(raw, Policy, "policy")


def somebody(name="alice", roles=("admin",), **fields):
    return Identity(name=name, roles=roles, fingerprint="", not_after="", **fields)


async def allowed(raw, action, job_owner=None, roles=("deployer",)):
    roles_plugin = Roles(policy(**raw))
    plugins = Plugins(make_manager(load=False, roles=roles_plugin))
    job = job_owner and Job(id="0", owner=job_owner, spec=Spec(argv=("true",)), created_at="")
    return (await plugins.decide(somebody(roles=roles), action, None, job)).allow


def test_nothing_said_is_the_built_in_rules():
    assert Policy().rules == RULES
    assert Policy().bind(somebody()) == somebody()


async def test_a_new_role():
    raw = {
        "roles": [
            {"role": "deployer", "action": "run list", "whose": "any"},
            {"role": "deployer", "action": "inspect kill", "whose": "own"},
        ]
    }
    assert await allowed(raw, "run")
    assert await allowed(raw, "kill", "alice")
    assert not await allowed(raw, "kill", "bob")
    assert not await allowed(raw, "signal", "alice")
    assert await allowed(raw, "signal", "alice", roles=["operator"])


async def test_a_built_in_role_that_is_named_has_its_own_rules_only():
    raw = {"roles": [{"role": "viewer", "action": "list", "whose": "any"}]}
    assert await allowed(raw, "list", roles=["viewer"])
    assert not await allowed(raw, "inspect", "bob", roles=["viewer"])


def test_bound_roles_that_no_rule_is_about_are_told():
    rules = [{"role": "deployer", "action": "run", "whose": "any"}]
    bindings = {"ci": ["deployer", "viewer"], "bob": ["operatr", "ml"], "mallory": []}
    assert policy(roles=rules, bindings=bindings).unruled == ["ml", "operatr"]
    assert policy(roles=rules).unruled == []


async def test_everything():
    raw = {"roles": [{"role": "deployer", "action": "*", "whose": "own"}]}
    assert await allowed(raw, "remove", "alice")
    assert not await allowed(raw, "remove", "bob")
    assert not await allowed(raw, "run")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        ({"roles": [{"role": "x", "action": "kilt", "whose": "any"}]}, "'kilt' is no action"),
        ({"roles": [{"role": "x", "action": "kilt", "whose": "any"}]}, "there are: *.*kill"),
        ({"roles": [{"role": "x", "action": " ", "whose": "any"}]}, "names no action"),
        ({"roles": [{"role": "x", "action": "kill", "whose": "mine"}]}, "own or any, not 'mine'"),
        ({"roles": [{"role": "x", "action": "run kill", "whose": "own"}]}, "run is about no job"),
        ({"roles": [{"role": "", "action": "run", "whose": "any"}]}, "empty"),
        ({"roles": [{"role": "x", "action": "run"}]}, "whose: is missing"),
        ({"roles": [{"role": "x", "action": "run", "who": "any"}]}, "unknown: who"),
        ({"bindings": {"alice": "admin"}}, "must be a list"),
        ({"bindings": {"": []}}, "empty"),
        ({"bindings": {"a\nb": []}}, "cannot be shown"),
        ({"bindings": {"alice": ["a\x1b"]}}, "cannot be shown"),
        ({"bindings": {"@ops": []}}, "no group for the binding '@ops'; there are: none"),
        ({"bindings": {"@": []}}, "empty"),
        ({"groups": {"ops": ["@dev"]}}, "a group holds names, and no groups"),
        ({"groups": {"o\u202eps": []}}, "cannot be shown"),
        ({"users": {}}, "unknown: users"),
    ],
)
def test_what_is_written_wrong(raw, why):
    with pytest.raises(JobsError, match=why) as caught:
        policy(**raw)
    assert caught.value.code == "invalid_argument"


def test_who_is_bound_has_the_roles_of_the_binding_and_no_others():
    bound = policy(bindings={"alice": ["viewer"]}).bind(somebody())
    assert (bound.roles, bound.bound) == (("viewer",), True)
    shut_out = policy(bindings={"alice": []}).bind(somebody())
    assert (shut_out.roles, shut_out.bound) == ((), True)
    other = policy(bindings={"bob": []}).bind(somebody())
    assert (other.roles, other.bound) == (("admin",), False)


def test_groups():
    some = policy(
        groups={"ops": ["alice", "bob"], "night": ["alice", "carol"], "empty": []},
        bindings={"@ops": ["operator"], "@night": ["viewer", "operator"], "bob": []},
    )
    alice, bob, carol, dan = (
        some.bind(somebody(name)) for name in ("alice", "bob", "carol", "dan")
    )
    assert (alice.groups, alice.roles) == (("night", "ops"), ("operator", "viewer"))
    assert (bob.groups, bob.roles, bob.bound) == (("ops",), (), True)  # its own binding wins
    assert (carol.groups, carol.roles) == (("night",), ("operator", "viewer"))
    assert (dan.groups, dan.roles, dan.bound) == ((), ("admin",), False)


def test_a_group_without_a_binding_is_for_plugins():
    alice = policy(groups={"ops": ["alice"]}).bind(somebody(groups=["given-by-a-plugin"]))
    assert (alice.groups, alice.roles) == (("given-by-a-plugin", "ops"), ("admin",))

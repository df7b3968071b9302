"""The built-in answer to who may do what: rules as data, (role, action, own or any job).

It only ever allows. What no rule allows it leaves to other plugins; if they are silent too, the
decision is no.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from jobs_plugins.spec import hookimpl
from jobs_plugins.verdict import Allow
from jobs_proto.identity import Identity
from jobs_proto.job import Job

EVERY: Final = "*"
"""Any action, those of later versions too."""

RUN_AS: Final = "run_as"
"""To run as a Unix user other than the default one: whoever may is as good as that user."""

RUN_PRIVILEGED: Final = "run_privileged"
"""To run with capabilities that a job of its user does not have: as good as the host's root."""


class Whose(StrEnum):
    """The jobs that a rule is about."""

    OWN = "own"
    ANY = "any"  # and what is about no existing job, such as `run`


class Rule(NamedTuple):
    """Who bears `role` may do `action` on `whose` jobs."""

    role: str
    action: str
    whose: Whose


def _rules(role: str, whose: Whose, actions: str) -> list[Rule]:
    return [Rule(role, action, whose) for action in actions.split()]


RULES: Final = (
    *_rules("admin", Whose.ANY, EVERY),
    *_rules("operator", Whose.ANY, "hello whoami run list"),
    *_rules("operator", Whose.OWN, "inspect wait kill signal follow"),
    *_rules("operator", Whose.OWN, "pause resume update exec attach events stats remove"),
    *_rules("viewer", Whose.ANY, "hello whoami list inspect wait follow events stats"),
)


@hookimpl
def jobs_authorize(identity: Identity, action: str, job: Job | None) -> Allow | None:
    """Allow what a rule for one of the identity's roles allows."""
    for rule in RULES:
        if rule.role in identity.roles and _covers(rule, identity, action, job):
            return Allow(f"{rule.role}: {action}, {rule.whose} jobs")
    return None


def _covers(rule: Rule, identity: Identity, action: str, job: Job | None) -> bool:
    if rule.action not in (action, EVERY):
        return False
    return rule.whose is Whose.ANY or (job is not None and job.owner == identity.name)

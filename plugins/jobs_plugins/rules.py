"""The built-in rules of who may do what: data, (role, action, own or any job)."""

from enum import StrEnum
from typing import Final, NamedTuple

from jobs_proto.methods import METHODS, PLANNED

EVERY: Final = "*"
"""Any action, those of later versions too."""

RUN_AS: Final = "run_as"
"""To run as a Unix user other than the default one: whoever may is as good as that user."""

RUN_PRIVILEGED: Final = "run_privileged"
"""To run with capabilities that a job of its user does not have: as good as the host's root."""

CAN_I_AS: Final = "can_i_as"
"""To ask what somebody else may: whoever may learns who else there is, and of their jobs."""

FURTHER: Final = (RUN_AS, RUN_PRIVILEGED, CAN_I_AS)
"""Actions that are no methods, but asked besides one."""

ACTIONS: Final = (*METHODS, *sorted(PLANNED), *FURTHER)

ANYTHING: Final = frozenset(
    {name for name, each in METHODS.items() if not each.on_job} | {*FURTHER}
)
"""Actions that are about no existing job."""


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
    *_rules("operator", Whose.ANY, "hello whoami can_i policy run list"),
    *_rules("operator", Whose.OWN, "inspect wait kill signal follow"),
    *_rules("operator", Whose.OWN, "pause resume update exec attach events stats remove"),
    *_rules("viewer", Whose.ANY, "hello whoami can_i policy list inspect wait follow events stats"),
)

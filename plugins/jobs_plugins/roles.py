"""The built-in answer to who may do what, by the rules of the policy.

It only ever allows. What no rule allows it leaves to other plugins; if they are silent too, the
decision is no.
"""

from functools import lru_cache

from jobs_plugins.policy import Policy
from jobs_plugins.rules import EVERY, Rule, Whose
from jobs_plugins.spec import hookimpl
from jobs_plugins.verdict import Allow
from jobs_proto.identity import Identity
from jobs_proto.job import Job


class Roles:
    """The plugin.

    Attributes:
        policy: what holds now; may be replaced at any time between two decisions.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @hookimpl
    def jobs_authorize(self, identity: Identity, action: str, job: Job | None) -> Allow | None:
        """Allow what a rule for one of the identity's roles allows."""
        for rule in self.policy.rules:
            if rule.role in identity.roles and _covers(rule, identity, action, job):
                return _allow(rule, action)
        return None


@lru_cache
def _allow(rule: Rule, action: str) -> Allow:
    return Allow(f"{rule.role}: {action}, {rule.whose} jobs")


def _covers(rule: Rule, identity: Identity, action: str, job: Job | None) -> bool:
    if rule.action not in (action, EVERY):
        return False
    return rule.whose is Whose.ANY or (job is not None and job.owner == identity.name)

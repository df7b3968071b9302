"""What an installation says about who may do what: `[policy]` of the supervisor's settings.

Three tables, all data: rules for roles, roles for names, names for groups. What is said here about
a name holds whatever its certificate says: whoever is bound has the roles of the binding and no
others, so that taking them away is a matter of seconds and not of the certificate's lifetime.
"""

from functools import cached_property
from typing import Final

from attrs import evolve, field, frozen

from jobs_plugins.rules import ACTIONS, ANYTHING, EVERY, RULES, Rule, Whose
from jobs_proto.identity import Identity, check_name

GROUP: Final = "@"
"""Before a group's name, where a name could stand as well. No identity's name begins with it."""


def _name(_settings: object, _field: object, name: str) -> None:
    check_name(name)


def _actions(_rule: object, _field: object, text: str) -> None:
    known = {EVERY, *ACTIONS}
    for action in text.split():
        if action not in known:
            raise ValueError(f"{action!r} is no action; there are: {' '.join(sorted(known))}")
    if not text.split():
        raise ValueError("it names no action; bind somebody to no roles: name = []")


def _whose(rule: "RoleRules", _field: object, whose: str) -> None:
    if whose not in tuple(Whose):
        raise ValueError(f"it is {Whose.OWN} or {Whose.ANY}, not {whose!r}")
    nobodys = sorted(ANYTHING.intersection(rule.action.split()))
    if whose == Whose.OWN and nobodys:
        raise ValueError(f"{' '.join(nobodys)} is about no job that could be one's own; say any")


def _bindings(_policy: object, _field: object, bindings: dict[str, tuple[str, ...]]) -> None:
    for name, roles in bindings.items():
        for each in (name.removeprefix(GROUP), *roles):
            check_name(each)


def _groups(policy: "Policy", _field: object, groups: dict[str, tuple[str, ...]]) -> None:
    for group, names in groups.items():
        check_name(group)
        for name in names:
            check_name(name)
            if name.startswith(GROUP):
                raise ValueError(f"{group} holds {name!r}: a group holds names, and no groups")
    for name in policy.bindings:
        if name.startswith(GROUP) and name.removeprefix(GROUP) not in groups:
            known = " ".join(sorted(groups)) or "none"
            raise ValueError(f"there is no group for the binding {name!r}; there are: {known}")


@frozen(kw_only=True)
class RoleRules:
    """Who bears `role` may do some things.

    Attributes:
        role: a word that stands in certificates or bindings.
        action: methods' names and further actions, with spaces between them; `*` is every one.
        whose: `own`: on one's own jobs; `any`: on any, and what is about no job.
    """

    role: str = field(validator=_name)
    action: str = field(validator=_actions)
    whose: str = field(validator=_whose)


@frozen(kw_only=True)
class Policy:
    """All of it.

    Attributes:
        roles: rules; a role that is named here has these and none of the built-in ones.
        bindings: roles of a name, or of a group (`@GROUP`), instead of its certificate's; no roles
            at all shut it out. A name's own binding wins over those of its groups.
        groups: the names in each group.
    """

    roles: tuple[RoleRules, ...] = ()
    bindings: dict[str, tuple[str, ...]] = field(factory=dict, validator=_bindings)
    groups: dict[str, tuple[str, ...]] = field(factory=dict, validator=_groups)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that hold: the built-in ones, less those of roles that have others here."""
        named = {each.role for each in self.roles}
        kept = [rule for rule in RULES if rule.role not in named]
        own = [
            Rule(each.role, action, Whose(each.whose))
            for each in self.roles
            for action in each.action.split()
        ]
        return tuple(dict.fromkeys((*kept, *own)))

    @property
    def unruled(self) -> list[str]:
        """Roles that somebody is bound to, and that no rule is about: a plugin's, or mistyped."""
        ruled = {rule.role for rule in self.rules}
        return sorted({role for roles in self.bindings.values() for role in roles} - ruled)

    def bind(self, identity: Identity) -> Identity:
        """Give the identity with its groups, and with the roles that it is bound to, if it is."""
        groups = [group for group, names in self.groups.items() if identity.name in names]
        identity = evolve(identity, groups=(*identity.groups, *groups))
        if identity.name in self.bindings:
            return evolve(identity, roles=self.bindings[identity.name], bound=True)
        bound = [self.bindings[GROUP + each] for each in groups if GROUP + each in self.bindings]
        if bound:
            return evolve(identity, roles=[role for roles in bound for role in roles], bound=True)
        return identity

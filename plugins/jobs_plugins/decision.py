"""Whether somebody may: the plugins' answers, made into one.

An order of plugins that could change whether something is allowed does not exist: one deny (or
failure) outweighs everything, and nothing but an allow that a plugin gave is one.
"""

from collections.abc import Iterable

from attrs import frozen

from jobs_plugins.hook import Failure, HungError, no_answer
from jobs_plugins.verdict import Allow, Deny, Verdict


@frozen(kw_only=True)
class Decision:
    """Whether somebody may, and who said so.

    Attributes:
        allow: they may.
        why: the deciding plugin's words; fit for the caller to see.
        plugin: the one that decided; None if no plugin said anything.
        failures: the plugins that failed while they were asked; each denies.
    """

    allow: bool
    why: str
    plugin: str | None
    failures: tuple[Failure, ...] = ()

    @property
    def hung(self) -> bool:
        """A plugin was out of time: to ask more of the same is to wait as long again."""
        return any(isinstance(failure.error, HungError) for failure in self.failures)


def combine(answers: Iterable[tuple[str, object]], otherwise: str) -> Decision:
    """Make one decision.

    Args:
        answers: each with its plugin's name, in the order in which plugins are called. Of several
            that deny, the first is named.
        otherwise: why it is denied if nobody says anything.
    """
    allows: list[tuple[str, Verdict]] = []
    denials: list[tuple[str, Verdict]] = []
    failures: list[Failure] = []
    for plugin, answer in answers:
        if isinstance(answer, Allow):
            allows.append((plugin, answer))
        elif isinstance(answer, Deny):
            denials.append((plugin, answer))
        elif answer is not None:
            failure = answer if isinstance(answer, Failure) else no_answer(plugin, answer)
            failures.append(failure)
            denials.append((plugin, Deny(failure.words)))
    for plugin, verdict in (*denials, *allows):  # a deny before any allow
        return Decision(
            allow=isinstance(verdict, Allow),
            why=verdict.why,
            plugin=plugin,
            failures=tuple(failures),
        )
    return Decision(allow=False, why=otherwise, plugin=None)

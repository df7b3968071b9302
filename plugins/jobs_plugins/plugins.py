"""The plugins of one supervisor, as they are asked.

Hooks are not called through `manager.hook`: that stops at the first exception and gives a bare list
of results. Here each plugin is asked by itself, so that one's exception cannot hide another's deny,
and each answer bears the name of the plugin that gave it.

With built-in plugins only, no method here has a checkpoint: a decision is then made at one moment.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import pluggy
import trio

from jobs_plugins.decision import Decision, combine
from jobs_plugins.hook import Failure, Hook, Question, no_answer
from jobs_plugins.manager import Manager
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity, PeerCertificate
from jobs_proto.job import Job, Limits, Spec

DECIDE_S: Final = 2.0
"""How long each plugin has for a decision, unless the settings say otherwise."""


class Plugins:
    """Asks plugins.

    Args:
        manager: has loaded them.
        decide_s: seconds that each has to identify somebody, to decide, or to give limits.
        failed: is told of each failure, once for all questions of one list.
    """

    def __init__(
        self,
        manager: Manager,
        *,
        decide_s: float = DECIDE_S,
        failed: Callable[[Failure], None] = lambda _failure: None,
    ) -> None:
        self.manager = manager
        self._decide_s = decide_s
        self._failed = failed
        self._identify = hooks_of(manager.hook.jobs_identify)
        self._authorize = hooks_of(manager.hook.jobs_authorize)
        self._limits = hooks_of(manager.hook.jobs_limits)

    async def identify(self, certificate: PeerCertificate) -> Identity:
        """Ask who bears a certificate, one plugin after another; the first answer counts.

        Raises:
            JobsError: `permission_denied`, with a sentence for the peer.
        """
        for hook in self._identify:
            (answer,) = await hook.ask([{"certificate": certificate}], self._decide_s)
            if isinstance(answer, Identity):
                return answer
            if answer is None:
                continue
            failure = self._fault_of(hook, answer)
            raise JobsError(
                "permission_denied",
                f"Nobody can say who bears this certificate: {failure.words}; the reason is in the "
                "supervisor's log.",
            )
        raise JobsError("permission_denied", "No plugin knows who bears this certificate.")

    async def decide(
        self, identity: Identity, action: str, request: object, job: Job | None
    ) -> Decision:
        """Ask every plugin whether `identity` may; nothing but an allow that nobody opposes is one.

        Never raises for what a plugin does.
        """
        (decision,) = await self.decide_each(identity, action, request, [job])
        return decision

    async def decide_each(
        self, identity: Identity, action: str, request: object, jobs: Sequence[Job | None]
    ) -> list[Decision]:
        """Decide on the same action for each of some jobs; a plugin has `decide_s` for all.

        All plugins are asked at once, each whatever the others say.
        """
        about = {"identity": identity, "action": action, "request": request}
        questions = [{**about, "job": job} for job in jobs]
        answers = await self._ask_all(self._authorize, questions)
        otherwise = _nothing_allows(identity)
        decisions = [
            combine([(hook.plugin, answers[hook][n]) for hook in self._authorize], otherwise)
            for n in range(len(jobs))
        ]
        self._tell(failure for each in decisions for failure in each.failures)
        return decisions

    async def limit(self, identity: Identity, spec: Spec) -> list[tuple[str, Limits]]:
        """Ask every plugin for limits of a new job; give those there are, each with its plugin.

        Raises:
            JobsError: a plugin refuses the job, in its own words; or has failed.
        """
        given: list[tuple[str, Limits]] = []
        answers = await self._ask_all(self._limits, [{"identity": identity, "spec": spec}])
        for hook in self._limits:
            (answer,) = answers[hook]
            if isinstance(answer, Limits):
                given.append((hook.plugin, answer))
            elif answer is not None:
                failure = self._fault_of(hook, answer)
                raise JobsError(
                    "failed_precondition",  # not unavailable: clients would try again, and again
                    f"the job was not taken on: {failure.words} for its limits; the reason is in "
                    "the supervisor's log",
                )
        return given

    def _fault_of(self, hook: Hook, answer: object) -> Failure:
        """Give the failure that an answer is.

        Raises:
            JobsError: it is no failure: the plugin refuses, in words of its own.
        """
        failure = answer if isinstance(answer, Failure) else no_answer(hook.plugin, answer)
        if isinstance(failure.error, JobsError):
            raise failure.error
        self._tell([failure])
        return failure

    def _tell(self, failures: Iterable[Failure]) -> None:
        for failure in {failure.plugin: failure for failure in failures}.values():
            self._failed(failure)

    async def _ask_all(
        self, hooks: Sequence[Hook], questions: Sequence[Question]
    ) -> dict[Hook, list[object]]:
        """Ask every hook at once; give each one's answers."""
        answers: dict[Hook, list[object]] = {}

        async def ask(hook: Hook) -> None:
            answers[hook] = await hook.ask(questions, self._decide_s)

        others = [hook for hook in hooks if not hook.ours]
        for hook in hooks:
            if hook.ours:
                await ask(hook)
        if others:
            async with trio.open_nursery() as nursery:
                for hook in others:
                    nursery.start_soon(ask, hook)
        return answers


def _nothing_allows(identity: Identity) -> str:
    """Say why what nobody allows is denied, and what to do about it; fit for the caller to see."""
    if not identity.roles:
        return f"{identity.name} has no role; ask an admin for one"
    return (
        f"none of {identity.name}'s roles allows it; ask an admin for one that does "
        "(jobsctl policy show)"
    )


def hooks_of(caller: pluggy.HookCaller) -> list[Hook]:
    """Give what plugins have for a hook, in the order in which they are called."""
    return [Hook(each) for each in reversed(caller.get_hookimpls())]  # pluggy keeps them last first

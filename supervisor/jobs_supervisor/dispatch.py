"""From a request to its handler, by way of a decision: no method is reached without one.

`Dispatcher.ask` is the only way to a handler. It takes the method from the table, makes the params
out of the map, finds the job if the method is about one, has the plugins decide, writes the
decision down, and only then calls. A job that the caller may not see is not there: the same path,
the same words, as for one that never was.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from itertools import chain, islice
from math import inf
from pathlib import Path
from typing import Any
from uuid import UUID

import trio

from jobs_plugins.decision import Decision
from jobs_plugins.plugins import Plugins
from jobs_plugins.rules import ACTIONS, ANYTHING, CAN_I_AS, RUN_AS, RUN_PRIVILEGED
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import Job, Spec
from jobs_proto.methods import METHODS, PLANNED, CanI, Run, Wait
from jobs_proto.wire import structure
from jobs_supervisor.audit import READS, RECORDED, Audit
from jobs_supervisor.jobs import Jobs
from jobs_supervisor.live import LiveJob
from jobs_supervisor.store import Record

SEE = "inspect"
"""The action that a caller needs for a job to exist for it."""

MAKES_ROOM = frozenset({"kill", "remove"})
"""Of the others, what a full disk may need: carried out though it cannot be written down yet."""

MAX_NAMESAKES = 1000
"""Of jobs that bear one name, so many are looked at."""

SHOWN = 3
"""Jobs that are told of when a text names more than one."""

AT_ONCE = 50
"""Jobs that plugins are asked about together; more than are wanted are read for nothing."""

NOBODYS = LiveJob(
    Record(job=Job(id=str(UUID(int=0)), owner="", spec=Spec(argv=("true",)), created_at=""))
)
"""What plugins are asked about in the place of a job that does not exist."""

Handler = Callable[["Call"], Awaitable[object]]


class Call:
    """One allowed request.

    Attributes:
        identity: who asks.
        method: its name.
        params: an instance of the method's params class.
        target: the job it is about, for a method about one.
        account: for a method whose effect begins with a record: to be called in the thread that
            commits that, before (`jobs_supervisor.audit`).
    """

    def __init__(
        self,
        dispatcher: "Dispatcher",
        identity: Identity,
        method: str,
        params: Any,
        target: LiveJob | None,
    ) -> None:
        self.identity = identity
        self.method = method
        self.params = params
        self.account: Callable[[], None] | None = None
        self._target = target
        self._dispatcher = dispatcher

    @property
    def waits(self) -> bool:
        """Whether `ready` may take long."""
        return isinstance(self.params, Wait) and not self.target.exited

    async def ready(self) -> None:
        """Wait for what a `wait` waits for: the job's end, or its patience's."""
        timeout_s = self.params.timeout_s
        with trio.move_on_after(inf if timeout_s is None else timeout_s):
            await self.target.until_exited()

    @property
    def target(self) -> LiveJob:
        """The job that the method is about."""
        assert self._target is not None, f"{self.method} is not about one job"
        return self._target

    async def visible(self, jobs: Sequence[LiveJob]) -> tuple[list[LiveJob], bool]:
        """Give those that the caller may see; for lists, so not written down one by one.

        And whether all could be decided in time; if not, it is no use to ask about more.
        """
        return await self._dispatcher.visible(self.identity, jobs)

    async def consider(self, about: Identity) -> Decision:
        """Find out what would be decided if `about` asked for what `can_i` is about."""
        return await self._dispatcher.consider(self, about)


class Dispatcher:
    """Decides and calls.

    Args:
        plugins: they decide.
        audit: where decisions are written down.
        jobs: to find jobs in.
        default_user: the Unix user that anybody who may run may run as.
        handlers: one for each method in `METHODS`.
    """

    def __init__(
        self,
        *,
        plugins: Plugins,
        audit: Audit,
        jobs: Jobs,
        default_user: str,
        handlers: dict[str, Handler],
    ) -> None:
        if handlers.keys() != METHODS.keys():
            raise AssertionError(f"handlers and methods differ: {handlers.keys() ^ METHODS.keys()}")
        self._plugins = plugins
        self._audit = audit
        self._jobs = jobs
        self._default_user = default_user
        self._handlers = handlers

    async def ask(self, identity: Identity, name: str, raw: dict[str, Any]) -> Call:
        """Take a request as far as the decision.

        Raises:
            JobsError: it is malformed, about nothing, or denied.
        """
        method = METHODS.get(name)
        if method is None:
            raise _no_such_method(name)
        params: Any = structure(raw, method.params, f"params of {name}")
        target = await self._find(identity, name, params.id) if method.on_job else None
        job = None if target is None else target.job
        await self._require(identity, name, params, job)
        for action in self._further_actions(params):
            await self._require(identity, action, params, None)
        return Call(self, identity, name, params, target)

    async def ask_again(self, identity: Identity, call: Call) -> None:
        """Decide once more on a call about a job that was allowed, and goes on.

        Args:
            identity: who the caller is by now.
            call: as it was allowed.

        Raises:
            JobsError: `permission_denied`: not any more.
        """
        job = call.target.job
        if call.method != SEE:
            await self._require(identity, SEE, None, job)
        await self._require(identity, call.method, call.params, job)

    async def consider(self, call: Call, about: Identity) -> Decision:
        """Find out what would be decided on `call.params`, a `CanI`, if `about` asked for it.

        Raises:
            JobsError: there is no such action, it lacks its job, or `about` may not see that.
        """
        wanted: CanI = call.params
        if wanted.action not in ACTIONS or wanted.action in PLANNED:
            known = ", ".join(each for each in ACTIONS if each not in PLANNED)
            raise JobsError(
                "invalid_argument", f"there is no action {wanted.action!r:.80}; there are: {known}"
            )
        job = None
        if wanted.action in ANYTHING:
            if wanted.id is not None:
                raise JobsError("invalid_argument", f"{wanted.action} is about no job; name none")
        elif wanted.id is None:
            raise JobsError("invalid_argument", f"{wanted.action} is about a job; name it")
        else:
            found = await self._find(about, wanted.action, wanted.id, asked_by=call.identity)
            job = found.job
        decision = await self._plugins.decide(about, wanted.action, None, job)
        job_id = None if job is None else job.id
        self._audit(about, wanted.action, job_id, decision, asked_by=call.identity)
        return decision

    async def answer(self, call: Call) -> object:
        """Call the handler of an allowed request, once its job was found again after our start.

        Raises:
            JobsError: it cannot be accounted for (`Audit.settle`), or the handler refuses.
        """
        if call.method in RECORDED:
            call.account = await self._audit.pledge()
        elif call.method not in READS:
            with suppress(JobsError) if call.method in MAKES_ROOM else nullcontext():
                await self._audit.settle()
        if METHODS[call.method].on_job:
            await call.target.until_settled()
        try:
            return await self._handlers[call.method](call)
        except JobsError as error:
            if "quota" in error.detail:
                self._audit.refused(call.identity, call.method, error.message)
            raise

    def directory(self, call: Call) -> Path:
        """Give the directory of the job that a call is about."""
        return self._jobs.register.directory(call.target.job.id)

    async def visible(
        self, identity: Identity, jobs: Sequence[LiveJob]
    ) -> tuple[list[LiveJob], bool]:
        """Give those jobs that exist for this caller, and whether all could be decided in time."""
        about = [live.job for live in jobs]
        decisions = await self._plugins.decide_each(identity, SEE, None, about)
        seen = [live for live, decision in zip(jobs, decisions, strict=True) if decision.allow]
        return seen, not any(decision.hung for decision in decisions)

    def _further_actions(self, request: object) -> list[str]:
        """Give what a request needs to be allowed besides."""
        match request:
            case Run(spec=spec):
                needed = {
                    RUN_AS: spec.user not in (None, self._default_user),
                    RUN_PRIVILEGED: spec.isolation.wants_privileges,
                }
                return [action for action, so in needed.items() if so]
            case CanI(identity=str()):
                return [CAN_I_AS]
        return []

    async def _require(
        self, identity: Identity, action: str, params: object, job: Job | None
    ) -> None:
        decision = await self._plugins.decide(identity, action, params, job)
        self._audit(identity, action, None if job is None else job.id, decision)
        if not decision.allow:
            about = "" if job is None else f" on job {job.short_id}"
            raise JobsError(
                "permission_denied", f"{identity.name} may not {action}{about}: {decision.why}"
            )

    async def _find(
        self,
        identity: Identity,
        action: str,
        text: str,
        asked_by: Identity | None = None,
    ) -> LiveJob:
        """Find the one job that `text` names among those that the caller may see.

        Of several that bear a name, the one that has not ended is meant, else the newest.
        """
        found: list[LiveJob] = []
        # Plugins are asked about what is not there, too: they may take seconds. What is left to
        # clocks is that a hidden job's record is read and decoded, for plugins to judge it: some
        # 20 us of 300, more than a millisecond for each MB of its spec, and all that for each of
        # several that a prefix or a name fits. That tells who measures often that a name is in
        # use, or that an id is which they have from elsewhere; ids cannot be guessed.
        parts = in_parts(self._jobs.register.matching(text))
        for some in chain([next(parts, [NOBODYS])], parts):
            seen, decided = await self.visible(identity, some)
            found += [live for live in seen if live is not NOBODYS]
            namesakes = all(live.job.name == text for live in found)
            most = MAX_NAMESAKES if namesakes else SHOWN + 1
            if len(found) >= most or not decided:
                break
        if not found:
            # The same line for a job that is not theirs to see as for none: who reads it learns no
            # more than who asked.
            why = "no job that they may see"
            self._audit.refused(identity, action, why, asked=text, asked_by=asked_by)
            raise JobsError("not_found", _unseen(identity, text, asked_by))
        if all(live.job.name == text for live in found):
            found = [live for live in found if not live.exited] or found[:1]
        if len(found) > 1:
            first = ", ".join(live.job.short_id for live in found[:SHOWN])
            more = ", …" if len(found) > SHOWN else ""
            raise JobsError(
                "invalid_argument",
                f"{text!r} names more than one job ({first}{more}): say which, by more of its id",
            )
        return found[0]


def _unseen(identity: Identity, text: str, asked_by: Identity | None) -> str:
    """Say that there is no job, in words that fit one that is not there and one that is not seen.

    Who asked about somebody else may see the job themselves, and would not believe that it is gone.
    """
    if asked_by is not None and asked_by.name != identity.name:
        return f"there is no job {text!r} that {identity.name} may see"
    return f"there is no job {text!r}; `jobsctl list --all` shows yours"


def in_parts(jobs: Iterable[LiveJob]) -> Iterator[list[LiveJob]]:
    """Cut jobs into parts that plugins can be asked about together."""
    rest = iter(jobs)
    while part := list(islice(rest, AT_ONCE)):
        yield part


def _no_such_method(name: str) -> JobsError:
    if name in PLANNED:
        return JobsError("unimplemented", f"this version has no {name} yet")
    known = ", ".join(METHODS)
    return JobsError("unimplemented", f"there is no method {name!r:.80}; there are: {known}")

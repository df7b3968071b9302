"""From a request to its handler, by way of a decision: no method is reached without one.

`Dispatcher.ask` is the only way to a handler. It takes the method from the table, makes the params
out of the map, finds the job if the method is about one, has the plugins decide, writes the
decision down, and only then calls. A job that the caller may not see is not there: the same path,
the same words, as for one that never was.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import structlog

from jobs_plugins.plugins import Plugins
from jobs_plugins.roles import RUN_AS, RUN_PRIVILEGED
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import Job
from jobs_proto.methods import METHODS, PLANNED, Run
from jobs_proto.wire import structure
from jobs_supervisor.audit import Audit
from jobs_supervisor.jobs import Jobs
from jobs_supervisor.live import LiveJob

SEE = "inspect"
"""The action that a caller needs for a job to exist for it."""

MAX_NAMESAKES = 1000
"""Of jobs that bear one name, so many are looked at."""

SHOWN = 3
"""Jobs that are told of when a text names more than one."""

AT_ONCE = 50
"""Jobs that plugins are asked about together; more than are wanted are read for nothing."""

log = structlog.get_logger()

Handler = Callable[["Call"], Awaitable[object]]


class Call:
    """One allowed request.

    Attributes:
        identity: who asks.
        method: its name.
        params: an instance of the method's params class.
        target: the job it is about, for a method about one.
        may: decides on, and writes down, a further action of the same caller.
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
        self._target = target
        self._dispatcher = dispatcher

    @property
    def target(self) -> LiveJob:
        """The job that the method is about."""
        assert self._target is not None, f"{self.method} is not about one job"
        return self._target

    async def visible(self, jobs: Sequence[LiveJob]) -> list[LiveJob]:
        """Give those that the caller may see; for lists, so not written down one by one."""
        return await self._dispatcher.visible(self.identity, jobs)


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
        target = await self._find(identity, params.id) if method.on_job else None
        job = None if target is None else target.job
        await self._require(identity, name, params, job)
        if isinstance(params, Run):
            for action in self._further_actions(params):
                await self._require(identity, action, params, None)
        return Call(self, identity, name, params, target)

    async def answer(self, call: Call) -> object:
        """Call the handler of an allowed request, once its job was found again after our start."""
        if METHODS[call.method].on_job:
            await self._jobs.settled(call.target)
        return await self._handlers[call.method](call)

    async def visible(self, identity: Identity, jobs: Sequence[LiveJob]) -> list[LiveJob]:
        """Give those jobs that exist for this caller."""
        about = [live.job for live in jobs]
        decisions = await self._plugins.decide_each(identity, SEE, None, about)
        failed = {failure.plugin: failure for each in decisions for failure in each.failures}
        for failure in failed.values():  # one line for each, and not one for each job
            log.error("a plugin failed", plugin=failure.plugin, exc_info=failure.error)
        return [live for live, decision in zip(jobs, decisions, strict=True) if decision.allow]

    def _further_actions(self, request: Run) -> list[str]:
        """Give what a `run` needs to be allowed besides."""
        needed = {
            RUN_AS: request.spec.user not in (None, self._default_user),
            RUN_PRIVILEGED: request.spec.isolation.wants_privileges,
        }
        return [action for action, so in needed.items() if so]

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

    async def _find(self, identity: Identity, text: str) -> LiveJob:
        """Find the one job that `text` names among those that the caller may see.

        Of several that bear a name, the one that has not ended is meant, else the newest.
        """
        found: list[LiveJob] = []
        for part in in_parts(self._jobs.matching(text)):
            found += await self.visible(identity, part)
            namesakes = all(live.job.name == text for live in found)
            if len(found) >= (MAX_NAMESAKES if namesakes else SHOWN + 1):
                break
        if not found:
            raise JobsError(
                "not_found", f"there is no job {text!r}; `jobsctl list --all` shows yours"
            )
        if all(live.job.name == text for live in found):
            found = [live for live in found if not live.exited] or found[:1]
        if len(found) > 1:
            some = ", ".join(live.job.short_id for live in found[:SHOWN])
            more = ", …" if len(found) > SHOWN else ""
            raise JobsError(
                "invalid_argument",
                f"{text!r} names more than one job ({some}{more}): say which, by more of its id",
            )
        return found[0]


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

"""From a request to its handler, by way of a decision: no method is reached without one.

`Dispatcher.ask` is the only way to a handler. It takes the method from the table, makes the params
out of the map, finds the job if the method is about one, has the plugins decide, writes the
decision down, and only then calls. A job that the caller may not see is not there: the same path,
the same words, as for one that never was.
"""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from itertools import islice
from typing import Any

import pluggy

from jobs_plugins.manager import decide
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

READS = frozenset({"hello", "whoami", "list", "inspect", "wait", "follow", "events", "stats"})
"""Methods that change nothing; a decision on any other is on the disk before it is carried out."""

MAKES_ROOM = frozenset({"kill", "remove"})
"""Of the others, what a full disk may need: carried out though it cannot be written down yet."""

MAX_NAMESAKES = 1000
"""Of jobs that bear one name, or whose ids start alike, so many are looked at."""

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

    def may_see(self, job: Job) -> bool:
        """Decide whether the caller may see a job; for lists, so not written down one by one."""
        return self._dispatcher.may_see(self.identity, job)


class Dispatcher:
    """Decides and calls.

    Args:
        manager: the plugins.
        audit: where decisions are written down.
        jobs: to find jobs in.
        default_user: the Unix user that anybody who may run may run as.
        handlers: one for each method in `METHODS`.
    """

    def __init__(
        self,
        *,
        manager: pluggy.PluginManager,
        audit: Audit,
        jobs: Jobs,
        default_user: str,
        handlers: dict[str, Handler],
    ) -> None:
        if handlers.keys() != METHODS.keys():
            raise AssertionError(f"handlers and methods differ: {handlers.keys() ^ METHODS.keys()}")
        self._manager = manager
        self._audit = audit
        self._jobs = jobs
        self._default_user = default_user
        self._handlers = handlers

    def ask(self, identity: Identity, name: str, raw: dict[str, Any]) -> Call:
        """Take a request as far as the decision.

        Raises:
            JobsError: it is malformed, about nothing, or denied.
        """
        method = METHODS.get(name)
        if method is None:
            raise _no_such_method(name)
        params: Any = structure(raw, method.params, f"params of {name}")
        target = self._find(identity, name, params.id) if method.on_job else None
        job = None if target is None else target.job
        self._require(identity, name, params, job)
        if isinstance(params, Run):
            for action in self._further_actions(params):
                self._require(identity, action, params, None)
        return Call(self, identity, name, params, target)

    async def answer(self, call: Call) -> object:
        """Call the handler of an allowed request.

        Raises:
            JobsError: it cannot be accounted for (`Audit.settle`), or the handler refuses.
        """
        if call.method not in READS:
            with suppress(JobsError) if call.method in MAKES_ROOM else nullcontext():
                await self._audit.settle()
        return await self._handlers[call.method](call)

    def may_see(self, identity: Identity, job: Job) -> bool:
        """Decide whether this job exists for this caller."""
        return decide(self._manager, identity, SEE, None, job).allow

    def _further_actions(self, request: Run) -> list[str]:
        """Give what a `run` needs to be allowed besides."""
        needed = {
            RUN_AS: request.spec.user not in (None, self._default_user),
            RUN_PRIVILEGED: request.spec.isolation.wants_privileges,
        }
        return [action for action, so in needed.items() if so]

    def _require(self, identity: Identity, action: str, params: object, job: Job | None) -> None:
        decision = decide(self._manager, identity, action, params, job)
        self._audit(identity, action, None if job is None else job.id, decision)
        if not decision.allow:
            about = "" if job is None else f" on job {job.short_id}"
            raise JobsError(
                "permission_denied", f"{identity.name} may not {action}{about}: {decision.why}"
            )

    def _find(self, identity: Identity, action: str, text: str) -> LiveJob:
        """Find the one job that `text` names among those that the caller may see.

        Of several that bear a name, the one that has not ended is meant, else the newest.
        """
        visible = (live for live in self._jobs.matching(text) if self.may_see(identity, live.job))
        found = list(islice(visible, MAX_NAMESAKES))
        if not found:
            # The same line for a job that is not theirs to see as for none: no reader of clocks
            # learns which it was.
            self._audit.refused(identity, action, "no job that they may see", asked=text)
            raise JobsError(
                "not_found", f"there is no job {text!r}; `jobsctl list --all` shows yours"
            )
        if all(live.job.name == text for live in found):
            found = [live for live in found if not live.exited] or found[:1]
        if len(found) > 1:
            some = ", ".join(live.job.short_id for live in found[:3])
            raise JobsError(
                "invalid_argument",
                f"{text!r} names more than one job ({some}{', …' * (len(found) > 3)}): say which, "
                "by more of its id",
            )
        return found[0]


def _no_such_method(name: str) -> JobsError:
    if name in PLANNED:
        return JobsError("unimplemented", f"this version has no {name} yet")
    known = ", ".join(METHODS)
    return JobsError("unimplemented", f"there is no method {name!r:.80}; there are: {known}")

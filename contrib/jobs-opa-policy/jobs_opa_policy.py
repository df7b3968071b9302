"""A policy plugin that asks an Open Policy Agent, or whatever speaks its data API.

`POST URL {"input": …}` is answered by `{"result": true}`, `{"result": false}` or
`{"result": {"allow": …, "reason": …}}`. Everything else, and no answer in time, is raised: the
supervisor then denies, and its log says why. A policy that is undefined for a request denies it.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import httpx
import trio
from attrs import field, frozen
from attrs.validators import gt, matches_re

from jobs_plugins import Allow, Deny, Verdict, hookimpl
from jobs_proto.identity import Identity
from jobs_proto.job import Job
from jobs_proto.methods import Run
from jobs_proto.wire import structure, unstructure


@frozen(kw_only=True)
class Settings:
    """`[plugins.config.opa]`.

    Attributes:
        url: of the rule: http://127.0.0.1:8181/v1/data/jobs/decision.
        timeout_s: seconds for one answer; keep it below the supervisor's `decide_s`.
        cache_s: seconds for which an answer holds; 0: every time anew.
        cache_size: answers that are kept.
    """

    url: str = field(validator=matches_re(r"https?://.+"))
    timeout_s: float = field(default=1.0, validator=gt(0))
    cache_s: float = 5.0
    cache_size: int = field(default=1024, validator=gt(0))


class OpaPolicy:
    """The plugin."""

    def __init__(self) -> None:
        self._settings: Settings
        self._client: httpx.AsyncClient | None = None
        self._cache: OrderedDict[str, tuple[float, Verdict]] = OrderedDict()

    @hookimpl
    def jobs_configure(self, settings: Mapping[str, Any]) -> None:
        """Take the settings.

        Raises:
            JobsError: one is missing, unknown or wrong.
        """
        self._settings = structure(dict(settings), Settings, "settings")

    @hookimpl
    async def jobs_authorize(
        self, identity: Identity, action: str, request: object, job: Job | None
    ) -> Verdict:
        """Give the policy's answer, from the cache while it holds."""
        question = json.dumps({"input": _input(identity, action, request, job)}, sort_keys=True)
        until, verdict = self._cache.get(question, (0.0, None))
        if verdict is None or trio.current_time() >= until:
            verdict = await self._ask(question)
            self._remember(question, verdict)
        return verdict

    async def _ask(self, question: str) -> Verdict:
        if self._client is None:  # made here, on trio; a proxy of the environment has no say
            self._client = httpx.AsyncClient(trust_env=False, timeout=self._settings.timeout_s)
        with trio.fail_after(self._settings.timeout_s):
            answer = await self._client.post(
                self._settings.url, content=question, headers={"Content-Type": "application/json"}
            )
        answer.raise_for_status()
        return _verdict(answer.json())

    def _remember(self, question: str, verdict: Verdict) -> None:
        self._cache[question] = (trio.current_time() + self._settings.cache_s, verdict)
        self._cache.move_to_end(question)
        while len(self._cache) > self._settings.cache_size:
            self._cache.popitem(last=False)


def _input(identity: Identity, action: str, request: object, job: Job | None) -> dict[str, Any]:
    """Say what a policy may look at: nothing that changes while a job runs."""
    return {
        "identity": {"name": identity.name, "roles": list(identity.roles)},
        "action": action,
        "spec": _without_env(unstructure(request.spec)) if isinstance(request, Run) else None,
        "labels": request.labels if isinstance(request, Run) else None,
        "job": None if job is None else {
            "owner": job.owner, "name": job.name, "labels": job.labels, "argv": list(job.spec.argv),
        },
    }  # fmt: skip


def _without_env(spec: dict[str, Any]) -> dict[str, Any]:
    """Environments hold passwords, which a policy server has no business to know."""
    return {name: value for name, value in spec.items() if name != "env"}


def _verdict(answer: object) -> Verdict:
    match answer:
        case {"result": True} | {"result": {"allow": True}}:
            return Allow("the policy allows it")
        case {"result": False}:
            return Deny("the policy denies it")
        case {"result": {"allow": False, **more}}:
            return Deny(str(more.get("reason", "the policy denies it")))
        case {**more} if "result" not in more:
            return Deny("the policy says nothing about it")
    raise ValueError("the policy server answered with something that is no decision")


plugin = OpaPolicy()

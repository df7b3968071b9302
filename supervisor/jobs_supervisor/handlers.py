"""What each method does, once it was allowed. Of `follow`, only the response: see `follow`."""

from collections.abc import Iterator
from functools import partial
from importlib.metadata import version

import trio
from attrs import evolve

from jobs_plugins.plugins import Plugins
from jobs_plugins.roles import Roles
from jobs_proto.connection import Packed, pack, pack_list, pack_map
from jobs_proto.identity import Identity
from jobs_proto.job import Job, signal_number
from jobs_proto.methods import METHODS, PROTOCOL_VERSION, CanI
from jobs_supervisor.dispatch import Call, Handler, in_parts
from jobs_supervisor.jobs import Jobs
from jobs_supervisor.live import LiveJob
from jobs_supervisor.output import indexed, retained_from
from jobs_supervisor.presence import Presence
from jobs_supervisor.quotas import Quotas, weight

LIST_BYTES = 16 << 20
"""Commands and environments in one answer to `list`: one job's may be megabytes."""


class Handlers:
    """The handlers, around the jobs.

    Args:
        jobs: all of them.
        plugins: for their limits, and to tell of.
        roles: what the installation says about who may do what.
        quotas: of those who ask.
        presence: what they use of them.
    """

    def __init__(
        self, jobs: Jobs, plugins: Plugins, roles: Roles, quotas: Quotas, presence: Presence
    ) -> None:
        self._jobs = jobs
        self._asked = plugins
        self._roles = roles
        self._quotas = quotas
        self._presence = presence

    def table(self) -> dict[str, Handler]:
        """Give each method its handler, by name."""
        return {name: getattr(self, f"_{name}") for name in METHODS}

    def _view(self, live: LiveJob) -> Packed:
        """Give the job as a client sees it: with the output there is now."""
        job: Job = live.job
        if not live.exited:
            directory = self._jobs.register.directory(job.id)
            total = max(indexed(directory), job.output.total)
            output = evolve(job.output, total=total, retained_from=retained_from(directory))
            job = evolve(job, output=output)
        if live.trouble is not None:
            job = evolve(job, notes=(*job.notes, live.trouble))
        return job.packed

    async def _hello(self, _call: Call) -> object:
        return {
            "server": "jobs-supervisor",
            "version": version("jobs"),
            "protocol": PROTOCOL_VERSION,
        }

    async def _whoami(self, call: Call) -> object:
        who = call.identity
        return {
            "identity": who.name,
            "roles": list(who.roles),
            "groups": list(who.groups),
            "bound": who.bound,
            "fingerprint": who.fingerprint,
            "not_after": who.not_after,
            "quotas": self._quotas.shown(
                who.name,
                {**self._jobs.places.ledger.used(who.name), **self._presence.used(who.name)},
            ),
        }

    async def _can_i(self, call: Call) -> object:
        asked: CanI = call.params
        who = call.identity
        if asked.identity is not None:
            stranger = Identity(
                name=asked.identity, roles=asked.roles, fingerprint="", not_after=""
            )
            who = self._roles.policy.bind(stranger)
        decision = await call.consider(who)
        return {
            "identity": who.name,
            "roles": list(who.roles),
            "bound": who.bound,
            "allow": decision.allow,
            "why": decision.why,
            "plugin": decision.plugin,
        }

    async def _policy(self, _call: Call) -> object:
        rules = self._roles.policy.rules
        return {"rules": [{"role": r.role, "action": r.action, "whose": r.whose} for r in rules]}

    async def _run(self, call: Call) -> object:
        impose = partial(self._asked.limit, call.identity, call.params.spec)
        if call.params.dry_run:
            return await self._jobs.admission.rehearse(call.identity.name, call.params, impose)
        name, account = call.identity.name, call.account
        return (await self._jobs.admission.submit(name, call.params, impose, account)).packed

    async def _list(self, call: Call) -> object:
        await self._jobs.reattachment.done()
        listed: list[Packed] = []
        size = 0
        for part in in_parts(self._candidates(call)):
            seen, decided = await call.visible(part)
            for live in seen:
                size += weight(live.job.spec)
                if size > LIST_BYTES:
                    return _answer(listed, complete=False)
                listed.append(live.job.packed)
                if len(listed) == call.params.limit:
                    return _answer(listed, complete=True)
            if not decided:
                return _answer(listed, complete=False)
            await trio.lowlevel.checkpoint()
        return _answer(listed, complete=True)

    def _candidates(self, call: Call) -> Iterator[LiveJob]:
        jobs = self._jobs.register.newest_first(unfinished=not call.params.all)
        if not call.params.own:
            return jobs
        return (live for live in jobs if live.job.owner == call.identity.name)

    async def _inspect(self, call: Call) -> object:
        await self._jobs.control.measure(call.target)
        return self._view(call.target)

    async def _wait(self, call: Call) -> object:
        return self._view(call.target)  # it is ready

    async def _kill(self, call: Call) -> object:
        number = signal_number(call.params.signal)
        await self._jobs.control.kill(call.target, number, call.params.grace_s, call.identity.name)
        return self._view(call.target)

    async def _signal(self, call: Call) -> object:
        await self._jobs.control.signal(call.target, signal_number(call.params.signal))
        return self._view(call.target)

    async def _pause(self, call: Call) -> object:
        await self._jobs.control.freeze(call.target, frozen=True)
        return self._view(call.target)

    async def _resume(self, call: Call) -> object:
        await self._jobs.control.freeze(call.target, frozen=False)
        return self._view(call.target)

    async def _update(self, call: Call) -> object:
        impose = partial(self._asked.limit, call.identity, call.target.job.spec)
        await self._jobs.control.update(call.target, call.params, impose)
        return self._view(call.target)

    async def _remove(self, call: Call) -> object:
        await self._jobs.control.remove(call.target)
        return {"id": call.target.job.id}

    async def _follow(self, call: Call) -> object:
        return {"id": call.target.job.id, "start": call.params.start}

    async def _plugins(self, _call: Call) -> object:
        return self._asked.manager.describe()


def _answer(jobs: list[Packed], *, complete: bool) -> Packed:
    """Make the answer to `list`."""
    return pack_map({"jobs": pack_list(jobs), "complete": Packed(pack(complete))})

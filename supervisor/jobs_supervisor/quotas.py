"""Quotas: how much one identity may have of what all share, and how much of it it has.

Theory. For each quota by itself: what `[quotas.identity.NAME]` says counts; else the largest number
that `[quotas.role.ROLE]` says for one of the identity's roles; else what `[quotas]` says for
everybody. Roles are the ones that the identity came with last; they are kept over a restart, since
its jobs are.

What is used is not counted beside the jobs, but read from them: the ones that wait, and the ones
that have a place, by owner, each in a dict under its id. To put a job where it is already, or to
drop one twice, changes nothing, so no sequence of events can make the sums drift.
"""

from collections import defaultdict
from math import inf
from typing import Final

from attrs import evolve, fields

from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import Limits, Spec
from jobs_supervisor.config import Quota, QuotaSettings
from jobs_supervisor.live import LiveJob
from jobs_supervisor.store import Store

NAMES: Final = tuple(field.name for field in fields(Quota))

PROMISED: Final = {"memory_bytes": "--memory", "cpus": "--cpus"}
"""What running jobs are promised: a quota's name, which is a limit's too, and that one's option."""


def effective(settings: QuotaSettings, name: str, roles: tuple[str, ...]) -> QuotaSettings:
    """Give the quotas of one identity."""
    own = settings.identity.get(name, Quota())
    by_role = [settings.role[role] for role in roles if role in settings.role]
    chosen = {}
    for quota in NAMES:
        said = [value for each in by_role if (value := getattr(each, quota)) is not None]
        value = getattr(own, quota)
        if value is not None:
            chosen[quota] = value
        elif said:
            chosen[quota] = max(said)
    return evolve(settings, **chosen)


def weight(spec: Spec) -> int:
    """Give the bytes of a spec that somebody else chose the size of."""
    words = (*spec.argv, *spec.isolation.binds, *spec.isolation.tmpfs)
    return sum(map(len, words)) + sum(len(k) + len(v) for k, v in spec.env.items())


class Quotas:
    """Who may have how much.

    Args:
        settings: as configured.
        store: keeps the roles.
    """

    def __init__(self, settings: QuotaSettings, store: Store) -> None:
        self.settings = settings
        self._store = store
        self._roles = store.roles()
        self._known: dict[str, QuotaSettings] = {}  # every request asks

    def meet(self, identity: Identity) -> None:
        """Note the roles that an identity has come with."""
        if self._roles.get(identity.name) != identity.roles:
            self._roles[identity.name] = identity.roles
            self._known.pop(identity.name, None)
            self._store.meet(identity.name, identity.roles)

    def shown(self, name: str, used: dict[str, float]) -> dict[str, dict[str, float | None]]:
        """Give the quotas of an identity for people: each with what is used, None for no limit."""
        quotas = self.of(name)
        return {
            quota: {
                "limit": None if getattr(quotas, quota) == inf else getattr(quotas, quota),
                "used": used.get(quota),
            }
            for quota in NAMES
        }

    def of(self, name: str) -> QuotaSettings:
        """Give the quotas of an identity."""
        if (known := self._known.get(name)) is None:
            known = effective(self.settings, name, self._roles.get(name, ()))
            self._known[name] = known
        return known


class Ledger:
    """The jobs that have not ended, by owner: those that wait, and those that have a place.

    Args:
        quotas: of the owners.
    """

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._waiting: defaultdict[str, dict[str, int]] = defaultdict(dict)
        self._placed: defaultdict[str, dict[str, LiveJob]] = defaultdict(dict)
        self.places: dict[str, LiveJob] = {}

    def wait(self, live: LiveJob) -> None:
        """A job waits, or is about to."""
        self._waiting[live.job.owner][live.job.id] = weight(live.job.spec)

    def place(self, live: LiveJob) -> None:
        """It has a place now."""
        self._waiting[live.job.owner].pop(live.job.id, None)
        self._placed[live.job.owner][live.job.id] = self.places[live.job.id] = live

    def drop(self, live: LiveJob) -> None:
        """It has ended, or came to nothing."""
        self.places.pop(live.job.id, None)
        for held in (self._waiting, self._placed):
            held[live.job.owner].pop(live.job.id, None)
            if not held[live.job.owner]:
                del held[live.job.owner]

    @property
    def waiting(self) -> int:
        """How many jobs wait, of all owners."""
        return sum(map(len, self._waiting.values()))

    def used(self, owner: str) -> dict[str, float]:
        """Give what an owner has of each quota of jobs."""
        placed = self._placed.get(owner, {}).values()
        waiting = self._waiting.get(owner, {})
        return {
            "running": len(placed),
            "queued": len(waiting),
            "queued_bytes": sum(waiting.values()),
            "memory_bytes": sum(live.job.limits.memory_bytes or 0 for live in placed),
            "cpus": sum(live.job.limits.cpus or 0 for live in placed),
        }

    def has_room(self, owner: str, limits: Limits) -> bool:
        """Whether its owner's quotas leave a place for a job with such limits, now."""
        quota = self._quotas.of(owner)
        placed = self._placed.get(owner, {}).values()
        return len(placed) < quota.running and all(
            getattr(quota, name) == inf
            or sum(promised(name, live.job.limits) for live in placed) + promised(name, limits)
            <= getattr(quota, name)
            for name in PROMISED
        )

    def check(self, owner: str, spec: Spec, limits: Limits) -> None:
        """Refuse a new job that waits beyond a quota, or for which there could never be a place.

        Raises:
            JobsError: `resource_exhausted`, with the quota, what is used of it, and what to do.
        """
        quota, waiting = self._quotas.of(owner), self._waiting.get(owner, {})
        for name, option in PROMISED.items():
            _check_promise(name, option, getattr(limits, name), getattr(quota, name))
        if not waiting and self.has_room(owner, limits):
            return  # it need not wait
        if len(waiting) >= quota.queued:
            raise refusal("queued", quota.queued, len(waiting), "wait until some have started")
        held = sum(waiting.values())
        if held + weight(spec) > quota.queued_bytes:
            raise refusal(
                "queued_bytes",
                quota.queued_bytes,
                held,
                f"this one's command and environment are {weight(spec)} more: wait until some of "
                "yours have started, or make it smaller",
            )


def promised(name: str, limits: Limits) -> float:
    """Give what such limits promise; one that was never set promises nothing."""
    value: float | None = getattr(limits, name)
    return 0 if value is None else value


def _check_promise(name: str, option: str, asked: float | None, quota: float) -> None:
    if quota == inf:
        return
    if asked is None:
        raise JobsError(
            "resource_exhausted",
            f"what your running jobs may have together is limited ({name}: {quota:g}), so each has "
            f"to say how much it needs: give {option}",
            {"quota": name, "limit": quota},
        )
    if asked > quota:
        raise refusal(
            name, quota, asked, f"give this job less, with {option}", "this job alone has"
        )


def refusal(name: str, quota: float, used: float, do: str, have: str = "you have") -> JobsError:
    """Make the error for whoever would go over a quota.

    Args:
        name: the quota, as it is in the settings.
        quota: how much it is.
        used: how much of it is used.
        do: what to do, as the end of a sentence.
        have: of whom it is used.
    """
    return JobsError(
        "resource_exhausted",
        f"{have} {used:.15g}, and your quota ({name}) is {quota:.15g}: {do}",
        {"quota": name, "limit": quota, "used": used},
    )

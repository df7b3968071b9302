"""On which terms a request is carried out on this host: the job's user, its limits, its plan.

What cannot be carried out is refused here, before anything is written down. The same is asked again
when a job is launched, which may be much later: by then its user may be gone.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from attrs import evolve

from jobs_proto import files
from jobs_proto.errors import JobsError
from jobs_proto.job import Job, Limits, Spec
from jobs_supervisor import isolation, limits
from jobs_supervisor.cgroups import disk_of
from jobs_supervisor.config import JobSettings
from jobs_supervisor.host import NONE, Host
from jobs_supervisor.isolation import Walls
from jobs_supervisor.limits import Granted, check_maximum
from jobs_supervisor.lookup import Lookups
from jobs_supervisor.plan import make_plan
from jobs_supervisor.rootfs import check_command
from jobs_supervisor.users import User, user_of

Imposed = list[tuple[str, Limits]]
"""What plugins make of a job's limits, each with its name."""

Impose = Callable[[], Awaitable[Imposed]]
"""Asks the plugins for limits."""


class Terms:
    """The terms of one supervisor.

    Args:
        settings: what jobs get.
        host: what can be had here.
        walls: what isolation is made with here.

    Attributes:
        host: as given.
        boot: the kernel's.
    """

    def __init__(self, settings: JobSettings, host: Host, walls: Walls) -> None:
        self.host = host
        self.boot = files.boot_id()
        self._settings = settings
        self._walls = walls
        self._lookups = Lookups()

    def check(self, spec: Spec) -> None:
        """Refuse isolation that cannot be had here.

        Raises:
            JobsError: it cannot.
        """
        whole = self.host.mode != NONE and self._walls.filter
        if not whole and self._settings.isolation == "required":
            raise JobsError(
                "failed_precondition",
                "this host cannot isolate jobs as the supervisor requires: "
                f"{'; '.join(self.host.missing)}. An operator can set "
                '[jobs] isolation = "best-effort"',
            )
        isolation.check(spec.isolation, self._walls)

    async def user(self, owner: str, spec: Spec) -> User:
        """Find the Unix user that a job of this owner's runs as.

        Raises:
            JobsError: there is no such user, or it cannot be found out.
        """
        find = partial(user_of, spec, self._settings.default_user, root=self._walls.root)
        if spec.isolation.rootfs is None:
            return find()

        def find_in_root() -> User:
            user = find()
            if not spec.isolation.binds:  # else the command may come with one of them
                check_command(spec, user, self._settings.path)
            return user

        return await self._lookups.look(owner, spec.isolation.rootfs, find_in_root)

    async def grant(self, owner: str, spec: Spec, user: User, imposed: Imposed) -> Granted:
        """Decide on a job's limits.

        Raises:
            JobsError: as `jobs_supervisor.limits.grant`, or there is no such disk.
        """
        settings = self._settings
        granted = limits.grant(
            spec.limits,
            settings.default_limits,
            settings.max_limits,
            self.host.tree,
            imposed=imposed,
        )
        if not limits.of_disk(granted.limits):
            return granted
        path = spec.limits.io_device or (spec.isolation.rootfs or "") + spec.cwd
        device = await self._lookups.look(owner, path, partial(disk_of, path, user))
        return evolve(granted, device=device)

    def check_change(self, asked: Limits, imposed: Imposed) -> None:
        """Refuse to change limits of a job to what is over the maximum, or over a plugin's.

        Raises:
            JobsError: `invalid_argument`.
        """
        check_maximum(asked, self._settings.max_limits)
        for plugin, most in imposed:
            check_maximum(asked, most, f"the plugin {plugin}")

    def cgroup(self, job: Job, device: str | None) -> dict[str, object] | None:
        """Give the cgroup part of a job's plan; None: there are no cgroups here."""
        return self.host.tree.plan(job.id, job.limits, device)

    def plan(
        self, job: Job, user: User, cgroup: dict[str, object] | None, secrets: str
    ) -> dict[str, object]:
        """Make a job's plan.

        Args:
            job: with its effective limits.
            user: who it runs as.
            cgroup: its part of the plan.
            secrets: the file that holds the job's secrets.
        """
        return make_plan(
            job,
            user,
            self.host,
            self._walls,
            self._settings,
            cgroup=cgroup,
            boot=self.boot,
            secrets=secrets,
        )

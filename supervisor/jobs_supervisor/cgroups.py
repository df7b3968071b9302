"""Where jobs' cgroups are made, and the limits they can have: v2, or v1 beside v2 (hybrid).

Theory. One directory of this supervisor's, below its own cgroup and never beside it, holds a
directory for each job, in every hierarchy that we use:

    v2 (unified)   OWN/jobs-NAME/ID                       tracking and every controller
    hybrid         v2-mount/OWN/jobs-NAME/ID              tracking, freezing, killing
                   v1-mount-of-CONTROLLER/OWN/…/ID        limits and accounting, one each

In v2 a cgroup that hands controllers to its children may hold no processes itself, but for the
root of the tree ("no internal processes", cgroup-v2.rst). So the supervisor first moves into
OWN/supervisor, and the fork server, with all shims, into OWN/shims. From a shell OWN is a
session's, with the shell in it: then the kernel refuses to hand the controllers on, and we say
which limits cannot be enforced, and why.

Under systemd OWN must not be the cgroup of the supervisor's own unit. systemd starts a unit's main
process in the unit's cgroup itself, and while jobs live below it, it hands controllers on: the
kernel refuses (EBUSY), and systemd gives up a restarted supervisor with 219/CGROUP. (Its
`DelegateSubgroup=`, from 254 on, is about this.) So OWN is the cgroup of another unit, which is
not restarted (`--cgroup`, contrib/systemd), and we stay in ours. The process that keeps that unit,
since systemd removes a cgroup that is empty, goes into OWN/keeper.

The supervisor decides, makes the directories and sets the limits; a job's launcher is born in them,
its shim removes them (`jobs_shim.cgroup`).
"""

import errno
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from attrs import field, frozen

from jobs_proto.errors import JobsError
from jobs_proto.job import Limits, parse_cpuset
from jobs_shim.cgroup import Cgroup, write
from jobs_shim.steps import StepError
from jobs_supervisor.users import User, reach

PERIOD_US = 100_000
"""Over which `cpus` is enforced: the kernel's default, sched-bwc.rst."""

STRAY_S = 5.0
"""How long who waits for a job may take to end, after the supervisor has."""

CLEARINGS = 3

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)
"""What does not say that a cgroup cannot be had."""

log = structlog.get_logger()

V1_NAMES = {
    "cpu": ("cpu", "cpuacct"),
    "memory": ("memory",),
    "pids": ("pids",),
    "io": ("blkio",),
    "cpuset": ("cpuset",),
}
"""The v1 hierarchies that stand for each v2 controller."""

NEEDED = {
    "cpus": "cpu",
    "cpuset": "cpuset",
    "memory_bytes": "memory",
    "swap_bytes": "swap",
    "pids": "pids",
    "io_read_bps": "io",
    "io_write_bps": "io",
    "io_read_iops": "io",
    "io_write_iops": "io",
}
"""The controller that enforces each limit."""

_IO_V2 = {
    "io_read_bps": "rbps",
    "io_write_bps": "wbps",
    "io_read_iops": "riops",
    "io_write_iops": "wiops",
}
_IO_V1 = {
    "io_read_bps": "read_bps",
    "io_write_bps": "write_bps",
    "io_read_iops": "read_iops",
    "io_write_iops": "write_iops",
}


@frozen(kw_only=True)
class Tree:
    """What this host's cgroups can do for us.

    Attributes:
        unified: the controllers are v2's.
        track: our directory in the v2 tree; None: there is none that we may use.
        controllers: for each controller that works, our directory in each of its hierarchies.
        missing: for each that does not, why.
        shims: the leaf that the fork server belongs in; None: it stays where it is.
    """

    unified: bool = False
    track: Path | None = None
    controllers: dict[str, tuple[Path, ...]] = field(factory=dict)
    missing: dict[str, str] = field(factory=dict)
    shims: Path | None = None

    def directories(self) -> list[Path]:
        """Give every directory of ours."""
        ours = {path for paths in self.controllers.values() for path in paths}
        return sorted(ours | ({self.track} if self.track else set()))

    def check(self, limits: Limits) -> list[str]:
        """Give a sentence for each limit that cannot be enforced here."""
        return [
            f"--{name.removesuffix('_bytes').replace('_', '-')} needs the {controller} controller: "
            f"{self.missing.get(controller, 'there are no cgroups here')}"
            for name, controller in NEEDED.items()
            if getattr(limits, name) is not None and controller not in self.controllers
        ]

    def plan(self, job_id: str, limits: Limits, device: str | None) -> dict[str, object] | None:
        """Make the cgroup part of a job's plan, for `jobs_shim.cgroup.Cgroup`.

        Args:
            job_id: names the directories.
            limits: the effective ones; all can be enforced.
            device: `major:minor` of the disk that I/O limits are about.
        """
        if self.track is None:
            return None
        files = _files_v2 if self.unified else _files_v1
        wanted = files(limits, device)
        values = [value for each in wanted.values() for value in each] if self.unified else []
        directories: list[list[object]] = [["", str(self.track / job_id), values]]
        for controller, paths in self.controllers.items() if not self.unified else ():
            if controller in V1_NAMES and (controller in ALWAYS or wanted.get(controller)):
                first, *others = zip(V1_NAMES[controller], paths, strict=True)
                directories.append([first[0], str(first[1] / job_id), wanted.get(controller, [])])
                directories += [[name, str(path / job_id), []] for name, path in others]
        return {"unified": self.unified, "directories": directories}

    def strays(self, known: Iterable[str]) -> list[dict[str, object]]:
        """Give, as `plan`, the cgroups that are of no job.

        A supervisor that was killed leaves those of the shim that waited for its next job.

        Args:
            known: ids of the jobs that have not ended.
        """
        if self.track is None:
            return []
        ours = [self.track, *(path for path in self.directories() if path != self.track)]
        names = {each.name for path in ours for each in path.iterdir() if each.is_dir()}
        return [
            {"unified": self.unified, "directories": [["", str(p / name), []] for p in ours]}
            for name in sorted(names - set(known))
        ]


ALWAYS = ("cpu", "memory", "pids")
"""Hierarchies of v1 that every job is in, so that what it uses is known."""


def _files_v2(limits: Limits, device: str | None) -> dict[str, list[list[str]]]:
    files: dict[str, list[list[str]]] = {}
    if limits.cpus is not None:
        files["cpu"] = [["cpu.max", f"{_quota(limits.cpus)} {PERIOD_US}"]]
    if limits.cpuset is not None:
        files["cpuset"] = [["cpuset.cpus", limits.cpuset]]
    if limits.memory_bytes is not None:
        files["memory"] = [["memory.max", str(limits.memory_bytes)]]
    if limits.swap_bytes is not None:
        files.setdefault("memory", []).append(["memory.swap.max", str(limits.swap_bytes)])
    if limits.pids is not None:
        files["pids"] = [["pids.max", str(limits.pids)]]
    rates = " ".join(
        f"{key}={getattr(limits, name)}"
        for name, key in _IO_V2.items()
        if getattr(limits, name) is not None
    )
    if rates:
        files["io"] = [["io.max", f"{device} {rates}"]]
    return files


def _files_v1(limits: Limits, device: str | None) -> dict[str, list[list[str]]]:
    files: dict[str, list[list[str]]] = {}
    if limits.cpus is not None:
        files["cpu"] = [
            ["cpu.cfs_period_us", str(PERIOD_US)],
            ["cpu.cfs_quota_us", str(_quota(limits.cpus))],
        ]
    if limits.cpuset is not None:
        files["cpuset"] = [["cpuset.cpus", limits.cpuset]]
    if limits.memory_bytes is not None:
        files["memory"] = [["memory.limit_in_bytes", str(limits.memory_bytes)]]
        if limits.swap_bytes is not None:
            both = limits.memory_bytes + limits.swap_bytes
            files["memory"].append(["memory.memsw.limit_in_bytes", str(both)])
    if limits.pids is not None:
        files["pids"] = [["pids.max", str(limits.pids)]]
    files["io"] = [
        [f"blkio.throttle.{key}_device", f"{device} {getattr(limits, name)}"]
        for name, key in _IO_V1.items()
        if getattr(limits, name) is not None
    ]
    return files


def make(plan: dict[str, Any] | None) -> list[int]:
    """Make a job's cgroups, without limits; those that are there are taken as they are.

    Args:
        plan: of `Tree.plan`; None: none.

    Returns:
        Descriptors of their directories, the v2 one first.

    Raises:
        StepError: one cannot be made; those that were made are gone.
        OSError: there are too few descriptors, or too little memory, now.
    """
    fds: list[int] = []
    made: list[str] = []
    for _, path, _ in plan["directories"] if plan else ():
        try:
            with suppress(FileExistsError):
                _make_directory(path)
                made.append(path)
            fds.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            for fd in fds:
                os.close(fd)
            for path_made in made:
                os.rmdir(path_made)  # noqa: PTH106
            if error.errno in SHORTAGES:
                raise
            raise StepError("cgroup", error.errno or 0, error.filename) from None
    return fds


def limit(plan: dict[str, Any] | None) -> None:
    """Set a job's limits; from outside of it, for its own are not for it to set (`nsdelegate`).

    Raises:
        StepError: one cannot be set.
    """
    try:
        for _, path, values in plan["directories"] if plan else ():
            for name, value in values:
                write(f"{path}/{name}", value)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise StepError("cgroup", error.errno or 0, error.filename) from None


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path)  # noqa: PTH102  # for each launch
    except FileNotFoundError:  # somebody has removed ours
        os.makedirs(path)  # noqa: PTH103


def clear(plan: dict[str, object] | None) -> None:
    """End what is in a job's cgroups, and remove them; waits for that.

    Raises:
        OSError: there are processes that outlive SIGKILL.
    """
    cgroup = Cgroup(plan)
    for _ in range(CLEARINGS):  # somebody may be born there just before it is removed
        cgroup.kill()
        if not cgroup.wait_empty():
            raise OSError(f"processes in {cgroup.track} outlive SIGKILL")
        cgroup.remove()
        if cgroup.track is None or not os.path.exists(cgroup.track):  # noqa: PTH110
            return
    raise OSError(f"{cgroup.track} cannot be removed")


def remove_strays(plans: list[dict[str, object]]) -> None:
    """Remove cgroups that are of no job, once they are empty; who is in one is left alone."""
    end = time.monotonic() + STRAY_S
    for cgroup in map(Cgroup, plans):
        try:
            if cgroup.wait_empty(end - time.monotonic()):
                cgroup.remove()
            else:
                log.warning("processes in a cgroup of no known job", cgroup=cgroup.track)
        except OSError as error:  # somebody else removes it
            log.warning("cannot remove a cgroup", cgroup=cgroup.track, why=error.strerror)


def _quota(cpus: float) -> int:
    return round(cpus * PERIOD_US)


# -- finding out -----------------------------------------------------------------------------


def survey(name: str, given: str | None = None) -> Tree:
    """Find out what there is, and make our directories.

    Args:
        name: of our directory; the same at every start.
        given: the cgroup that was delegated to us, as /proc/PID/cgroup has it; None: our own.

    Raises:
        JobsError: `failed_precondition`: `given` is not there.
    """
    mounts = Path("/proc/self/mountinfo").read_text()
    membership = Path("/proc/self/cgroup").read_text()
    places = own_places(mounts, membership)
    if given is not None:
        places |= given_places(mounts, membership, given)
    own = places.get("")
    if own is None:
        return Tree(missing=dict.fromkeys(V1_NAMES, "no cgroup v2 tree is mounted"))
    try:
        track = _make(own / name)
    except OSError as error:
        why = f"cannot make {own / name}: {error.strerror}"
        return Tree(missing=dict.fromkeys(V1_NAMES, why))
    if not (track / "cgroup.kill").exists():
        return Tree(missing=dict.fromkeys(V1_NAMES, "this kernel is older than Linux 5.14"))
    if any(v1 in places for names in V1_NAMES.values() for v1 in names):
        return _survey_hybrid(places, track, name)
    return _survey_unified(own, track, is_our_own=given is None)


def given_places(mounts: str, membership: str, given: str) -> dict[str, Path]:
    """Give the directory of a cgroup in each hierarchy that has it; the v2 tree must.

    Raises:
        JobsError: `failed_precondition`: it has not.
    """
    heads = [line.rsplit(":", 1)[0] for line in membership.splitlines()]
    text = "\n".join(f"{head}:{given}" for head in heads)
    there = {kind: path for kind, path in own_places(mounts, text).items() if path.is_dir()}
    if "" not in there:
        raise JobsError(
            "failed_precondition",
            f"there is no cgroup {given} in the cgroup v2 tree. --cgroup names the one that jobs "
            "live in, as /proc/PID/cgroup has it; under systemd, start jobs-shims.service",
        )
    return there


def own_places(mounts: str, membership: str) -> dict[str, Path]:
    """Give our own directory in each hierarchy: by v1 controller, and "" for the v2 tree."""
    paths = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    places: dict[str, Path] = {}
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, mount_point = fields.split()[3:5]
        names = [""] if kind == "cgroup2" else options.split(",")
        for controller in names:
            if controller in paths:
                below = os.path.relpath(paths[controller], root)
                if not below.startswith(".."):
                    places.setdefault(controller, Path(mount_point, below))
    return places


def _make(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


def _survey_hybrid(places: dict[str, Path], track: Path, name: str) -> Tree:
    controllers: dict[str, tuple[Path, ...]] = {}
    missing: dict[str, str] = {}
    for controller, names in V1_NAMES.items():
        absent = [v1 for v1 in names if v1 not in places]
        if absent:
            missing[controller] = (
                f"the v1 hierarchy {absent[0]} is not mounted; mount it: "
                f"mount -t cgroup -o {absent[0]} cgroup /sys/fs/cgroup/{absent[0]}"
            )
            continue
        try:
            controllers[controller] = tuple(_make(places[v1] / name) for v1 in names)
            if controller == "cpuset":
                _fill_cpuset(controllers[controller][0])
        except OSError as error:
            missing[controller] = f"cannot make {error.filename}: {error.strerror}"
    _survey_swap(controllers, missing, "memory.memsw.limit_in_bytes")
    return Tree(track=track, controllers=controllers, missing=missing)


def _fill_cpuset(directory: Path) -> None:
    """Give a new v1 cpuset what its parent has: it starts empty, and then takes no process.

    `cgroup.clone_children` has the kernel do the same for the jobs' below it; cpusets.rst.
    """
    for file in ("cpuset.cpus", "cpuset.mems"):
        (directory / file).write_text((directory.parent / file).read_text())
    (directory / "cgroup.clone_children").write_text("1")


def _survey_unified(own: Path, track: Path, *, is_our_own: bool) -> Tree:
    shims = None
    is_root = not (own / "cgroup.type").exists()  # only the root of the tree has none
    if not is_root:
        shims = _make(own / "shims")
        leaf = _make(own / ("supervisor" if is_our_own else "keeper"))
        for pid in ["0"] if is_our_own else (own / "cgroup.procs").read_text().split():
            (leaf / "cgroup.procs").write_text(pid)
    controllers: dict[str, tuple[Path, ...]] = {}
    missing: dict[str, str] = {}
    there = (own / "cgroup.controllers").read_text().split()
    for controller in V1_NAMES:
        if controller not in there:
            missing[controller] = (
                f"{own} was not given it; under systemd, set Delegate=yes for its unit"
            )
            continue
        try:
            for directory in (own, track):
                (directory / "cgroup.subtree_control").write_text(f"+{controller}")
            controllers[controller] = (track,)
        except OSError as error:
            missing[controller] = _why_not_handed_on(own, error)
    _survey_swap(controllers, missing, "memory.swap.max")
    return Tree(unified=True, track=track, controllers=controllers, missing=missing, shims=shims)


def _survey_swap(
    controllers: dict[str, tuple[Path, ...]], missing: dict[str, str], file: str
) -> None:
    """Swap is limited by the memory controller, if the kernel was built and told to count it."""
    if "memory" in missing:
        missing["swap"] = missing["memory"]
    elif (controllers["memory"][0] / file).exists():
        controllers["swap"] = ()
    else:
        missing["swap"] = "this kernel does not count swap (boot it with swapaccount=1)"


def _why_not_handed_on(own: Path, error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return (
            f"there are other processes in {own}, so it cannot be handed on; run the supervisor "
            "as a service (contrib/systemd), or by hand: systemd-run --scope -p Delegate=yes "
            "jobs-supervisor …"
        )
    return f"cannot hand it on in {own}: {error.strerror}"


# -- limits that make sense ------------------------------------------------------------------


def check_against_host(limits: Limits) -> None:
    """Refuse limits that are more than this host has.

    Raises:
        JobsError: `invalid_argument`, with what was asked and what there is.
    """
    online = parse_cpuset(Path("/sys/devices/system/cpu/online").read_text().strip())
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text())
    _at_most("cpus", limits.cpus, len(online), "CPUs")
    _at_most("memory", limits.memory_bytes, total, "bytes of memory")
    _at_most("pids", limits.pids, pid_max, "processes (kernel.pid_max)")
    absent = parse_cpuset(limits.cpuset) - online if limits.cpuset is not None else frozenset()
    if absent:
        raise JobsError(
            "invalid_argument",
            f"--cpuset {limits.cpuset}: this host has no CPU {min(absent)}; it has "
            f"{Path('/sys/devices/system/cpu/online').read_text().strip()}",
        )


def _at_most(name: str, asked: float | None, there_is: float, what: str) -> None:
    if asked is not None and asked > there_is:
        raise JobsError(
            "invalid_argument", f"--{name} {asked:g} is more than this host has: {there_is} {what}"
        )


def disk_of(path: str, user: User) -> str:
    """Give `major:minor` of the whole disk that a path is on, or that it is itself.

    Throttling is the disk's, not a partition's: blkio-controller.rst. What the user cannot reach
    gets the same answer as what is not there: we look with rights that the asker does not have.

    Raises:
        JobsError: `invalid_argument`: there is no such path for the user, or no disk behind it.
    """
    status = reach(path, user)
    if status is None:
        raise JobsError(
            "invalid_argument",
            f"no device for {path}: there is no such path, or {user.name} may not reach it",
        )
    number = status.st_rdev if _is_block(status.st_mode) else status.st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    device = Path("/sys/dev/block", name)
    if not device.exists():
        raise JobsError(
            "invalid_argument",
            f"there is no disk behind {path} (device {name}: a tmpfs, an overlay or a network file "
            "system): name the disk or a path on it with --io-device",
        )
    if (device / "partition").exists():
        name = (device.resolve().parent / "dev").read_text().strip()
    return name


def _is_block(mode: int) -> bool:
    return (mode & 0o170000) == 0o060000

"""What this host gives a job: namespaces, and a cgroup v2 tree, as found out at start."""

import os
from pathlib import Path

from attrs import frozen

ROOT, USERNS, NONE = "root", "userns", "none"


@frozen(kw_only=True)
class Host:
    """What jobs get here.

    Attributes:
        mode: `root`, `userns` or `none`, as `jobs_shim.probe` found it.
        cgroups: the directory of the v2 tree below which jobs' cgroups are made; None: no such.
        missing: what is not enforced here, each with its reason; sentences.
    """

    mode: str
    cgroups: Path | None
    missing: tuple[str, ...] = ()


def own_cgroup(mounts: str, membership: str) -> Path | None:
    """Give this process's own directory in the cgroup v2 tree, on a unified or a hybrid host.

    Args:
        mounts: the text of /proc/self/mountinfo, proc_pid_mountinfo(5).
        membership: the text of /proc/self/cgroup, cgroups(7).
    """
    path = next((line[3:] for line in membership.splitlines() if line.startswith("0::")), None)
    if path is None:
        return None
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            root, mount_point = fields.split()[3:5]
            below = os.path.relpath(path, root)
            return None if below.startswith("..") else Path(mount_point, below)
    return None


def make_cgroup_base(name: str) -> tuple[Path | None, str | None]:
    """Make the directory for jobs' cgroups below our own; give it, or why there is none."""
    own = own_cgroup(
        Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
    )
    if own is None:
        return None, "no cgroup v2 tree is mounted"
    base = own / name
    try:
        base.mkdir(exist_ok=True)
    except OSError as error:
        return None, f"cannot make {base}: {error.strerror}"
    if not (base / "cgroup.kill").exists():
        return None, "this kernel has no cgroup.kill (Linux 5.14)"
    return base, None


def survey(mode: str, why: str, name: str) -> Host:
    """Put together what the fork server found out about namespaces and what we do about cgroups.

    Args:
        mode: the best mode of `jobs_shim.probe`.
        why: why no better one.
        name: of the cgroup that is to hold the jobs' cgroups.
    """
    missing = []
    base, reason = make_cgroup_base(name)
    if reason is not None:
        missing.append(f"no cgroups ({reason}): jobs are not counted or killed as a whole by them")
    if mode == USERNS:
        missing.append(
            "not root: every job runs as this user, in a user namespace of its own, "
            f"and cannot become another ({why})"
        )
    elif mode == NONE:
        missing.append(
            "no namespaces: jobs see the host's processes and mounts, and a job whose shim and "
            f"init are both killed by force may leave processes ({why})"
        )
    return Host(mode=mode, cgroups=base, missing=tuple(missing))

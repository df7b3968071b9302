"""From a spec to the plan that a shim executes: plain data, made before anything is started.

The steps and their order are explained where they stand. `explain` turns the failure of one into
a sentence for the person who asked for the job.
"""

import errno as errors
import os
import pwd
import resource

from attrs import frozen

from jobs_proto.errors import JobsError
from jobs_proto.job import Job, Limits, Spec
from jobs_supervisor.config import JobSettings
from jobs_supervisor.host import NONE, ROOT, Host

# linux/sched.h and linux/mount.h, as unshare(2) and mount(2) name them.
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_SLAVE = 0x2, 0x4, 0x8, 0x4000, 0x80000

NOFILE = (1024, 524288)
"""Soft and hard limit of open files for a job; systemd's defaults."""

Step = list[object]


@frozen
class User:
    """A Unix user, as the kernel and as programs want it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def find_user(name: str) -> User:
    """Look up a user by name or number.

    Raises:
        JobsError: `invalid_argument`: there is none.
    """
    try:
        entry = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise JobsError("invalid_argument", f"there is no user {name!r} on this host") from None
    groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
    return User(
        entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir, entry.pw_shell or "/bin/sh"
    )


def user_of(spec: Spec, settings: JobSettings) -> User:
    """Give the user that a job of this spec runs as.

    Raises:
        JobsError: no such user, or one that we have no rights to become.
    """
    if os.geteuid() == 0:
        return find_user(spec.user or settings.default_user)
    own = find_user(str(os.geteuid()))
    if spec.user not in (None, own.name, str(own.uid)):
        raise JobsError(
            "failed_precondition",
            f"this supervisor does not run as root: its jobs run as {own.name}, not {spec.user}",
        )
    return own


def environment(spec: Spec, user: User, job_id: str, path: str) -> dict[str, str]:
    """Give the job's whole environment; nothing of the supervisor's own comes into it."""
    return {
        "PATH": path,
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        "SHELL": user.shell,
        "LANG": "C.UTF-8",
        "JOBS_JOB_ID": job_id,
        **spec.env,
    }


def make_plan(
    job: Job,
    host: Host,
    settings: JobSettings,
    *,
    cgroup: dict[str, object] | None,
    boot: str,
) -> dict[str, object]:
    """Make the plan of one job: the map that `jobs_shim.shim.Shim` takes.

    Args:
        job: with its effective limits.
        host: what can be had.
        settings: what jobs get.
        cgroup: of `jobs_supervisor.cgroups.Tree.plan`.
        boot: the kernel's boot, for the shim's identity.

    Raises:
        JobsError: the spec cannot be carried out on this host.
    """
    spec, user = job.spec, user_of(job.spec, settings)
    env = environment(spec, user, job.id, settings.path)
    return {
        "job": job.id,
        "boot": boot,
        "cgroup": cgroup,
        "own_pids": host.mode != NONE,
        "timeout_s": spec.timeout_s,
        "grace_s": settings.grace_s,
        "shim": _shim_steps(host),
        "init": _init_steps(host, job.id),
        "leader": _leader_steps(spec, user, host, job.limits, env),
    }


def _shim_steps(host: Host) -> list[Step]:
    """What the shim does before it forks init: enter what only a fork's child is inside of."""
    if host.mode == NONE:
        return []
    if host.mode == ROOT:
        return [["unshare", CLONE_NEWPID]]
    return [
        ["unshare", CLONE_NEWUSER],
        ["map_ids", os.geteuid(), os.getegid()],
        ["unshare", CLONE_NEWPID],
    ]


def _init_steps(host: Host, job_id: str) -> list[Step]:
    if host.mode == NONE:
        return []
    return [
        ["unshare", CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS],
        # A slave: what the host unmounts goes away here too, and nothing goes the other way.
        ["mount", "none", "/", "", MS_REC | MS_SLAVE, ""],
        ["mount", "proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, ""],
        ["sethostname", f"job-{job_id[:12]}"],
    ]


def _leader_steps(
    spec: Spec, user: User, host: Host, limits: Limits, env: dict[str, str]
) -> list[Step]:
    steps: list[Step] = []
    if host.mode == ROOT:
        # The leader is born in its cgroup: that becomes the namespace's root, cgroup_namespaces(7).
        steps.append(["unshare", CLONE_NEWCGROUP])
    own_hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard = limits.nofile or min(NOFILE[1], own_hard)
    steps.append(["rlimit", resource.RLIMIT_NOFILE, limits.nofile or min(NOFILE[0], hard), hard])
    if os.geteuid() == 0:
        steps.append(["user", user.uid, user.gid, list(user.groups)])
    steps += [
        ["no_new_privs"],
        ["umask", 0o022],
        ["chdir", spec.cwd],  # as the user: a directory that it may not enter is an error
        ["exec", list(spec.argv), env],
    ]
    return steps


_SAID = {
    "cgroup": "set up the job's cgroup {path}",
    "chdir": "change to the working directory {path}",
    "exec": "execute {path}",
    "launch": "prepare the job ({path})",
    "map_ids": "map the user into the job's user namespace",
    "mount": "mount {path} for the job",
    "rlimit": "set the job's resource limits",
    "user": "become the job's user",
}

_HINTS = {
    ("exec", errors.ENOENT): "no such program, or the interpreter that its first line names is "
    "missing; name an absolute path, or a program on the job's PATH",
    ("exec", errors.EACCES): "it is not executable by the job's user (mode, directory or mount)",
    ("exec", errors.ENOEXEC): "it is neither a binary of this machine nor a script with a #! line",
    ("exec", errors.E2BIG): "its arguments and environment are larger than the kernel takes "
    "(execve(2): 128 kB for one, a quarter of the stack limit for all)",
    ("chdir", errors.ENOENT): "there is no such directory",
    ("chdir", errors.EACCES): "the job's user may not enter it",
}


def explain(step: str, errno: int, path: str | None) -> str:
    """Say as a sentence which step of the set-up failed, on what, and why."""
    what = _SAID.get(step, f"do the step {step}").format(path=path or "")
    why = _HINTS.get((step, errno)) or (os.strerror(errno) if errno else "it ended without a word")
    return f"cannot {what}: {why}"


def exit_code_of_failure(step: str, errno: int) -> int | None:
    """Give what a shell would give: 127 not found, 126 not executable; else None."""
    if step != "exec":
        return None
    return 127 if errno == errors.ENOENT else 126

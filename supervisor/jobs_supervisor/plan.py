"""From a spec to the plan that a shim executes: plain data, made before anything is started.

The steps and their order are explained where they stand. `explain` turns the failure of one into
a sentence for the person who asked for the job.
"""

import errno as errors
import os
import resource
import shlex

from jobs_proto.isolation import NO_NETWORK
from jobs_proto.job import Job, Limits, Spec
from jobs_shim.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MS_REC,
    MS_SLAVE,
)
from jobs_supervisor import isolation
from jobs_supervisor.config import JobSettings
from jobs_supervisor.host import NONE, ROOT, Host
from jobs_supervisor.isolation import Step, Walls
from jobs_supervisor.users import User

NOFILE = (1024, 524288)
"""Soft and hard limit of open files for a job; systemd's defaults."""


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
    user: User,
    host: Host,
    walls: Walls,
    settings: JobSettings,
    *,
    cgroup: dict[str, object] | None,
    boot: str,
    secrets: str,
) -> dict[str, object]:
    """Make the plan of one job: the map that `jobs_shim.shim.Shim` takes.

    Args:
        job: with its effective limits.
        user: who it runs as, of `jobs_supervisor.users`.
        host: what can be had.
        walls: what isolation is made with.
        settings: what jobs get.
        cgroup: of `jobs_supervisor.cgroups.Tree.plan`.
        boot: the kernel's boot, for the shim's identity.
        secrets: the file that holds the job's secrets.
    """
    spec = job.spec
    ahead, leader = _namespace_steps(spec, host), _name_steps(spec, host, job.id)
    if host.mode != NONE:
        first, then = isolation.mount_steps(spec.isolation, user, walls, settings, secrets)
        ahead += first
        leader += then
    env = environment(spec, user, job.id, settings.path)
    leader += _leader_steps(spec, user, walls, job.limits)
    barred = isolation.filter_steps(spec.isolation, user, walls)
    # The filter forbids to mount, and allows all that is left to do.
    (ahead if isolation.is_usual(spec.isolation) else leader).extend(barred)
    leader.append(["exec", list(spec.argv), env])
    return {
        "job": job.id,
        "boot": boot,
        "cgroup": cgroup,
        "own_pids": host.mode != NONE,
        "timeout_s": job.timeout_s,
        "output": [job.limits.output_max_bytes, spec.output_policy],
        "grace_s": settings.grace_s,
        "shim": _shim_steps(host),
        "ahead": ahead,
        "leader": leader,
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


def _namespace_steps(spec: Spec, host: Host) -> list[Step]:
    steps: list[Step] = [["umask", 0o022]]
    if host.mode == NONE:
        return steps
    # The launcher is born in its cgroup: that becomes the namespace's root, cgroup_namespaces(7).
    namespaces = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
    without_network = spec.isolation.network == NO_NETWORK
    steps += [
        ["unshare", namespaces | CLONE_NEWNET if without_network else namespaces],
        # A slave: what the host unmounts goes away here too, and nothing goes the other way.
        ["mount", "none", "/", "", MS_REC | MS_SLAVE, ""],
    ]
    if without_network:
        steps.append(["loopback"])
    return steps


def _name_steps(spec: Spec, host: Host, job_id: str) -> list[Step]:
    if host.mode == NONE:
        return []
    return [["sethostname", spec.isolation.hostname or f"job-{job_id[:12]}"]]


def _leader_steps(spec: Spec, user: User, walls: Walls, limits: Limits) -> list[Step]:
    own_hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard = limits.nofile or min(NOFILE[1], own_hard)
    return [
        ["rlimit", resource.RLIMIT_NOFILE, limits.nofile or min(NOFILE[0], hard), hard],
        *isolation.rights_steps(spec.isolation, user, walls),
        ["chdir", spec.cwd],  # as the user: a directory that it may not enter is an error
    ]


_SAID = {
    "cgroup": "set up the job's cgroup {path}",
    "chdir": "change to the working directory {path}",
    "exec": "execute {path}",
    "launch": "prepare the job ({path})",
    "map_ids": "map the user into the job's user namespace",
    "mount": "mount {path} for the job",
    "rlimit": "set the job's resource limits",
    "user": "become the job's user",
    **isolation.SAID,
}

_HINTS = {
    **isolation.HINTS,
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


def describe(plan: dict[str, object]) -> list[dict[str, object]]:
    """Give a plan's steps for people and programs: who does it, the step, and the same in a line.

    Binary arguments are told by their size.
    """
    return [
        {"by": who, "step": [_plain(argument) for argument in step], "text": _line(step)}
        for who, part in (("shim", "shim"), ("leader", "ahead"), ("leader", "leader"))
        for step in plan[part]  # type: ignore[attr-defined]
    ]


def _plain(value: object) -> object:
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value


_FLAGS = {
    "unshare": {
        CLONE_NEWNS: "mount",
        CLONE_NEWCGROUP: "cgroup",
        CLONE_NEWUTS: "uts",
        CLONE_NEWIPC: "ipc",
        CLONE_NEWUSER: "user",
        CLONE_NEWPID: "pid",
        CLONE_NEWNET: "network",
    },
    "mount": {MS_REC: "rec", MS_SLAVE: "slave"},
    "place": isolation.MOUNT_FLAGS,
    "place_if_there": isolation.MOUNT_FLAGS,
    "devices": isolation.MOUNT_FLAGS,
}
_OCTAL = ("umask",)
_HEX = ("bounding", "capabilities")


def _line(step: Step) -> str:
    name, *arguments = step
    if name in _OCTAL or name in _HEX:
        arguments[0] = f"{arguments[0]:#o}" if name in _OCTAL else f"{arguments[0]:#x}"
    names = _FLAGS.get(str(name), {})
    words = [_word(argument, names) for argument in arguments]
    return " ".join([str(name), *(word for word in words if word and word != "None")])


def _word(value: object, flags: dict[int, str]) -> str:
    if isinstance(value, int) and flags:
        return ",".join(text for flag, text in flags.items() if value & flag)
    if isinstance(value, list):
        return " ".join(_word(each, flags) for each in value)
    if isinstance(value, dict):
        return " ".join(shlex.quote(f"{key}={each}") for key, each in value.items())
    return shlex.quote(value) if value and isinstance(value, str) else str(_plain(value))


def exit_code_of_failure(step: str, errno: int) -> int | None:
    """Give what a shell would give: 127 not found, 126 not executable; else None."""
    if step != "exec":
        return None
    return 127 if errno == errors.ENOENT else 126

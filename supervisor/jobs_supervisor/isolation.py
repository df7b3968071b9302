"""From `Isolation` to steps: what the launcher does before it becomes the leader.

The steps are those of `jobs_shim.mounts` and `jobs_shim.confine`.

Pure functions of the spec and of what was found out at start (`Walls`). The defaults, and why they
are what they are, stand in ISOLATION.md.
"""

import errno as errors
import os
from collections.abc import Iterable
from pathlib import Path

from attrs import frozen

from jobs_proto.errors import JobsError
from jobs_proto.isolation import (
    ALL,
    CAPABILITIES,
    NO_NETWORK,
    Isolation,
    capability,
    parse_bind,
    parse_tmpfs,
)
from jobs_supervisor import seccomp
from jobs_supervisor.config import JobSettings, Settings
from jobs_supervisor.host import NONE, ROOT, USERNS
from jobs_supervisor.users import User

Step = list[object]

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
_NO_CODE = MS_NOSUID | MS_NODEV | MS_NOEXEC
MOUNT_FLAGS = {MS_RDONLY: "ro", MS_NOSUID: "nosuid", MS_NODEV: "nodev", MS_NOEXEC: "noexec"}

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
"""The host's device nodes that every job has in its /dev."""

SEALED = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What of /proc is read only: it is the host's, not the job's."""

COVERED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
"""What is covered: it tells of other jobs, of the hardware, or of the kernel's memory."""

ROOT_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
)
"""What a job as root has; a job as anybody else has none."""

SHARED = frozenset(
    {"/", "/etc", "/etc/ssl", "/etc/pki", "/home", "/opt", "/root", "/run", "/srv", "/usr"}
    | {"/usr/local", "/usr/local/etc", "/var", "/var/lib", "/var/run"}
)
"""Directories that are not hidden as a whole though a key lies in them: the file alone is."""

SECRETS = "/run/secrets"
_DEVPTS = "ptmxmode=0666,mode=0620"
_TTY_GROUP = 5  # Debian's and everybody's number of the group tty


@frozen(kw_only=True)
class Walls:
    """What isolation is made with on this host, as found out at start.

    Attributes:
        mode: as `Host.mode`.
        root: jobs can become other users.
        hidden: paths that no job may see: the supervisor's own.
        capabilities: those that the supervisor has, bit by bit.
        filter: there is a system call filter.
        unified: /sys/fs/cgroup is a cgroup v2 tree.
        missing: sentences.
    """

    mode: str
    root: bool = True
    hidden: tuple[str, ...] = ()
    capabilities: int = 0
    filter: bool = True
    unified: bool = False
    missing: tuple[str, ...] = ()


def survey(mode: str, settings: Settings, config: Path) -> Walls:
    """Find out what there is.

    Args:
        mode: what the fork server found.
        settings: with the paths that are to be hidden.
        config: the file they were read from.
    """
    missing = []
    try:
        seccomp.of_this_machine()
    except seccomp.UnavailableError as error:
        missing.append(f"no system call filter: {error}")
    if not Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        missing.append("no system call filter: this kernel was built without seccomp")
    return Walls(
        mode=mode,
        root=os.geteuid() == 0 and mode != USERNS,
        hidden=hidden_paths(settings, config, Path("/proc/self/mountinfo").read_text()),
        capabilities=own_capabilities(Path("/proc/self/status").read_text()),
        filter=not missing,
        unified=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
        missing=tuple(missing),
    )


def hidden_paths(settings: Settings, config: Path, mounts: str) -> tuple[str, ...]:
    """Give what no job may see: state, settings, keys, and other instances of /proc.

    Args:
        settings: with the paths.
        config: the settings' file.
        mounts: the text of /proc/self/mountinfo, proc_pid_mountinfo(5).
    """
    paths = [settings.state_dir.absolute(), *(path.absolute() for path in settings.jobs.hidden)]
    files = (config.absolute(), settings.server.key.absolute())
    paths += [file if str(file.parent) in SHARED else file.parent for file in files]
    lines = (line.partition(" - ") for line in mounts.splitlines())
    others = [Path(fields.split()[4]) for fields, _, kind in lines if kind.startswith("proc ")]
    paths += [path for path in others if path != Path("/proc")]
    return tuple(str(path) for path in _outermost(paths))


def _outermost(paths: Iterable[Path]) -> list[Path]:
    outer: list[Path] = []
    for path in sorted(set(paths)):
        if not any(path.is_relative_to(other) for other in outer):
            outer.append(path)
    return outer


def own_capabilities(status: str) -> int:
    """Give the capabilities of a process that it may hand on.

    Args:
        status: the text of its /proc/PID/status.
    """
    fields = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Cap"))
    return int(fields["CapPrm"], 16) & int(fields["CapBnd"], 16)


# -- what cannot be had ----------------------------------------------------------------------


def check(isolation: Isolation, walls: Walls) -> None:
    """Refuse what was asked for by name and cannot be had here.

    Raises:
        JobsError: `failed_precondition`.
    """
    if walls.mode == NONE and (wanted := _namespaced(isolation)):
        raise JobsError(
            "failed_precondition",
            f"--{wanted[0]} cannot be had here: this host gives no namespaces",
        )
    if not walls.root and isolation.wants_privileges:
        raise JobsError(
            "failed_precondition",
            "this supervisor does not run as root, and has no capabilities to give: "
            "--cap-add and --privileged cannot be had here",
        )
    held = names_of(walls.capabilities)
    lacking = [c for c in map(capability, isolation.cap_add) if c != ALL and c not in held]
    if lacking:
        raise JobsError(
            "failed_precondition",
            f"the supervisor itself does not have CAP_{lacking[0]} on this host",
        )


def _namespaced(isolation: Isolation) -> list[str]:
    asked = {
        "network none": isolation.network == NO_NETWORK,
        "rootfs": isolation.rootfs is not None,
        "bind": bool(isolation.binds),
        "tmpfs": bool(isolation.tmpfs),
        "read-only": isolation.read_only,
        "hostname": isolation.hostname is not None,
        "secret": bool(isolation.secrets),
    }
    return [option for option, given in asked.items() if given]


# -- the file system -------------------------------------------------------------------------


def _is_private(path: str) -> bool:
    """Whether a path of the host's is the job's own by the time that hidden ones are covered."""
    whole = Path(path)
    own = ("/proc", "/sys", "/dev")
    return path in ("/tmp", "/var/tmp") or any(map(whole.is_relative_to, own))  # noqa: S108  # they are


def is_usual(isolation: Isolation) -> bool:
    """Whether a job asks for no mounts of its own: what it sees can then be made ahead of it."""
    asked = isolation.binds, isolation.rootfs, isolation.read_only
    return not any((*asked, isolation.secrets, isolation.tmpfs))


def mount_steps(
    isolation: Isolation, user: User, walls: Walls, settings: JobSettings, secrets: str
) -> tuple[list[Step], list[Step]]:
    """Give the steps that make the job's view of the file system: ahead of the job, and for it.

    What hides the supervisor's paths comes after the job's own /proc, /sys and /tmp where nothing
    of the host's is mounted anew; else before that.

    Args:
        isolation: what was asked for.
        user: the job's.
        walls: what there is.
        settings: sizes.
        secrets: the file that holds the secrets, if there are some.
    """
    cover: Step = ["cover", list(walls.hidden)]
    not_its_own: Step = ["cover", [path for path in walls.hidden if not _is_private(path)]]
    kernel = _kernel_steps(isolation, walls)
    private = _private_steps(isolation, walls, settings)
    if is_usual(isolation):
        return [*kernel, *private, not_its_own], []
    who: object = [user.uid, user.gid, list(user.groups)] if walls.root else None
    steps: list[Step] = []
    if isolation.secrets:
        steps.append(["secrets", "secrets", secrets, user.uid, user.gid])
        if isolation.rootfs is None:
            steps.append(["make_directory", SECRETS])
    steps += [cover, *kernel]
    binds = [parse_bind(text) for text in isolation.binds]
    steps += [["take", bind.target, bind.source, who] for bind in binds]
    steps += _root_steps(isolation, who)
    steps += private
    own: list[tuple[str, Step]] = [
        (bind.target, ["bind", bind.target, bind.target, bind.read_only]) for bind in binds
    ]
    for text in isolation.tmpfs:
        target, size = parse_tmpfs(text)
        own.append((target, _tmpfs(target, size or settings.tmp_bytes)))
    steps += [step for _, step in sorted(own, key=lambda pair: pair[0].count("/"))]  # outer first
    if isolation.secrets:
        steps.append(["bind", "secrets", SECRETS, True])
    if isolation.rootfs is not None:
        steps.append(["pivot"])
    return [], steps


def _kernel_steps(isolation: Isolation, walls: Walls) -> list[Step]:
    """Give /proc and /sys: made first, so that a bind of them is of the job's own."""
    read_only = 0 if isolation.privileged else MS_RDONLY
    steps: list[Step] = [["place", "proc", "/proc", _NO_CODE, ""]]
    if walls.mode == ROOT or isolation.network == NO_NETWORK:
        steps.append(["place", "sysfs", "/sys", _NO_CODE | read_only, ""])
    else:
        steps.append(["read_only", "/sys", []])  # sysfs belongs to the owner of the network
    if walls.unified:
        steps.append(["place", "cgroup2", "/sys/fs/cgroup", _NO_CODE | read_only, ""])
    if not isolation.privileged:
        steps += [["seal", list(SEALED)], ["cover", list(COVERED)]]
    return steps


def _root_steps(isolation: Isolation, who: object) -> list[Step]:
    steps: list[Step] = []
    if isolation.rootfs is not None:
        steps += [
            ["take", "proc", "/proc", None],
            ["take", "sys", "/sys", None],
            ["take", "root", isolation.rootfs, who],
            ["root", "root", isolation.rootfs, who],
        ]
    if isolation.read_only:
        steps.append(["read_only", "/", [] if isolation.rootfs else ["/proc"]])
    if isolation.rootfs is not None:
        steps += [["bind", "proc", "/proc", False], ["bind", "sys", "/sys", False]]
    return steps


def _private_steps(isolation: Isolation, walls: Walls, settings: JobSettings) -> list[Step]:
    size = settings.tmp_bytes
    group = f",gid={_TTY_GROUP}" if walls.mode == ROOT else ""
    steps: list[Step] = [
        ["devices", "/dev", MS_NOSUID | MS_NOEXEC, f"mode=755,size={size}", list(DEVICES)],
        ["place", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, _DEVPTS + group],
        ["link", "pts/ptmx", "/dev/ptmx"],
        ["link", "/proc/self/fd", "/dev/fd"],
        ["link", "/proc/self/fd/0", "/dev/stdin"],
        ["link", "/proc/self/fd/1", "/dev/stdout"],
        ["link", "/proc/self/fd/2", "/dev/stderr"],
        _tmpfs("/tmp", size),  # noqa: S108  # that is what it is
        ["place_if_there", *_tmpfs("/var/tmp", size)[1:]],  # noqa: S108
    ]
    if isolation.rootfs is not None:
        steps.append(
            ["place_if_there", "tmpfs", "/run", MS_NOSUID | MS_NODEV, f"mode=755,size={size}"]
        )
    return steps


def _tmpfs(target: str, size: int) -> Step:
    return ["place", "tmpfs", target, MS_NOSUID | MS_NODEV, f"mode=1777,size={size}"]


# -- rights ----------------------------------------------------------------------------------


def names_of(capabilities: int) -> frozenset[str]:
    """Give the names of a set of capabilities."""
    return frozenset(name for name, number in CAPABILITIES.items() if capabilities >> number & 1)


def kept_capabilities(isolation: Isolation, user: User, walls: Walls) -> frozenset[str]:
    """Give the capabilities that the job is to have."""
    held = names_of(walls.capabilities) if walls.root else frozenset()
    add, drop = ({*map(capability, c)} for c in (isolation.cap_add, isolation.cap_drop))
    default = held if isolation.privileged else ROOT_CAPABILITIES if user.uid == 0 else ()
    kept = set() if ALL in drop else set(default)
    kept |= held if ALL in add else add
    return frozenset((kept - drop) & held)


def rights_steps(isolation: Isolation, user: User, walls: Walls) -> list[Step]:
    """Give the steps that make the process the user's, with the rights it is to have."""
    kept = kept_capabilities(isolation, user, walls)
    bits = sum(1 << CAPABILITIES[name] for name in kept)
    steps: list[Step] = []
    if walls.root or walls.mode != NONE:  # else we have not the right to, nor anything to drop
        steps.append(["bounding", bits])
    if walls.root:
        steps.append(["user", user.uid, user.gid, list(user.groups)])
    steps.append(["capabilities", bits, user.uid != 0])
    return steps


def filter_steps(isolation: Isolation, user: User, walls: Walls) -> list[Step]:
    """Give the steps that no program gets past: no new privileges, and the system call filter."""
    if isolation.privileged:
        return []
    if not walls.filter:
        return [["no_new_privs"]]
    given = frozenset(map(capability, isolation.cap_add))
    lifted = names_of(walls.capabilities) if ALL in given else given
    lifted &= kept_capabilities(isolation, user, walls)
    return [["no_new_privs"], ["seccomp", seccomp.of_this_machine(lifted)]]


# -- in words --------------------------------------------------------------------------------

SAID = {
    "bind": "mount {path} for the job",
    "bounding": "drop capabilities",
    "capabilities": "set the job's capabilities",
    "cover": "hide {path} from the job",
    "devices": "make the job's devices ({path})",
    "link": "make the links in the job's /dev",
    "loopback": "bring up the loopback device of the job's network",
    "make_directory": "make the directory {path} on the host, where the secrets are mounted",
    "pivot": "change the root directory",
    "place": "mount a file system of the job's own at {path}",
    "place_if_there": "mount a file system of the job's own at {path}",
    "read_only": "make {path} read only",
    "root": "make {path} the job's root directory",
    "seal": "make {path} read only",
    "seccomp": "load the system call filter",
    "secrets": "hand over the job's secrets",
    "sethostname": "set the job's host name",
    "take": "find {path} for the job",
}
"""What each step does, after "cannot"."""

_NO_PLACE = (
    "there is no such file or directory to mount on. Make it, or mount below /tmp, /dev or a "
    "--tmpfs, where it is made"
)
_NO_RIGHT = "the job's user may not reach it"

HINTS = {
    ("bind", errors.ENOENT): _NO_PLACE,
    ("bind", errors.ENOTDIR): "a directory is mounted on a directory, and a file on a file",
    ("make_directory", errors.EACCES): "only root may; the host's operator can make it, once",
    ("place", errors.ENOENT): f"{_NO_PLACE}; a root directory needs /proc, /sys, /dev and /tmp",
    ("root", errors.EACCES): _NO_RIGHT,
    ("root", errors.ENOTDIR): "it is no directory",
    ("secrets", errors.ENOENT): "they are gone: this job was launched before",
    ("take", errors.EACCES): _NO_RIGHT,
    ("take", errors.ELOOP): "too many links, or one that leads through /proc",
}

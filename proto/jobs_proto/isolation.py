"""What keeps a job apart from its host, as it is asked for. One definition of each field.

The CLI's options and the RPC's `run` derive from `Isolation`; the supervisor makes steps of it
(`jobs_supervisor.isolation`). Not for the shim, as `jobs_proto.job`.
"""

import re
from types import MappingProxyType
from typing import Final, NamedTuple

from attrs import field, frozen

from jobs_proto.sizes import in_bytes

HOST, NO_NETWORK = "host", "none"
ALL = "ALL"
MAX_MOUNTS = 64
MAX_SECRETS = 32
MAX_SECRET = 64 * 1024
"""Bytes in one secret."""

_NAMES: Final = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP "
    "LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER "
    "SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE "
    "SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP "
    "MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
    "CHECKPOINT_RESTORE"
)

CAPABILITIES: Final = MappingProxyType({name: number for number, name in enumerate(_NAMES.split())})
"""By name without CAP_: the numbers of capabilities(7), linux/capability.h."""

_HOSTNAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_MAX_HOSTNAME = 64  # sethostname(2)
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_OURS = ("/proc", "/sys")


class Bind(NamedTuple):
    """`SRC:DST[:ro]`, taken apart."""

    source: str
    target: str
    read_only: bool


class Tmpfs(NamedTuple):
    """`DST` or `DST:SIZE`, taken apart; no size: the settings' `tmp_bytes`."""

    target: str
    size: int | None


def parse_bind(text: str) -> Bind:
    """Take a bind apart.

    Raises:
        ValueError: it is none.
    """
    source, _, rest = text.partition(":")
    target, colon, mode = rest.partition(":")
    if not target or (colon and mode not in ("ro", "rw")):
        raise ValueError(f"a bind is SRC:DST or SRC:DST:ro, not {text!r}")
    return Bind(check_path(source, "a bind's source"), _check_target(target), mode == "ro")


def parse_tmpfs(text: str) -> Tmpfs:
    """Take a tmpfs apart.

    Raises:
        ValueError: it is none.
    """
    target, colon, size = text.partition(":")
    if colon and not in_bytes(size):
        raise ValueError(f"a tmpfs of no size at all holds nothing: {text!r}")
    return Tmpfs(_check_target(target), in_bytes(size) if colon else None)


def check_path(path: str, what: str) -> str:
    """Give an absolute path back, without a slash too many.

    Raises:
        ValueError: it is not absolute, or has `..` in it.
    """
    parts = path.split("/")
    if not path.startswith("/") or "\0" in path or ".." in parts:
        raise ValueError(f"{what} must be an absolute path without `..`, not {path!r}")
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def _check_target(path: str) -> str:
    target = check_path(path, "where to mount")
    if target == "/":
        raise ValueError("nothing can be mounted over /; another root is what --rootfs is for")
    if target in (*_OURS, "/dev") or target.startswith(tuple(f"{ours}/" for ours in _OURS)):
        raise ValueError(f"nothing can be mounted at {target}: a job has its own there")
    return target


def capability(name: str) -> str:
    """Give a capability's name as `CAPABILITIES` and `ALL` have it: `cap_chown` → `CHOWN`.

    Raises:
        ValueError: there is none of this name.
    """
    bare = name.upper().removeprefix("CAP_")
    if bare != ALL and bare not in CAPABILITIES:
        raise ValueError(f"there is no capability {name!r}; see capabilities(7), or say ALL")
    return bare


def check_secret_name(name: str) -> str:
    """Give back what can be the name of a file in /run/secrets.

    Raises:
        ValueError: it cannot.
    """
    if not _SECRET.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a secret: a letter, digit or _, then at most 63 of these, . or -"
        )
    return name


def _network(_isolation: object, _field: object, network: str) -> None:
    if network not in (HOST, NO_NETWORK):
        raise ValueError(f"a network is {HOST} or {NO_NETWORK}, not {network!r}")


def _rootfs(_isolation: object, _field: object, rootfs: str | None) -> None:
    if rootfs is not None:
        check_path(rootfs, "the root directory")


def _hostname(_isolation: object, _field: object, hostname: str | None) -> None:
    if hostname is not None and not (
        len(hostname) <= _MAX_HOSTNAME and _HOSTNAME.fullmatch(hostname)
    ):
        raise ValueError(
            f"{hostname!r} cannot be a host's name: letters, digits, - and ., at most "
            f"{_MAX_HOSTNAME} of them"
        )


def _mounts(isolation: "Isolation", _field: object, _value: object) -> None:
    targets = [parse_tmpfs(text).target for text in isolation.tmpfs]
    targets += [parse_bind(text).target for text in isolation.binds]
    if len(targets) > MAX_MOUNTS:
        raise ValueError(f"a job has at most {MAX_MOUNTS} binds and tmpfs, not {len(targets)}")
    twice = {target for target in targets if targets.count(target) > 1}
    if twice:
        raise ValueError(f"two things are to be mounted at {min(twice)}")


def _capabilities(_isolation: object, _field: object, names: tuple[str, ...]) -> None:
    for name in names:
        capability(name)


def _secrets(_isolation: object, _field: object, names: tuple[str, ...]) -> None:
    if len(names) > MAX_SECRETS or len(set(names)) != len(names):
        raise ValueError(f"a job has at most {MAX_SECRETS} secrets, each of another name")
    for name in names:
        check_secret_name(name)


@frozen(kw_only=True)
class Isolation:
    """What keeps the job apart from its host.

    Attributes:
        network: `host`: the host's network; `none`: a loopback device and nothing else.
        rootfs: a directory that becomes the job's root; None: the host's root directory.
        binds: a path of the host's, and where the job is to see it, SRC:DST or SRC:DST:ro; with
            whatever is mounted below it. May be repeated.
        tmpfs: an empty directory in memory, DST or DST:SIZE. May be repeated.
        read_only: the root file system cannot be written to; /tmp, /dev, tmpfs and binds can.
        hostname: the host name that the job sees; None: `job-` and the start of its id.
        cap_add: a capability to have besides the default ones, or ALL. May be repeated.
        cap_drop: a capability to do without; or ALL, then only added ones remain. May be repeated.
        privileged: all capabilities, no system call filter, writable /sys and /proc/sys.
        secrets: the names of its files in /run/secrets; what they hold is never part of a spec.
    """

    network: str = field(default=HOST, validator=_network)
    rootfs: str | None = field(default=None, validator=_rootfs)
    binds: tuple[str, ...] = ()
    tmpfs: tuple[str, ...] = field(default=(), validator=_mounts)
    read_only: bool = False
    hostname: str | None = field(default=None, validator=_hostname)
    cap_add: tuple[str, ...] = field(default=(), validator=_capabilities)
    cap_drop: tuple[str, ...] = field(default=(), validator=_capabilities)
    privileged: bool = False
    secrets: tuple[str, ...] = field(default=(), validator=_secrets)

    @property
    def wants_privileges(self) -> bool:
        """It asks for more than a job of its user has: the action `run_privileged`."""
        return self.privileged or bool(self.cap_add)


def check_secrets(isolation: Isolation, contents: dict[str, bytes]) -> None:
    """Refuse secrets that are too large, or others than the spec names.

    Raises:
        ValueError: so it is.
    """
    if set(contents) != set(isolation.secrets):
        raise ValueError(
            "spec.isolation.secrets must name what `secrets` holds: "
            f"{sorted(isolation.secrets)} are not {sorted(contents)}"
        )
    for name, content in contents.items():
        if len(content) > MAX_SECRET:
            raise ValueError(
                f"the secret {name} has {len(content)} bytes; at most {MAX_SECRET} are possible"
            )

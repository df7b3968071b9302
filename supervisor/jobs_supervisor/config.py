"""The supervisor's settings: one class, read from TOML, every fault named at start.

[server]      who may connect, and how much of it
[jobs]        what a job gets by default, and how many there may be
[retention]   how long finished jobs are kept
[plugins]     which there are, and how they are asked
[quotas]      how much one identity may have of all this
[audit]       how much of the audit log is kept
[policy]      who may do what; jobs_plugins/policy.py
"""

import tomllib
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from attrs import field, frozen
from attrs.validators import optional

from jobs_plugins.events import EVENT_S
from jobs_plugins.plugins import DECIDE_S
from jobs_plugins.policy import Policy
from jobs_proto.connection import MAX_MESSAGE
from jobs_proto.errors import JobsError
from jobs_proto.job import Limits
from jobs_proto.tightest import tightest
from jobs_proto.wire import structure

DEFAULT_PORT = 7520


def _positive(_settings: object, attribute: object, value: Any) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be more than 0, not {value}")  # type: ignore[attr-defined]


def _not_negative(_settings: object, attribute: object, value: Any) -> None:
    if not value >= 0:
        raise ValueError(f"{attribute.name} must be 0 or more, not {value}")  # type: ignore[attr-defined]


def host_and_port(listen: str) -> tuple[str, int]:
    """Take `HOST:PORT` or `[V6]:PORT` apart.

    Raises:
        ValueError: it is neither.
    """
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"listen is HOST:PORT, not {listen!r}")
    return host, int(port)


def _listen(_settings: object, _attribute: object, value: str) -> None:
    host_and_port(value)


def _isolation(_settings: object, _attribute: object, value: str) -> None:
    if value not in ("required", "best-effort"):
        raise ValueError(f"isolation is required or best-effort, not {value!r}")


@frozen(kw_only=True)
class ServerSettings:
    """How the supervisor listens.

    Attributes:
        listen: `HOST:PORT`; without HOST, every address of this host.
        ca: the CA's certificate, which clients' certificates must be signed by.
        cert: the server's certificate.
        key: its private key.
        crl: what the CA has revoked; None: nothing.
        max_connections: at once, of clients that are known; more are refused.
        max_handshakes: connections whose client is not known yet; the oldest go beyond that.
        max_handshakes_per_address: of these, from one IPv4 address or IPv6 network (64 bits).
        handshake_s: seconds that a client has to be known, but for those in which it waits for us.
        idle_s: seconds after which a connection that asks nothing is closed.
        max_message: bytes in one message of a client.
        message_s: seconds from a message's first byte to its last.
        answer_s: seconds that a client has to take one answer.
        drain_s: seconds that open requests get when the supervisor stops.
    """

    listen: str = field(default=f":{DEFAULT_PORT}", validator=_listen)
    ca: Path = Path("/etc/jobs/ca.crt")
    cert: Path = Path("/etc/jobs/server.crt")
    key: Path = Path("/etc/jobs/server.key")
    crl: Path | None = None
    max_connections: int = field(default=4096, validator=_positive)
    max_handshakes: int = field(default=1024, validator=_positive)
    max_handshakes_per_address: int = field(default=256, validator=_positive)
    handshake_s: float = field(default=10.0, validator=_positive)
    idle_s: float = field(default=600.0, validator=_positive)
    max_message: int = field(default=MAX_MESSAGE, validator=_positive)
    message_s: float = field(default=60.0, validator=_positive)
    answer_s: float = field(default=120.0, validator=_positive)
    drain_s: float = field(default=5.0, validator=_positive)


@frozen(kw_only=True)
class JobSettings:
    """What jobs get.

    Attributes:
        max_running: jobs that run at once; more wait in the queue.
        max_queued: jobs that may wait; more are refused with `resource_exhausted`.
        default_user: the Unix user of a job that names none; without root rights jobs run as the
            supervisor's own user, whatever stands here.
        grace_s: seconds between TERM and KILL when a job's deadline fires.
        isolation: `required`: a host that gives no namespaces, or no system call filter, runs no
            jobs; `best-effort`: it does, and says what is missing.
        default_limits: what a job gets that asks for nothing, where the host can enforce it.
        max_limits: what no job gets more of.
        tmp_bytes: the size of each private /tmp, /var/tmp and /dev of a job, and of a tmpfs that
            names none; what is in it counts as the job's memory.
        hidden: further files and directories that no job may see; the supervisor's own never are.
        path: the PATH of jobs.
    """

    max_running: int = field(default=1000, validator=_positive)
    max_queued: int = field(default=10_000, validator=_positive)
    default_user: str = "nobody"
    grace_s: float = field(default=10.0, validator=_positive)
    isolation: str = field(default="required", validator=_isolation)
    default_limits: Limits = field(factory=partial(Limits, pids=4096))
    max_limits: Limits = field(factory=Limits)
    tmp_bytes: int = field(default=1 << 30, validator=_positive)
    hidden: tuple[Path, ...] = ()
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    def __attrs_post_init__(self) -> None:
        """Refuse defaults that no job could have within the maximums."""
        tightest(self.default_limits, self.max_limits)


@frozen(kw_only=True)
class RetentionSettings:
    """How long finished jobs are kept, with their output; each limit holds by itself.

    Attributes:
        keep_s: seconds after their end.
        keep_jobs: so many.
        keep_output_bytes: so much output of them together, their records (commands, environments)
            counted in.
    """

    keep_s: float = field(default=30 * 86400.0, validator=_positive)
    keep_jobs: int = field(default=100_000, validator=_positive)
    keep_output_bytes: int = field(default=50 << 30, validator=_positive)


@frozen(kw_only=True)
class Quota:
    """What one role or one identity may have; what is left out is as for everybody.

    Attributes: as of `QuotaSettings`.
    """

    running: int | None = field(default=None, validator=optional(_not_negative))
    queued: int | None = field(default=None, validator=optional(_not_negative))
    queued_bytes: int | None = field(default=None, validator=optional(_not_negative))
    memory_bytes: float | None = field(default=None, validator=optional(_not_negative))
    cpus: float | None = field(default=None, validator=optional(_not_negative))
    requests_per_s: float | None = field(default=None, validator=optional(_positive))
    burst: int | None = field(default=None, validator=optional(_positive))
    connections: int | None = field(default=None, validator=optional(_not_negative))
    followers: int | None = field(default=None, validator=optional(_not_negative))


@frozen(kw_only=True)
class QuotaSettings:
    """What every identity may have, but for those of whom more is said.

    Attributes:
        running: jobs that have a place at once; more wait, and others pass them.
        queued: jobs that wait; more are refused.
        queued_bytes: of commands and environments of jobs that wait.
        memory_bytes: that the running jobs are promised together, by their limits.
        cpus: likewise.
        requests_per_s: on all its connections; beyond it they are read later.
        burst: requests that may come at once, before that.
        connections: at once.
        followers: at once; each has a connection of its own.
        role: for those who bear a role.
        identity: for one identity.
    """

    running: int = field(default=1000, validator=_not_negative)
    queued: int = field(default=10_000, validator=_not_negative)
    queued_bytes: int = field(default=256 << 20, validator=_not_negative)
    memory_bytes: float = field(default=inf, validator=_not_negative)
    cpus: float = field(default=inf, validator=_not_negative)
    requests_per_s: float = field(default=5000.0, validator=_positive)
    burst: int = field(default=10_000, validator=_positive)
    connections: int = field(default=1024, validator=_not_negative)
    followers: int = field(default=512, validator=_not_negative)
    role: dict[str, Quota] = field(factory=dict)
    identity: dict[str, Quota] = field(factory=dict)


@frozen(kw_only=True)
class AuditSettings:
    """How the audit log is kept.

    Attributes:
        max_bytes: of one file; then the next one is begun.
        max_age_s: seconds after which the next one is begun, too.
        keep: full files; the oldest are deleted beyond it.
    """

    max_bytes: int = field(default=64 << 20, validator=_positive)
    max_age_s: float = field(default=30 * 86400.0, validator=_positive)
    keep: int = field(default=30, validator=_positive)


@frozen(kw_only=True)
class PluginSettings:
    """Which plugins there are, and how they are asked.

    Attributes:
        decide_s: seconds that each has to identify somebody, to decide, or to give limits; what
            takes longer is denied.
        event_s: seconds that each has for one event; then it is told the next.
        dir: a directory whose `*.py` files are plugins; nobody but root and the supervisor's user
            may be able to write there.
        disabled: names of plugins that are not loaded, the built-in ones' too.
        config: a table of settings for each plugin that takes any, by its name.
    """

    dir: Path | None = None
    disabled: tuple[str, ...] = ()
    config: dict[str, dict[str, Any]] = field(factory=dict)
    decide_s: float = field(default=DECIDE_S, validator=_positive)
    event_s: float = field(default=EVENT_S, validator=_positive)


@frozen(kw_only=True)
class Settings:
    """All of it.

    Attributes:
        state_dir: records, jobs' directories, the audit log; survives a reboot.
    """

    state_dir: Path = Path("/var/lib/jobs")
    server: ServerSettings = ServerSettings()
    jobs: JobSettings = JobSettings()
    retention: RetentionSettings = RetentionSettings()
    quotas: QuotaSettings = QuotaSettings()
    audit: AuditSettings = AuditSettings()
    plugins: PluginSettings = PluginSettings()
    policy: Policy = Policy()  # noqa: RUF009  it is frozen, as the others are


def load(path: Path) -> Settings:
    """Read the settings.

    Raises:
        JobsError: `invalid_argument`, with the file and what is wrong in it.
    """
    try:
        raw = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise JobsError(
            "invalid_argument",
            f"cannot read {path}: {error.strerror}. Write it (see supervisor/README.md), name "
            "another with --config, or try `jobs-supervisor --dev`",
        ) from None
    except (ValueError, RecursionError) as error:  # no UTF-8, or no TOML
        raise JobsError("invalid_argument", f"{path} is no TOML: {error}") from None
    return structure(raw, Settings, str(path))

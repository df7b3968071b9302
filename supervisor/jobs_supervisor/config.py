"""The supervisor's settings: one class, read from TOML, every fault named at start.

[server]      who may connect, and how much of it
[jobs]        what a job gets by default, and how many there may be
[retention]   how long finished jobs are kept
[plugins]     which there are, and how they are asked
[policy]      who may do what; jobs_plugins/policy.py
"""

import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from attrs import field, frozen

from jobs_plugins.events import EVENT_S
from jobs_plugins.plugins import DECIDE_S
from jobs_plugins.policy import Policy
from jobs_proto.connection import MAX_MESSAGE
from jobs_proto.errors import JobsError
from jobs_proto.job import Limits
from jobs_proto.tightest import tightest
from jobs_proto.wire import structure

DEFAULT_PORT = 7520
DEFAULT_PATH = "/etc/jobs/supervisor.toml"


def _positive(_settings: object, attribute: object, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be more than 0, not {value}")  # type: ignore[attr-defined]


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
        max_connections: at once; more are closed before the handshake.
        handshake_s: seconds a client has for the TLS handshake.
        idle_s: seconds after which a connection that asks nothing is closed.
        max_message: bytes in one message of a client.
        drain_s: seconds that open requests get when the supervisor stops.
    """

    listen: str = field(default=f":{DEFAULT_PORT}", validator=_listen)
    ca: Path = Path("/etc/jobs/ca.crt")
    cert: Path = Path("/etc/jobs/server.crt")
    key: Path = Path("/etc/jobs/server.key")
    crl: Path | None = None
    max_connections: int = field(default=1024, validator=_positive)
    handshake_s: float = field(default=10.0, validator=_positive)
    idle_s: float = field(default=600.0, validator=_positive)
    max_message: int = field(default=MAX_MESSAGE, validator=_positive)
    drain_s: float = field(default=5.0, validator=_positive)


@frozen(kw_only=True)
class JobSettings:
    """What jobs get.

    Attributes:
        max_running: jobs that run at once; more wait in the queue.
        max_running_per_owner: of one owner at once; more of its jobs wait, and others pass them.
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
    max_running_per_owner: int = field(default=1000, validator=_positive)
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
        keep_output_bytes: so much output of them together.
    """

    keep_s: float = field(default=30 * 86400.0, validator=_positive)
    keep_jobs: int = field(default=100_000, validator=_positive)
    keep_output_bytes: int = field(default=50 << 30, validator=_positive)


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
    plugins: PluginSettings = PluginSettings()
    policy: Policy = Policy()  # noqa: RUF009  it is frozen, as the others are


def load(path: Path) -> Settings:
    """Read the settings.

    Raises:
        JobsError: `invalid_argument`, with the file and what is wrong in it.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise JobsError(
            "invalid_argument",
            f"cannot read {path}: {error.strerror}. Write it (see supervisor/README.md), name "
            "another with --config, or try `jobs-supervisor --dev`",
        ) from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobsError("invalid_argument", f"{path} is no TOML: {error}") from None
    return structure(raw, Settings, str(path))

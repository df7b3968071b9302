"""The methods: their parameters, and what each needs to be allowed. The table is the API.

A method is its own action for authorization. A method not in `METHODS` does not exist; one that is
there reaches its handler only after a decision (`jobs_supervisor.dispatch`).
"""

from types import MappingProxyType
from typing import Final

from attrs import field, frozen
from attrs.validators import optional

from jobs_proto import identity
from jobs_proto.isolation import check_secrets
from jobs_proto.job import (
    Spec,
    check_labels,
    check_name,
    check_output_max,
    check_timeout,
    signal_number,
)

PROTOCOL_VERSION = 1
"""Of the client protocol; a peer of another version is told so by `hello`."""

MAX_LIST = 10_000
MAX_GRACE_S = 3600.0
MAX_PRIORITY = 1000
STREAMS = ("stdout", "stderr")


def _signal(_params: object, _field: object, name: str) -> None:
    signal_number(name)


def _grace(_params: object, _field: object, grace_s: float) -> None:
    if not 0 <= grace_s <= MAX_GRACE_S:
        raise ValueError(f"a grace period is 0 to {MAX_GRACE_S:g} s, not {grace_s:g} s")


def _limit(_params: object, _field: object, limit: int) -> None:
    if not 1 <= limit <= MAX_LIST:
        raise ValueError(f"a limit is 1 to {MAX_LIST}, not {limit}")


def _offset(_params: object, _field: object, offset: int) -> None:
    if not 0 <= offset < 2**63:
        raise ValueError(f"an offset counts bytes from the start of the output, not {offset}")


def _stream(_params: object, _field: object, stream: str | None) -> None:
    if stream is not None and stream not in STREAMS:
        raise ValueError(f"a stream is stdout or stderr, not {stream!r}")


def _request_id(_params: object, _field: object, request_id: str | None) -> None:
    if request_id is not None and not (1 <= len(request_id) <= 128 and request_id.isprintable()):
        raise ValueError("a request_id is 1 to 128 printable characters")


def _secrets(run: "Run", _field: object, secrets: dict[str, bytes]) -> None:
    check_secrets(run.spec.isolation, secrets)


def _priority(_params: object, _field: object, priority: int) -> None:
    if abs(priority) > MAX_PRIORITY:
        raise ValueError(f"a priority is {-MAX_PRIORITY} to {MAX_PRIORITY}, not {priority}")


def _wait_s(_params: object, _field: object, timeout_s: float | None) -> None:
    if timeout_s is not None and not timeout_s >= 0:
        raise ValueError(f"a timeout is 0 s or more, not {timeout_s:g} s")


def _identity(_params: object, _field: object, name: str) -> None:
    identity.check_name(name)


def _bare(params: "CanI", _field: object, roles: tuple[str, ...]) -> None:
    if roles and params.identity is None:
        raise ValueError("roles are those of another identity; name it")
    for role in roles:
        identity.check_name(role)


@frozen(kw_only=True)
class Hello:
    """Who is speaking. Optional; answers with the supervisor's version and protocol."""

    client: str = ""
    protocol: int = PROTOCOL_VERSION


@frozen(kw_only=True)
class Nothing:
    """No parameters."""


@frozen(kw_only=True)
class Run:
    """Start a job; answers with the job once it is on disk.

    Attributes:
        spec: what to run.
        name: a name for people; of several jobs that bear it, it stands for the one that has not
            ended, else for the newest.
        labels: for plugins and people.
        priority: of two waiting jobs, the one with the higher number starts first.
        request_id: the same one twice from the same identity gives the same job. What secrets hold
            is not compared: it is not kept.
        secrets: the contents of the files that `spec.isolation.secrets` names.
        dry_run: start nothing; answer with the steps that would set the job up.
    """

    spec: Spec
    name: str | None = field(default=None, validator=check_name)
    labels: dict[str, str] = field(factory=dict, validator=check_labels)
    priority: int = field(default=0, validator=_priority)
    request_id: str | None = field(default=None, validator=_request_id)
    secrets: dict[str, bytes] = field(factory=dict, validator=_secrets, repr=False)
    dry_run: bool = False


@frozen(kw_only=True)
class List:
    """The jobs that the caller may see, newest first."""

    all: bool = False
    limit: int = field(default=1000, validator=_limit)
    own: bool = False


@frozen(kw_only=True)
class OneJob:
    """One job, by its id, an unambiguous start of its id, or its name."""

    id: str


@frozen(kw_only=True)
class Wait:
    """Answers with the job when it has exited, or as it is when `timeout_s` is over."""

    id: str
    timeout_s: float | None = field(default=None, validator=_wait_s)


@frozen(kw_only=True)
class Kill:
    """Signal, grace period, then the death of every process of the job. Answers at once."""

    id: str
    signal: str = field(default="TERM", validator=_signal)
    grace_s: float = field(default=10.0, validator=_grace)


@frozen(kw_only=True)
class Signal:
    """Deliver one signal to the leader's process group."""

    id: str
    signal: str = field(validator=_signal)


@frozen(kw_only=True)
class Update:
    """Change limits of a job that has not ended; answers with it once they are on the disk.

    Attributes:
        id: the job.
        output_max_bytes: bytes that are kept of the output from now on; None: as before.
        timeout_s: seconds of wall-clock time, counted from the job's start, after which it is
            killed; None: as before.
    """

    id: str
    output_max_bytes: int | None = field(default=None, validator=check_output_max)
    timeout_s: float | None = field(default=None, validator=check_timeout)

    def __attrs_post_init__(self) -> None:
        if self.output_max_bytes is None and self.timeout_s is None:
            raise ValueError("nothing is to be changed; give output_max_bytes or timeout_s")


@frozen(kw_only=True)
class Follow:
    """Stream output from `start`; takes over the connection until its `end` notification.

    Attributes:
        id: the job.
        start: the first offset wanted.
        stream: only this one; None: both.
        wait: go on until the job has exited; False: what there is now.
        timestamps: one chunk for each time something was read from the job, each with its time;
            otherwise chunks are as large as can be, and a chunk's time is that of its last byte.
    """

    id: str
    start: int = field(default=0, validator=_offset)
    stream: str | None = field(default=None, validator=_stream)
    wait: bool = True
    timestamps: bool = False


@frozen(kw_only=True)
class CanI:
    """Ask what would be decided, without doing it.

    Attributes:
        action: a method's name, or one of the further actions (`run_as`, …).
        id: the job, for a method that is about one.
        identity: whether somebody else may, by name; None: whoever asks.
        roles: those in the certificate of `identity`, which is not here to be looked at.
    """

    action: str
    id: str | None = None
    identity: str | None = field(default=None, validator=optional(_identity))
    roles: tuple[str, ...] = field(default=(), validator=_bare)


@frozen
class Method:
    """One row of the API.

    Attributes:
        params: the attrs class that its params map is structured into.
        on_job: it is about the one job that `params.id` names.
        takes_over: after its response the connection carries notifications until `end`.
    """

    params: type
    on_job: bool = False
    takes_over: bool = False


METHODS: Final = MappingProxyType(
    {
        "hello": Method(Hello),
        "whoami": Method(Nothing),
        "can_i": Method(CanI),
        "policy": Method(Nothing),
        "run": Method(Run),
        "list": Method(List),
        "inspect": Method(OneJob, on_job=True),
        "wait": Method(Wait, on_job=True),
        "kill": Method(Kill, on_job=True),
        "signal": Method(Signal, on_job=True),
        "pause": Method(OneJob, on_job=True),
        "resume": Method(OneJob, on_job=True),
        "update": Method(Update, on_job=True),
        "remove": Method(OneJob, on_job=True),
        "follow": Method(Follow, on_job=True, takes_over=True),
        "plugins": Method(Nothing),
    }
)

PLANNED: Final = frozenset({"exec", "attach", "events", "stats"})
"""Methods of the design that this version answers with `unimplemented`."""

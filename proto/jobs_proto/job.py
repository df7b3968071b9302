"""The job: what was asked (`Spec`) and what is known of it (`Job`). One definition of each field.

The CLI's options, the RPC's `run`, the records on disk and `inspect --json` all derive from here.
Not for the shim: attrs would be paid for by every job; it reads the plan that was made from a Spec.
"""

import re
import signal
from datetime import UTC, datetime
from functools import cached_property

from attrs import Attribute, field, frozen

from jobs_proto.connection import Packed, pack
from jobs_proto.files import KEEP_TAIL, POLICIES
from jobs_proto.isolation import Isolation
from jobs_proto.phases import Outcome, Phase

MAX_TIMEOUT_S = 10 * 365 * 86400.0
MAX_LABELS = 64
MAX_USER = 256
MIN_CPUS = 0.01
"""The kernel's least quota is 1 ms in each period, and ours is 100 ms: sched-bwc.rst."""

MIN_MEMORY = 2 << 20
"""What sets a job up, in its own cgroup, needs 1.3 MB at the most."""

MAX_CPU = 8191
ENFORCEMENTS = ("required", "best-effort")

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,127}")
_ENV_NAME = re.compile(r"[^=\0]+")


def _argv(_spec: object, _field: object, argv: tuple[str, ...]) -> None:
    if not argv or not argv[0]:
        raise ValueError("the command is empty; give a program to run")
    for number, argument in enumerate(argv):
        if "\0" in argument:
            raise ValueError(
                f"argument {number} of the command holds a NUL character, which no program "
                "can be given; write such data to a file or to standard input"
            )


def _env(_spec: object, _field: object, env: dict[str, str]) -> None:
    for key, value in env.items():
        if not _ENV_NAME.fullmatch(key):
            raise ValueError(f"{key!r} is not a name for an environment variable")
        if "\0" in value:
            raise ValueError(f"the environment variable {key} holds a NUL character")


def _cwd(_spec: object, _field: object, cwd: str) -> None:
    if not cwd.startswith("/") or "\0" in cwd:
        raise ValueError(f"the working directory must be an absolute path, not {cwd!r}")


def _user(_spec: object, _field: object, user: str | None) -> None:
    if user is not None and not (1 <= len(user) <= MAX_USER and user.isprintable()):
        raise ValueError(f"a user is a name or a number, not {user!r:.80}")


def _io_device(_limits: object, _field: object, path: str | None) -> None:
    if path is not None and (not path.startswith("/") or "\0" in path):
        raise ValueError(f"a device is named by an absolute path, not {path!r:.80}")


def _policy(_spec: object, _field: object, policy: str) -> None:
    if policy not in POLICIES:
        raise ValueError(f"an output policy is one of {', '.join(POLICIES)}, not {policy!r:.80}")


def check_timeout(_spec: object, _field: object, timeout_s: float | None) -> None:
    """Refuse a wall-clock limit that is none."""
    if timeout_s is not None and not 0 < timeout_s <= MAX_TIMEOUT_S:
        raise ValueError(f"a timeout is more than 0 s and at most ten years, not {timeout_s:g} s")


def check_name(_spec: object, _field: object, name: str | None) -> None:
    """Refuse a job name that could be taken for an id's prefix or upset a terminal."""
    if name is None:
        return
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be a job's name: a letter, then at most 62 letters, digits, _ . or -"
        )
    if re.fullmatch(r"[0-9a-f-]+", name):
        raise ValueError(f"{name!r} cannot be a job's name: it would read as the start of an id")


def check_labels(_spec: object, _field: object, labels: dict[str, str]) -> None:
    """Refuse labels that are too many or hold more than letters, digits and `_ . / -`."""
    if len(labels) > MAX_LABELS:
        raise ValueError(f"a job has at most {MAX_LABELS} labels, not {len(labels)}")
    for key, value in labels.items():
        if not _LABEL.fullmatch(key) or not (value == "" or _LABEL.fullmatch(value)):
            raise ValueError(
                f"{key!r}={value!r} cannot be a label: letters, digits and _ . / -, "
                "the first a letter or digit, at most 128 characters each"
            )


def signal_number(name: str) -> int:
    """Give the number of a signal named as people name it: `TERM`, `SIGTERM`, `15`.

    Raises:
        ValueError: there is no such signal on Linux.
    """
    text = name.upper().removeprefix("SIG")
    if text.isascii() and text.isdigit() and 1 <= int(text) <= signal.SIGRTMAX:
        return int(text)
    try:
        return signal.Signals[f"SIG{text}"].value
    except KeyError:
        raise ValueError(f"there is no signal {name!r}; name one as in `kill -l`: TERM") from None


def signal_name(number: int) -> str:
    """Give a signal's name without SIG: 15 → `TERM`."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def check_output_max(_limits: object, _field: object, value: int | None) -> None:
    """Refuse a cap on output that keeps nothing, or that is beyond what a file can hold."""
    if value is not None and not 0 < value < 2**63:
        raise ValueError(
            f"an output cap is the number of bytes to keep, 1 at least, not {value}; to keep none, "
            "have the command write to /dev/null"
        )


def _more_than_zero(_limits: object, attribute: "Attribute[int | None]", value: int | None) -> None:
    if value is not None and not value > 0:
        raise ValueError(f"the limit {attribute.name} must be more than 0, not {value}")


def _not_negative(_limits: object, _attribute: object, value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError(f"a limit cannot be negative: {value}")


def _cpus(_limits: object, _attribute: object, cpus: float | None) -> None:
    if cpus is not None and not cpus >= MIN_CPUS:
        raise ValueError(f"a job needs {MIN_CPUS:g} of a CPU at least, not {cpus:g}")


def _memory(_limits: object, _attribute: object, memory: int | None) -> None:
    if memory is not None and not memory >= MIN_MEMORY:
        raise ValueError(f"a program needs {MIN_MEMORY} bytes of memory at least, not {memory}")


def _cpuset(_limits: object, _attribute: object, cpuset: str | None) -> None:
    if cpuset is not None:
        parse_cpuset(cpuset)


def _enforcement(_limits: object, _attribute: object, value: str) -> None:
    if value not in ENFORCEMENTS:
        raise ValueError(f"limits are enforced {' or '.join(ENFORCEMENTS)}, not {value!r}")


def parse_cpuset(text: str) -> frozenset[int]:
    """Read a list of CPUs: `0-2,4` is 0, 1, 2 and 4; the List Format of cpuset(7).

    Raises:
        ValueError: it is none.
    """
    cpus: set[int] = set()
    named = 0
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()) or int(last or first) > MAX_CPU:
            raise ValueError(f"{text!r:.80} is no list of CPUs, such as 0-2,4")
        if not (found := range(int(first), int(last or first) + 1)):
            raise ValueError(f"{part} in {text!r:.80} goes backwards")
        named += len(found)
        if named > MAX_CPU + 1:  # else a message of ranges that are all CPUs would take hours
            raise ValueError(f"{text!r:.80} names CPUs more than once")
        cpus.update(found)
    return frozenset(cpus)


@frozen(kw_only=True)
class Limits:
    """What the job may use at most. None: what the supervisor's settings say, or no limit.

    Attributes:
        cpus: CPUs' worth of time, over each 100 ms: 0.5 is half of one.
        cpuset: the CPUs that it may run on: 0-2,4.
        memory_bytes: bytes of memory, page cache and tmpfs files included; beyond, the OOM killer.
        swap_bytes: bytes of swap beside the memory; 0 if only memory is limited.
        pids: processes and threads.
        io_read_bps: bytes per second read from the device.
        io_write_bps: bytes per second written to it; only direct writes, where cgroups are v1.
        io_read_iops: reads per second.
        io_write_iops: writes per second.
        io_device: a path on the device, or the device's own; None: the working directory's.
        nofile: open files of each process.
        output_max_bytes: bytes that are kept of the output; on the disk their index may take as
            much again. Beyond, `output_policy` says what happens.
        enforcement: `required`: a limit that this host cannot enforce is an error; `best-effort`:
            it is left out.
    """

    cpus: float | None = field(default=None, validator=_cpus)
    cpuset: str | None = field(default=None, validator=_cpuset)
    memory_bytes: int | None = field(default=None, validator=_memory)
    swap_bytes: int | None = field(default=None, validator=_not_negative)
    pids: int | None = field(default=None, validator=_more_than_zero)
    io_read_bps: int | None = field(default=None, validator=_more_than_zero)
    io_write_bps: int | None = field(default=None, validator=_more_than_zero)
    io_read_iops: int | None = field(default=None, validator=_more_than_zero)
    io_write_iops: int | None = field(default=None, validator=_more_than_zero)
    io_device: str | None = field(default=None, validator=_io_device)
    nofile: int | None = field(default=None, validator=_more_than_zero)
    output_max_bytes: int | None = field(default=None, validator=check_output_max)
    enforcement: str = field(default="required", validator=_enforcement)


@frozen(kw_only=True)
class Spec:
    """The immutable request: what to run, as whom, with what around it.

    Attributes:
        argv: the program and its arguments; looked up on the job's own PATH if it has no slash.
        env: variables added to the few that every job gets (PATH, HOME, USER, …); these win.
        cwd: the working directory, absolute.
        user: the Unix user to run as; None: the supervisor's `default_user`.
        isolation: what keeps it apart.
        limits: what it may use.
        timeout_s: seconds of wall-clock time after which it is killed; None: no limit.
        output_policy: what happens at the cap of the output: `keep-tail`: the oldest is given up;
            `keep-head`: what comes after is; `block`: the job waits until the cap is raised.
    """

    argv: tuple[str, ...] = field(validator=_argv)
    env: dict[str, str] = field(factory=dict, validator=_env)
    cwd: str = field(default="/", validator=_cwd)
    user: str | None = field(default=None, validator=_user)
    isolation: Isolation = field(factory=Isolation)
    limits: Limits = Limits()
    timeout_s: float | None = field(default=None, validator=check_timeout)
    output_policy: str = field(default=KEEP_TAIL, validator=_policy)


@frozen(kw_only=True)
class Exit:
    """How a job ended.

    Attributes:
        code: the leader's exit code; None if a signal ended it or it never executed.
        signal: the name of the signal that ended the leader, without SIG.
        oom: the kernel's OOM killer struck within the job.
        timed_out: the deadline fired.
        killed_by: the identity that asked for the kill.
        error: why it could not start, or what was lost: a sentence.
    """

    code: int | None = None
    signal: str | None = None
    oom: bool = False
    timed_out: bool = False
    killed_by: str | None = None
    error: str | None = None


@frozen(kw_only=True)
class Usage:
    """What a job uses or used.

    Attributes:
        cpu_s: seconds of CPU time.
        cpu_throttled_s: seconds for which it was kept from running by its `cpus` limit.
        memory_bytes: memory now.
        memory_peak_bytes: the most it had; without cgroups, that of its largest process.
        oom_kills: processes of it that the OOM killer ended.
        pids: processes and threads now.
        io_read_bytes: bytes read from block devices.
        io_write_bytes: bytes written to them.
    """

    cpu_s: float = 0.0
    cpu_throttled_s: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    oom_kills: int = 0
    pids: int = 0
    io_read_bytes: int = 0
    io_write_bytes: int = 0


@frozen(kw_only=True)
class Output:
    """How much output there is, in bytes.

    Attributes:
        total: bytes since the job's start; the offset of the next one.
        stdout: of these, standard output.
        stderr: of these, standard error.
        retained_from: the first offset that is still kept; what was before it was over the cap.
        lost: bytes that the disk did not take, shown to followers as gaps.
        capped: bytes after `retained_from` that were dropped because of the cap, likewise.
        blocked: the cap is reached, and the job waits until it is raised.
    """

    total: int = 0
    stdout: int = 0
    stderr: int = 0
    retained_from: int = 0
    lost: int = 0
    capped: int = 0
    blocked: bool = False

    @property
    def kept(self) -> int:
        """Bytes that are on the disk, about."""
        return max(self.total - self.retained_from - self.lost - self.capped, 0)


@frozen(kw_only=True)
class Job:
    """All that is known of a job; as a map it is what `inspect --json` prints.

    Times are UTC, ISO 8601 with microseconds. `limits` are those that are enforced; `notes` are
    sentences about those that were asked for and are not; `limited_by` names, for each limit that a
    plugin has set or tightened, that plugin. `timeout_s` is the wall-clock limit that holds; it and
    the cap of the output are other ones than the spec's after an update.
    """

    id: str
    name: str | None = None
    owner: str
    labels: dict[str, str] = field(factory=dict)
    priority: int = 0
    phase: Phase = Phase.QUEUED
    outcome: Outcome | None = None
    spec: Spec
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    updated_at: str | None = None
    timeout_s: float | None = None
    pid: int | None = None
    exit: Exit | None = None
    limits: Limits = Limits()
    notes: tuple[str, ...] = ()
    limited_by: dict[str, str] = field(factory=dict)
    usage: Usage = Usage()
    output: Output = Output()

    @cached_property
    def packed(self) -> Packed:
        """The job as it is sent: made once, as it never changes; one that differs is another."""
        from jobs_proto.wire import unstructure  # noqa: PLC0415  quick CLI verbs do without cattrs

        return Packed(pack(unstructure(self)))

    @property
    def short_id(self) -> str:
        """The twelve characters that people are shown."""
        return self.id[:12]


def timestamp(time_ns: int) -> str:
    """Write nanoseconds since the epoch as `2026-01-02T03:04:05.678901Z`."""
    seconds, ns = divmod(time_ns, 1_000_000_000)
    # Not strftime(3), which takes as long as all the rest of a line of the audit log.
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return f"{text[:19]}.{ns // 1000:06d}Z"


def exit_status(job: Job) -> int:
    """Give the exit status that `run --follow`, `follow` and `wait` end with.

    The job's own code; 128+n for signal n; 124 timed out; 126 could not execute; 127 not found;
    125 when we failed it (lost) or it ended with nothing of its own to report.
    """
    end = job.exit
    if end is None:
        return 125
    if job.outcome is Outcome.TIMED_OUT:
        return 124
    if job.outcome is Outcome.START_FAILED:
        return end.code if end.code is not None else 125
    if end.signal is not None:
        return 128 + signal_number(end.signal)
    return end.code if end.code is not None else 125

"""A job, told to a person: one `key: value` line each for what is known."""

import shlex
from collections.abc import Iterator

import attrs

from jobs_cli.duration import exact_span
from jobs_cli.escape import escape
from jobs_cli.verdict import verdict
from jobs_proto.job import Exit, Job, Limits


def command_line(job: Job) -> str:
    """Write a job's command as a shell would be given it, safe to show."""
    return escape(shlex.join(job.spec.argv))


def account(job: Job) -> Iterator[str]:
    """Give the lines, keys padded; what has no value has no line."""
    known = [(key, value) for key, value in _facts(job) if value not in (None, "")]
    width = max(len(key) for key, _ in known) + 1
    for key, value in known:
        yield f"{key + ':':<{width}} {escape(str(value))}"


def _facts(job: Job) -> Iterator[tuple[str, object]]:
    spec = job.spec
    yield "id", job.id
    yield "name", job.name
    yield "owner", job.owner
    yield "labels", _pairs(job.labels)
    yield "phase", job.phase
    yield "outcome", job.outcome
    yield "exit", _ended(job.exit)
    yield "because", verdict(job)
    yield "command", shlex.join(spec.argv)
    yield "env", _pairs(spec.env)
    yield "cwd", spec.cwd
    yield "user", spec.user
    yield "limits", _limited(job.limits)
    for note in job.notes:
        yield "note", note
    yield "timeout", exact_span(job.timeout_s) if job.timeout_s else None
    yield "created", job.created_at
    yield "started", job.started_at
    yield "updated", job.updated_at
    yield "finished", job.finished_at
    yield "pid", job.pid
    yield from _used(job)


def _used(job: Job) -> Iterator[tuple[str, object]]:
    usage, out = job.usage, job.output
    throttled = f", throttled for {usage.cpu_throttled_s:g}s" if usage.cpu_throttled_s else ""
    yield "cpu", f"{usage.cpu_s:g}s{throttled}"
    yield "memory", f"{usage.memory_bytes} bytes, at most {usage.memory_peak_bytes}"
    yield "processes", usage.pids
    yield "io", f"{usage.io_read_bytes} bytes read, {usage.io_write_bytes} written"
    yield "output", f"{out.total} bytes ({out.stdout} stdout, {out.stderr} stderr)"
    if out.retained_from or out.lost or out.capped:
        dropped = f"{out.capped} bytes were over the cap, {out.lost} bytes could not be kept"
        yield "dropped", f"kept from offset {out.retained_from}; {dropped}"
    if out.blocked:
        yield "waiting", "its output is full; jobsctl update --output-max SIZE lets it go on"


def _limited(limits: Limits) -> str:
    given = attrs.asdict(limits, filter=lambda field, value: value != field.default)
    return " ".join(f"{name}={value}" for name, value in given.items())


def _pairs(pairs: dict[str, str]) -> str:
    return " ".join(shlex.quote(f"{key}={value}") for key, value in pairs.items())


def _ended(end: Exit | None) -> str | None:
    if end is None:
        return None
    return f"signal {end.signal}" if end.signal else f"code {end.code}"

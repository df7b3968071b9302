"""From a shim's exit record to how the job ended, in the words of `jobs_proto.job`."""

import os
import signal
from typing import Any

import attrs
from attrs import evolve

from jobs_proto.job import Exit, Job, Output, Usage, signal_name, timestamp
from jobs_proto.phases import Outcome, Phase
from jobs_supervisor.plan import exit_code_of_failure, explain


def finished(job: Job, record: dict[str, Any]) -> Job:
    """Give the job as it ended.

    Args:
        job: as it was known.
        record: `jobs_shim.shim.Shim.record`'s map.
    """
    started_ns = record["started_ns"]
    return evolve(
        job,
        phase=Phase.EXITED,
        outcome=_outcome(record),
        pid=record["pid"] if started_ns is not None else None,
        started_at=None if started_ns is None else timestamp(started_ns),
        finished_at=timestamp(record["finished_ns"]),
        exit=_exit(record),
        usage=usage(record["usage"]),
        output=output(record["output"]),
    )


def usage(raw: dict[str, Any]) -> Usage:
    """Read what a shim measured; one of a later version may know more than we do."""
    return Usage(**_known(Usage, raw))


def output(raw: dict[str, Any]) -> Output:
    """Read what a shim counted, likewise."""
    return Output(**_known(Output, raw))


def _known(cls: type["attrs.AttrsInstance"], raw: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in attrs.fields(cls)}
    return {name: value for name, value in raw.items() if name in names}


def _outcome(record: dict[str, Any]) -> Outcome:
    if record["error"] is not None:
        return Outcome.START_FAILED if record["started_ns"] is None else Outcome.LOST
    if record["oom"] and record["status"] == signal.SIGKILL and not record["killed"]:
        return Outcome.OOM_KILLED  # it struck the leader; a child's death is in `exit.oom` only
    if record["timed_out"]:
        return Outcome.TIMED_OUT
    if record["killed_by"] is not None:
        return Outcome.STOPPED
    return Outcome.COMPLETED if record["status"] == 0 else Outcome.FAILED


def _exit(record: dict[str, Any]) -> Exit:
    common = {
        "oom": record["oom"],
        "timed_out": record["timed_out"],
        "killed_by": record["killed_by"],
    }
    if record["error"] is not None:
        step, errno, path = record["error"]
        return Exit(
            code=exit_code_of_failure(step, errno), error=explain(step, errno, path), **common
        )
    code = os.waitstatus_to_exitcode(record["status"])
    if code < 0:
        return Exit(signal=signal_name(-code), **common)
    return Exit(code=code, **common)


def lost(job: Job, why: str, time_ns: int, counted: Output) -> Job:
    """Give a job whose end nobody saw."""
    return evolve(
        job,
        phase=Phase.EXITED,
        outcome=Outcome.LOST,
        finished_at=timestamp(time_ns),
        exit=Exit(error=why),
        output=counted,
    )


def never_started(job: Job, time_ns: int, *, by: str | None, error: str | None) -> Job:
    """Give a job that ended in the queue (`by` somebody), or that no shim could be had for."""
    return evolve(
        job,
        phase=Phase.EXITED,
        outcome=Outcome.STOPPED if error is None else Outcome.START_FAILED,
        finished_at=timestamp(time_ns),
        exit=Exit(killed_by=by, error=error),
    )

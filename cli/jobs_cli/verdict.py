"""How a job ended, in a sentence: what its exit status alone does not tell."""

from jobs_cli.duration import exact_span
from jobs_proto.job import Exit, Job
from jobs_proto.phases import Outcome


def verdict(job: Job) -> str | None:
    """Give the sentence for a job that did not end by itself; None if its status says it all."""
    end = job.exit or Exit()
    match job.outcome:
        case Outcome.START_FAILED:
            return f"the job could not start: {end.error or 'no reason was given'}"
        case Outcome.LOST:
            return f"the job was lost: {end.error or 'its shim died'}"
        case Outcome.TIMED_OUT:
            limit = job.spec.timeout_s
            return "the job timed out" + (f" after {exact_span(limit)}" if limit else "")
        case Outcome.OOM_KILLED:
            return "the job used more memory than it may, and was killed (out of memory)"
        case Outcome.STOPPED:
            return f"the job was killed by {end.killed_by or 'somebody'}"
    return f"the job was ended by signal {end.signal}" if end.signal else None


def condition(job: Job) -> str:
    """Give a job's phase, or its outcome once it has one: one word."""
    return str(job.outcome or job.phase)

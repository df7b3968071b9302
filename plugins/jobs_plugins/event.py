"""What happens to jobs, as plugins are told."""

from enum import StrEnum

from attrs import frozen

from jobs_proto.job import Job


class Kind(StrEnum):
    """What happened."""

    QUEUED = "queued"  # it was taken on; it may be starting already
    STARTED = "started"
    PAUSED = "paused"
    RESUMED = "resumed"
    EXITED = "exited"  # however it ended: `job.outcome` says it, `lost` too
    REMOVED = "removed"


@frozen(kw_only=True)
class JobEvent:
    """Something that has happened to a job, and is on the disk.

    Attributes:
        kind: what.
        job_id: the job's id.
        time: when it was written down; UTC, ISO 8601 with microseconds.
        job: as it was then; None once it is removed.
    """

    kind: Kind
    job_id: str
    time: str
    job: Job | None

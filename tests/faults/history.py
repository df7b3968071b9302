"""What was asked and what was answered: all that the checker goes by, besides what was killed."""

from attrs import define, field, frozen
from workload import Work

from jobs_proto.errors import JobsError
from jobs_proto.job import Job
from jobs_rpc import Chunk, End, Gap


@define
class Followed:
    """One follow: from where, and what came, to its end if it came to that."""

    start: int
    items: list[Chunk | Gap] = field(factory=list)
    end: End | None = None
    error: JobsError | None = None


@frozen
class Call:
    """One call and its answer: a job or an error; neither: it was cut off."""

    what: str
    answer: Job | JobsError | None


@define
class Told:
    """Everything about one job that a client has asked and heard.

    Attributes:
        work: what it was to do.
        owner: who asked.
        request_id: of its `run`, whose answer is `job`.
        priority: likewise.
        asked_at, answered_at: when, by the host's clock.
        refused: `run`'s error instead.
        calls: the others.
        follows: with those that began after its end.
        final: what `wait` said at last.
        removed: that was asked for after its end, and done.
    """

    work: Work
    owner: str
    request_id: str
    priority: int = 0
    asked_at: float = 0.0
    answered_at: float = 0.0
    job: Job | None = None
    refused: JobsError | None = None
    calls: list[Call] = field(factory=list)
    follows: list[Followed] = field(factory=list)
    final: Job | None = None
    removed: bool = False

    def unanswered(self) -> list[str]:
        """Give what was asked and has no answer."""
        calls = [call.what for call in self.calls if call.answer is None]
        follows = [f for f in self.follows if f.end is None and f.error is None]
        return calls + [f"follow, after {len(followed.items)} items" for followed in follows]

    def asked(self, what: str) -> bool:
        """Whether somebody tried to have that done, whatever came of it."""
        return any(call.what == what for call in self.calls)


@frozen
class Kill:
    """A process that was killed.

    Attributes:
        role: supervisor, forkserver, shim, launcher, init.
        point: the failpoint; empty: at random.
        job: its job's id, for a shim, launcher or init.
    """

    role: str
    point: str = ""
    job: str = ""


@define
class History:
    """A schedule's.

    Attributes:
        told: by the key of the job's work.
        kills: all of them.
        listed: what `list` gave at the end, to somebody who may see all.
        executed: `(key, job id, pid)` from the jobs' own evidence.
        max_running, max_running_per_owner, max_queued: of the supervisor's settings.
        kept: of the jobs that had ended, so many were to be kept at last; None: all.
        gaps_allowed: the disk was full for a while.
        refusals_allowed: codes with which a `run` may be refused.
        cut_short: it came to no end, so nobody knows what became of each job.
        faults: what was seen to be wrong while it ran: crashes, tracebacks, things left over.
    """

    told: dict[str, Told] = field(factory=dict)
    kills: list[Kill] = field(factory=list)
    listed: list[Job] = field(factory=list)
    executed: list[tuple[str, str, int]] = field(factory=list)
    max_running: int = 1000
    max_running_per_owner: int = 1000
    max_queued: int = 10_000
    kept: int | None = None
    gaps_allowed: bool = False
    refusals_allowed: frozenset[str] = frozenset()
    cut_short: bool = False
    faults: list[str] = field(factory=list)

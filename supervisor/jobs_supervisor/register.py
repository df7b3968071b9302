"""The jobs there are, and how to find one: the unfinished ones in memory, all of them in the store.

A job that is being taken on is in memory before its record is on the disk. Until that is there
nobody may be told of it; who sends the very same request again waits for the same disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs_plugins import Kind
from jobs_proto.errors import JobsError
from jobs_supervisor.live import LiveJob
from jobs_supervisor.store import Account, Record, Store, Write

NOT_STARTED = "it was not started"
"""What has not been done if the disk does not take a new job."""


class Register:
    """The jobs of one supervisor.

    Args:
        store: the records.
        directory: the jobs' directories are in it.
    """

    def __init__(self, store: Store, directory: Path) -> None:
        self._store = store
        self._directory = directory
        self._live: dict[str, LiveJob] = {}
        self._coming: set[str] = set()
        self._offered: dict[tuple[str, str], tuple[LiveJob, Write]] = {}

    def __len__(self) -> int:
        """Give how many jobs have not ended."""
        return len(self._live)

    def __contains__(self, job_id: str) -> bool:
        """Whether there is, or is about to be, a job that has not ended, and may have no record."""
        return job_id in self._live or job_id in self._coming

    def directory(self, job_id: str) -> Path:
        """Give the directory of a job."""
        return self._directory / job_id

    # -- coming and going --------------------------------------------------------------------

    def restore(self, live: LiveJob) -> None:
        """Have a job that the store knows as unfinished."""
        self._live[live.job.id] = live

    @contextmanager
    def coming(self, live: LiveJob) -> Iterator[Path]:
        """Give the directory of a job that is to be offered within the `with` statement."""
        self._coming.add(live.job.id)
        try:
            yield self.directory(live.job.id)
        finally:
            self._coming.remove(live.job.id)

    def offer(self, live: LiveJob, account: Account) -> Write:
        """Have a new job, and have the disk take its record or refuse it."""
        write = self._store.offer(live.record, Kind.QUEUED, account)
        self._live[live.job.id] = live
        self._offered[_request(live)] = live, write
        return write

    async def taken(self, live: LiveJob, write: Write) -> bool:
        """Wait until the disk has taken a new job's record, or refused it: then there is no job."""
        await write.done.wait()
        del self._offered[_request(live)]
        if write.error is not None:
            del self._live[live.job.id]
        return write.error is None

    def forget(self, live: LiveJob) -> None:
        """Have a job that has ended in the store alone, which has its last record by now."""
        self._live.pop(live.job.id, None)

    # -- finding -----------------------------------------------------------------------------

    async def requested(self, owner: str, request_id: str) -> LiveJob | None:
        """Give the job that this owner's `run` with this request_id made, once it is on the disk.

        Does not wait if there is none: the caller may then make it, and nobody comes between.

        Raises:
            JobsError: `resource_exhausted`: the disk does not take it.
        """
        if offered := self._offered.get((owner, request_id)):
            live, write = offered
            await written(write, NOT_STARTED)
            return live
        record = self._store.by_request(owner, request_id)
        return None if record is None else self.current(record)

    def current(self, record: Record) -> LiveJob:
        """Give the living job of a record, or one that is as dead as the record says."""
        return self._live.get(record.job.id) or LiveJob(record, total=record.job.output.total)

    def matching(self, text: str) -> Iterator[LiveJob]:
        """Give the jobs whose id is or starts with `text`, or whose name it is; newest first."""
        if not text.isascii():  # as every id and name is
            return
        live = self._live.get(text)
        if live is not None and _request(live) not in self._offered:  # on the disk already
            yield live
        elif exact := self._store.get(text):
            yield self.current(exact)
        elif text:
            yield from map(self.current, self._store.matching(text))

    def newest_first(self, *, unfinished: bool) -> Iterator[LiveJob]:
        """Give every job, or every one that has not exited."""
        if unfinished:
            # They are in memory, in the order in which they came; some not on the disk yet.
            offered = {live.job.id for live, _ in self._offered.values()}
            for live in reversed(list(self._live.values())):
                if not live.exited and live.job.id not in offered:
                    yield live
        else:
            yield from map(self.current, self._store.newest_first())


def _request(live: LiveJob) -> tuple[str, str]:
    """Give the key of the request that made a job, while that is being written down."""
    return live.job.owner, live.record.request_id or live.job.id


async def written(write: Write, otherwise: str) -> None:
    """Wait until what is new of a job is on the disk: before that, nobody may be told of it.

    Args:
        write: on its way.
        otherwise: what has not been done if the disk refuses.

    Raises:
        JobsError: `resource_exhausted`: the disk does not take it.
    """
    await write.done.wait()
    if write.error is not None:
        raise JobsError(
            "resource_exhausted",
            f"the supervisor cannot write this down ({write.error}), so {otherwise}; "
            "an operator has to make room in its state directory",
        )

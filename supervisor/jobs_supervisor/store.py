"""Every job's record, in SQLite: what was answered to a client is on the disk.

Theory. WAL with synchronous=FULL makes a commit durable, at the price of one fsync; many jobs
share it: `put` hands its row to one writer task, which takes all that have gathered while the last
commit was on its way and commits them together (group commit). What nobody waits for (`note`) may
wait for more to come, `LINGER_S`: that a job has started and that it has ended a moment later is
one commit, and its fsync comes not between the shim and the fsync of the exit record. The writer
works in a thread; reads are microseconds from the page cache, and are done where they are asked
for.

A disk that is full refuses what is asked for (`offer`): new jobs, other limits. What happens to
jobs that were taken on (`post`) is kept here in order, and tried again until there is room. Their
shims' files say the same, if we end before that.

A statement that is stepped through holds one view of the table, for all who read: nobody would see
what is written meanwhile. So none is open while others run: a list is one of numbers first.

A row holds the job as MessagePack, and beside it the few columns that are searched by. `output` is
what retention weighs: the bytes of the output, and of that MessagePack, which may be megabytes.
"""

import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import structlog
import trio
from attrs import define, field, frozen

from jobs_plugins import JobEvent, Kind
from jobs_proto import files
from jobs_proto.errors import JobsError
from jobs_proto.failpoint import failpoint
from jobs_proto.job import Job, timestamp
from jobs_proto.phases import Phase
from jobs_proto.wire import structure

SCHEMA_VERSION = 1

KEPT, KEPT_BYTES = 256, 4096
"""So many jobs that were read last are kept, of records that are no larger: some 2 MB."""

MAX_SEQ = 2**63 - 1
PAGE = 1000
"""Numbers of records that are read at once."""

RETRY_S = 0.5
"""Between tries to write to a disk that refused."""

LINGER_S = 0.02
"""So long may a row that nobody waits for wait for others; plugins hear of it only then."""

log = structlog.get_logger()

_EPOCH = datetime.fromtimestamp(0, UTC)

_SCHEMA = f"""
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    name TEXT,
    finished_ns INTEGER,
    output INTEGER NOT NULL,
    request_id TEXT,
    boot TEXT,
    device TEXT,
    cgroup BLOB,
    killing BLOB,
    job BLOB NOT NULL
);
CREATE UNIQUE INDEX jobs_request ON jobs (owner, request_id) WHERE request_id IS NOT NULL;
CREATE INDEX jobs_name ON jobs (name) WHERE name IS NOT NULL;
CREATE INDEX jobs_unfinished ON jobs (seq) WHERE finished_ns IS NULL;
CREATE INDEX jobs_finished ON jobs (finished_ns, output) WHERE finished_ns IS NOT NULL;
PRAGMA user_version = {SCHEMA_VERSION};
"""

# Beside the schema, which versions before this table know too; they leave it alone.
_IDENTITIES = "CREATE TABLE IF NOT EXISTS identities (name TEXT PRIMARY KEY, roles TEXT NOT NULL)"

_PUT = """
INSERT INTO jobs
    (id, owner, name, finished_ns, output, request_id, boot, device, cgroup, killing, job)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    finished_ns = excluded.finished_ns, output = excluded.output, boot = excluded.boot,
    cgroup = excluded.cgroup, killing = excluded.killing, job = excluded.job
"""


@frozen(kw_only=True)
class Record:
    """A job, and what the supervisor alone needs to know of it.

    Attributes:
        job: what everybody may know.
        request_id: of the `run` that made it.
        boot: the kernel's boot in which its launch was asked for; None: not yet.
        device: `major:minor` of the disk that its I/O limits are about.
        cgroup: of its plan, to kill and remove by if its shim is lost.
        killing: the kill that was accepted, to be repeated to a shim that may not have heard it:
            `{signal, grace_s, by}`.
    """

    job: Job
    request_id: str | None = None
    boot: str | None = None
    device: str | None = None
    cgroup: dict[str, object] | None = None
    killing: dict[str, str | int | float] | None = None


class Met(NamedTuple):
    """An identity, and the roles that it came with last: its quotas are theirs."""

    name: str
    roles: tuple[str, ...]


Account = Callable[[], None] | None
"""Has on the disk what must be there before a record; OSError: it is not."""


@define(eq=False)
class Write:
    """A row on its way to the disk.

    Attributes:
        record: the row; or the id of a job's that is to be deleted.
        keep: try again until it is there.
        tried: set when the disk has taken it or not, for the first time.
        kind: what has happened, for plugins; None: nothing that they are told.
        done: set when it is on the disk, or refused.
        account: called before it is committed, in the same thread.
        error: why it was refused; None: it is on the disk.
    """

    record: Record | Met | str
    keep: bool
    tried: trio.Event = field(factory=trio.Event)
    kind: Kind | None = None
    done: trio.Event = field(factory=trio.Event)
    account: Account = None
    error: sqlite3.Error | OSError | None = None


class Store:
    """The records of one state directory.

    Args:
        path: the database's file; made if it is not there.
        publish: is told what has happened, in order, when it is on the disk.

    Raises:
        JobsError: `failed_precondition`: the file is of a later version, or is no database.
    """

    def __init__(
        self, path: Path, publish: Callable[[JobEvent], None] = lambda _event: None
    ) -> None:
        self._publish = publish
        path.touch(mode=0o600)  # SQLite gives its other files the same mode
        try:
            self._reader = sqlite3.connect(path, isolation_level=None)
            self._writer = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._prepare(path)
        except sqlite3.Error as error:
            raise JobsError("failed_precondition", f"cannot use {path}: {error}") from None
        self._pending: list[Write] = []
        self._last: Write | None = None
        self._pended = trio.Event()
        self._wake = trio.Event()  # somebody waits
        self._thread = trio.CapacityLimiter(1)  # its own: a commit waits for nobody's slow read

    def _prepare(self, path: Path) -> None:
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = FULL")
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._writer.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        elif version != SCHEMA_VERSION:
            raise JobsError(
                "failed_precondition",
                f"{path} is of version {version}, and this supervisor knows {SCHEMA_VERSION}: "
                "install the version that wrote it",
            )
        self._writer.execute(_IDENTITIES)

    # -- writing -----------------------------------------------------------------------------

    async def put(self, record: Record) -> None:
        """Write a change of a record; return when it is on the disk."""
        await self.post(record).done.wait()

    def post(self, record: Record, kind: Kind | None = None) -> Write:
        """Have a change of a record written, in order, however long it takes."""
        return self._enqueue(Write(record, keep=True, kind=kind))

    def note(self, record: Record, kind: Kind) -> Write:
        """Do as `post`, for what nobody waits for: it may linger, so that more share its commit."""
        return self._append(Write(record, keep=True, kind=kind))

    def offer(self, record: Record, kind: Kind | None = None, account: Account = None) -> Write:
        """Have a new record, or a change that was asked for, written or refused."""
        return self._enqueue(Write(record, keep=False, kind=kind, account=account))

    def meet(self, name: str, roles: tuple[str, ...]) -> Write:
        """Have the roles of an identity written."""
        return self._enqueue(Write(Met(name, roles), keep=True))

    async def tried(self) -> None:
        """Wait until the disk has taken, or refused, all that there is to be written now."""
        if self._last is not None:
            await self._last.tried.wait()

    async def delete(
        self,
        ids: Iterable[str],
        make_room: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint,
    ) -> None:
        """Delete the records with these ids; return when they are gone.

        Args:
            ids: of jobs.
            make_room: called if the disk refuses, for that needs room as well.
        """
        writes = [self._enqueue(Write(i, keep=True, kind=Kind.REMOVED)) for i in ids]
        for write in writes:
            await write.tried.wait()
        if not all(write.done.is_set() for write in writes):
            await make_room()
        for write in writes:
            await write.done.wait()

    def _enqueue(self, write: Write) -> Write:
        self._wake.set()
        return self._append(write)

    def _append(self, write: Write) -> Write:
        self._pending.append(write)
        self._pended.set()
        self._last = write
        return write

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be the writer task. Cancelled, it first commits what was posted."""
        task_status.started()
        try:
            while True:
                await self._pended.wait()
                with trio.move_on_after(LINGER_S):
                    await self._wake.wait()
                if not await self._commit_pending():
                    await trio.sleep(RETRY_S)
        finally:
            await self._commit_pending()

    async def _commit_pending(self) -> bool:
        """Commit what has gathered; False if the disk does not take it."""
        batch, self._pending = self._pending, []
        self._wake = trio.Event()
        rows = [(*_statement(write.record), write.account) for write in batch]
        error = unaccounted = None
        if rows:
            with trio.CancelScope(shield=True):  # the batch is nowhere else any more
                error, unaccounted = await trio.to_thread.run_sync(
                    self._commit, rows, limiter=self._thread
                )
        kept = [write for write in batch if error and write.keep]
        self._pending = kept + self._pending
        for write in batch:
            write.tried.set()
            if not (error and write.keep):
                write.error = error or (unaccounted if write.account else None)
                write.done.set()
                if not (write.error or write.kind is None or isinstance(write.record, Met)):
                    self._publish(_event(write.record, write.kind))
        if error or unaccounted:
            log.error("cannot write records", why=str(error or unaccounted), waiting=len(kept))
        if not self._pending:
            self._pended = trio.Event()
        return error is None

    def _commit(
        self, rows: list[tuple[str, tuple[object, ...], Account]]
    ) -> tuple[sqlite3.Error | None, OSError | None]:
        """Give why the rows are not there; and why only those are not that had to be accounted."""
        unaccounted = None
        try:
            for account in {account for _, _, account in rows if account is not None}:
                account()
        except OSError as error:
            unaccounted = error
            rows = [row for row in rows if row[2] is None]
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for statement, values, _ in rows:
                self._writer.execute(statement, values)
            failpoint("store.before-commit")
            self._writer.execute("COMMIT")
            failpoint("store.committed")
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            return error, unaccounted
        return None, unaccounted

    # -- reading -----------------------------------------------------------------------------

    def get(self, ident: str) -> Record | None:
        """Give the record of the job with exactly this id."""
        return next(self._select("WHERE id = ?", ident), None)

    def by_request(self, owner: str, request_id: str) -> Record | None:
        """Give the record that this owner's `run` with this request_id made."""
        return next(self._select("WHERE owner = ? AND request_id = ?", owner, request_id), None)

    def matching(self, text: str) -> Iterator[Record]:
        """Give the records whose id starts with `text`, or whose name it is; newest first."""
        after = text[:-1] + chr(ord(text[-1]) + 1)  # the least text above all that start with it
        # Both from their indexes; a row is only read when it is asked for.
        query = (
            "SELECT seq FROM jobs WHERE id >= ? AND id < ?"
            " UNION SELECT seq FROM jobs WHERE name = ? ORDER BY seq DESC"
        )
        yield from self._each(self._reader.execute(query, (text, after, text)).fetchall())

    def newest_first(self) -> Iterator[Record]:
        """Give every record."""
        query = "SELECT seq FROM jobs WHERE seq < ? ORDER BY seq DESC LIMIT ?"
        below = MAX_SEQ
        while page := self._reader.execute(query, (below, PAGE)).fetchall():
            yield from self._each(page)
            ((below,),) = page[-1:]

    def unfinished(self) -> list[Record]:
        """Give the records of jobs that have not exited; oldest first."""
        return list(self._select("WHERE finished_ns IS NULL ORDER BY seq"))

    def unknown(self, ids: list[str]) -> set[str]:
        """Give those of some ids, a few hundred at most, that no record has."""
        marks = ", ".join("?" * len(ids))
        rows = self._reader.execute(f"SELECT id FROM jobs WHERE id IN ({marks})", ids)  # noqa: S608  # marks
        return set(ids) - {ident for (ident,) in rows}

    def roles(self) -> dict[str, tuple[str, ...]]:
        """Give the roles of every identity that has come."""
        rows = self._reader.execute("SELECT name, roles FROM identities")
        return {name: tuple(json.loads(roles)) for name, roles in rows}

    def expired(self, *, before_ns: int, beyond: int, bytes_beyond: int, limit: int) -> list[str]:
        """Give the ids of finished jobs that are not to be kept, oldest first.

        Args:
            before_ns: those that ended before this time.
            beyond: those that are not among so many newest.
            bytes_beyond: those whose output and record, with those of all newer ones, are more.
            limit: so many at most.
        """
        # Each rule takes jobs from the oldest on: whoever comes after one that is kept is kept.
        count, size = self._reader.execute(
            "SELECT count(*), total(output) FROM jobs WHERE finished_ns IS NOT NULL"
        ).fetchone()
        rows = self._reader.execute(
            "SELECT id, finished_ns, output FROM jobs WHERE finished_ns IS NOT NULL"
            " ORDER BY finished_ns LIMIT ?",
            (limit,),
        )
        found = []
        for ident, finished_ns, output in rows:
            if finished_ns >= before_ns and count <= beyond and size <= bytes_beyond:
                break
            found.append(ident)
            count, size = count - 1, size - output
        return found

    def _each(self, seqs: list[tuple[int]]) -> Iterator[Record]:
        """Give the records with these `seq`, each as it is by then; those that are gone, not."""
        for (seq,) in seqs:
            yield from list(self._select("WHERE seq = ?", seq))

    def _select(self, where: str, *values: object) -> Iterator[Record]:
        columns = "SELECT job, request_id, boot, device, cgroup, killing FROM jobs "
        cursor = self._reader.execute(columns + where, values)
        for job, request_id, boot, device, cgroup, killing in cursor:
            yield Record(
                job=_read_often(job) if len(job) <= KEPT_BYTES else _read(job),
                request_id=request_id,
                boot=boot,
                device=device,
                cgroup=_optional(cgroup),
                killing=_optional(killing),
            )

    def close(self) -> None:
        """Close the database; `run` must have ended."""
        self._reader.close()
        self._writer.close()


def _read(blob: bytes) -> Job:
    return structure(files.decode(blob), Job, "the record of a job")


_read_often = lru_cache(KEPT)(_read)
"""The same bytes are the same job, whatever was written since: there is nothing to keep in step."""


def _optional(blob: bytes | None) -> Any:
    return None if blob is None else files.decode(blob)


def _event(record: Record | str, kind: Kind) -> JobEvent:
    """Make the event of a record, or of a job's removal."""
    job = record.job if isinstance(record, Record) else None
    job_id = record if isinstance(record, str) else record.job.id
    return JobEvent(kind=kind, job_id=job_id, time=timestamp(time.time_ns()), job=job)


def _statement(record: Record | Met | str) -> tuple[str, tuple[object, ...]]:
    if isinstance(record, Met):
        roles = json.dumps(record.roles)
        return "INSERT OR REPLACE INTO identities (name, roles) VALUES (?, ?)", (record.name, roles)
    if isinstance(record, str):
        return "DELETE FROM jobs WHERE id = ?", (record,)
    return _PUT, _row(record)


def _finished_ns(job: Job) -> int:
    """Give when a job has ended, as everybody was told: not when we came to write it down."""
    if job.finished_at is None:
        return time.time_ns()
    since = datetime.fromisoformat(job.finished_at) - _EPOCH
    return since // timedelta(microseconds=1) * 1000


def _row(record: Record) -> tuple[object, ...]:
    job = record.job
    packed = job.packed  # as it is sent: the answer to `run`, or to who waits, is made with it
    return (
        job.id,
        job.owner,
        job.name,
        _finished_ns(job) if job.phase is Phase.EXITED else None,
        job.output.kept + len(packed),
        record.request_id,
        record.boot,
        record.device,
        None if record.cgroup is None else files.encode(record.cgroup),
        None if record.killing is None else files.encode(record.killing),
        packed,
    )

"""The audit log: each decision about who may do what, one JSON line, chained, on the disk.

Theory. `jobs_proto.audit` says what the lines are, `auditfile` where they are. Here is when:

1.  A line is written with one write(2) when the decision is made, before anybody is answered: it
    outlives us, however we end.
2.  It is on the disk (fdatasync) before an allowed action that *changes* something is carried out:
    `settle` waits for that, and many share one sync. What begins with a record (`RECORDED`) has it
    synced by the thread that commits that, just before. All others are there within `SYNC_S`.
3.  While the disk takes no lines, `MAX_WAITING` of them are kept here, in order; more are counted,
    and a line `missing` says how many. `settle` refuses meanwhile.
4.  Of reads that are allowed, and of denials, the first ones of a kind are written in a window, and
    a line `repeated` counts the others when it ends (`jobs_supervisor.repeats`): what changed
    something is not washed out of the log by what changed nothing. Who kills us takes along the
    counts of the present window, never what they are counts of.
"""

import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from jobs_plugins.decision import Decision
from jobs_plugins.rules import CAN_I_AS
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import timestamp
from jobs_supervisor.auditfile import AuditFiles
from jobs_supervisor.config import AuditSettings
from jobs_supervisor.repeats import Fields, Repeats

READS = frozenset({"hello", "whoami", "list", "inspect", "wait", "follow", "events", "stats"}) | {
    "can_i",
    "policy",
}
"""Methods that change nothing; a decision on any other is on the disk before it is carried out."""

RECORDED = frozenset({"run"})
"""Those of the others that change nothing before their record is committed."""

SYNC_S = 1.0
"""A line that nobody waits for is on the disk after so long."""

RETRY_S = 0.5
"""Between tries to write to a disk that refused."""

MAX_WAITING = 1000
"""Lines kept in memory while the disk takes none."""

MAX_TEXT = 500
"""Characters of a text that somebody else chose: a request's id, a plugin's reason."""

log = structlog.get_logger()


class Audit:
    """The audit log of one state directory.

    Args:
        directory: where its files are.
        settings: when a file is full, and how many are kept.

    Raises:
        OSError: it cannot be read or written.
    """

    def __init__(self, directory: Path, settings: AuditSettings) -> None:
        self._files = AuditFiles(directory, settings)
        self._repeats = Repeats()
        self._waiting: deque[Fields] = deque()
        self._missing = 0
        self._error: OSError | None = None
        self._said = False  # the error is in the log
        self._synced = 0  # the `seq` up to which all is on the disk
        self._dirty = trio.Event()
        self._wanted = trio.Event()
        self._progress = trio.Event()
        self._thread = trio.CapacityLimiter(1)  # its own: a sync waits for nobody's slow read
        self._say_head("the audit log goes on")

    # -- what is written ---------------------------------------------------------------------

    def __call__(
        self,
        identity: Identity,
        action: str,
        job: str | None,
        decision: Decision,
        *,
        asked_by: Identity | None = None,
    ) -> None:
        """Write down what plugins decided; of a question (`can_i`), who asked it."""
        self._decided(
            **_who(identity, asked_by),
            allow=decision.allow,
            action=action,
            job=job,
            plugin=decision.plugin,
            why=decision.why[:MAX_TEXT],
        )

    def refused(
        self,
        identity: Identity,
        action: str,
        why: str,
        *,
        asked: str | None = None,
        asked_by: Identity | None = None,
    ) -> None:
        """Write down what was refused without a plugin: by a quota, or for want of a job.

        Args:
            identity: who asked.
            action: for what.
            why: in words.
            asked: how they named the job, if that is not known or not theirs to know.
            asked_by: who only wanted to know.
        """
        self._decided(
            **_who(identity, asked_by),
            allow=False,
            action=action,
            job=None,
            plugin=None,
            why=why[:MAX_TEXT],
            **({} if asked is None else {"asked": asked[:MAX_TEXT]}),
        )

    def connection(self, peer: tuple[str, int], identity: Identity | None, why: str = "") -> None:
        """Write down who has connected, or why somebody was turned away.

        Args:
            peer: the host and the port where from.
            identity: who, once that is known.
            why: of a refusal; empty: they may.
        """
        self._decided(
            event="connection",
            allow=not why,
            who=None if identity is None else identity.name,
            certificate=None if identity is None else identity.fingerprint,
            host=peer[0],
            port=peer[1],
            why=why[:MAX_TEXT],
        )

    def _decided(self, *, event: str, allow: bool, **fields: object) -> None:
        fields["verdict"] = "allow" if allow else "deny"
        changes = allow and event == "decision" and fields["action"] not in (*READS, CAN_I_AS)
        if changes or self._repeats.is_new(event, fields):
            self._write(event, fields)
        self._dirty.set()

    def _write(self, event: str, fields: Fields) -> None:
        if len(self._waiting) < MAX_WAITING:
            now = timestamp(time.time_ns())
            self._waiting.append({"timestamp": now, "event": event, **fields})
        else:
            self._missing += 1
        if self._error is None:
            self._write_waiting()

    def _write_waiting(self) -> None:
        """Write what waits, as far as the disk takes it."""
        try:
            while self._waiting:
                self._files.write(self._waiting[0])
                self._waiting.popleft()
            if self._missing:
                now = timestamp(time.time_ns())
                self._files.write({"timestamp": now, "event": "missing", "count": self._missing})
                self._missing = 0
        except OSError as error:
            self._fail(error)
        else:
            self._error = None

    def _fail(self, error: OSError) -> None:
        if not self._said:
            log.error("cannot write the audit log", why=error.strerror)
        self._error, self._said = error, True

    # -- when it is on the disk --------------------------------------------------------------

    async def settle(self) -> None:
        """Wait until every line so far is on the disk.

        Raises:
            JobsError: `resource_exhausted`: the disk takes none.
        """
        if self._error is not None:  # there may be room by now: whoever made it need not wait
            self._dirty.set()
            self._wanted.set()
            await self._progress.wait()
        until = self._files.head.seq
        while self._error is None and self._synced < until:
            self._dirty.set()
            self._wanted.set()
            await self._progress.wait()
        if self._error is not None:
            raise JobsError(
                "resource_exhausted",
                f"the supervisor cannot write its audit log ({self._error.strerror}), and changes "
                "nothing that it could not account for; an operator has to make room in its state "
                "directory",
            )

    async def pledge(self) -> Callable[[], None]:
        """Give what has every line so far on the disk, for a thread to call; OSError if it cannot.

        Raises:
            JobsError: as `settle`.
        """
        if self._error is not None:
            await self.settle()
        return self._sync

    def _sync(self) -> None:
        until = self._files.head.seq
        if self._synced < until:
            self._files.sync()
            self._synced = until

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it on the disk, and its files in order. Cancelled, it does so once more."""
        task_status.started()
        try:
            while True:
                with trio.move_on_after(self._repeats.due_s):
                    await self._dirty.wait()
                with trio.move_on_after(RETRY_S if self._error else SYNC_S):
                    await self._wanted.wait()
                await self._tidy()
        finally:
            with trio.CancelScope(shield=True):
                await self._tidy(last=True)
            self._say_head("the audit log ends here")
            self._files.close()

    async def _tidy(self, *, last: bool = False) -> None:
        """Write what waits, sync, rotate; nobody who waits for that is left waiting."""
        self._wanted = trio.Event()
        for event, fields in self._repeats.told(now=last):
            self._write(event, fields)
        self._write_waiting()
        try:
            await trio.to_thread.run_sync(self._sync, limiter=self._thread)
            if self._files.rotate_if_due():
                self._say_head("the audit log goes on in a new file")
            self._said = False
        except OSError as error:
            self._fail(error)
        rest = self._error or self._synced < self._files.head.seq
        if not rest:
            self._dirty = trio.Event()
        self._progress.set()
        self._progress = trio.Event()

    def _say_head(self, event: str) -> None:
        # Root can write a chain anew; this log is usually kept elsewhere, and can be compared.
        log.info(event, head=str(self._files.head))


def _who(identity: Identity, asked_by: Identity | None) -> dict[str, str]:
    if asked_by is None:
        return {"event": "decision", "who": identity.name, "certificate": identity.fingerprint}
    return {
        "event": "question",
        "who": asked_by.name,
        "certificate": asked_by.fingerprint,
        "about": identity.name,
    }

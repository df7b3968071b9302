"""Which finished jobs are forgotten, and how: by age, number and bytes, oldest first.

A job is removed in an order that a crash at any point leaves sound: its directory is renamed into
`trash`, at once and whole; its record is deleted; the trash is emptied. On a full disk, which does
not take the second of these, what is in the directory goes first. What lies in `trash` at
start was meant to go, with its record. What lies among the jobs without a record was not: it is
moved into `quarantine`, counted, and left for a person to look at.
"""

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog
import trio

from jobs_proto.failpoint import failpoint
from jobs_supervisor import secrets
from jobs_supervisor.config import RetentionSettings
from jobs_supervisor.recover import Verdict, judge
from jobs_supervisor.register import Register
from jobs_supervisor.store import Store

EVERY_S = 30.0
"""How often it is looked whether something is to be forgotten."""

AT_ONCE = 500
"""Jobs that one look forgets at most, so that nothing else waits for long."""

log = structlog.get_logger()


class Retention:
    """Forgets.

    Args:
        settings: what is kept.
        state_dir: with `jobs`, `trash` and `quarantine` in it.
        store: the records.
        register: the jobs, those too that have no record yet.
    """

    def __init__(
        self, settings: RetentionSettings, state_dir: Path, store: Store, register: Register
    ) -> None:
        self._settings = settings
        self._jobs = state_dir / "jobs"
        self._trash = state_dir / "trash"
        self._quarantine = state_dir / "quarantine"
        self._store = store
        self._register = register
        self._interrupted: list[str] = []

    async def tidy(self) -> None:
        """Begin to finish what a crash interrupted; call at start, before anybody asks for a job.

        What may be much, the emptying of the trash and the comparison of directories with records,
        is left to `run`: a directory that is made meanwhile is of a job that the register has.
        """
        self._trash.mkdir(mode=0o700, exist_ok=True)
        self._interrupted = await trio.to_thread.run_sync(os.listdir, self._trash)
        await self._delete(self._interrupted)  # else they would seem to have had no output

    async def _finish_tidying(self) -> None:
        await trio.to_thread.run_sync(self._empty, self._interrupted)
        counts: Counter[str] = Counter()
        # Names alone: of 100 000, a Path each is half a second.
        directories = await trio.to_thread.run_sync(os.listdir, self._jobs)
        while some := directories[-AT_ONCE:]:
            del directories[-AT_ONCE:]
            for name in self._store.unknown([each for each in some if each not in self._register]):
                with suppress(FileNotFoundError):  # removed meanwhile, with its record
                    counts[self._try_to_set_aside(self._jobs / name)] += 1
            await trio.lowlevel.checkpoint()
        log.info("tidied", trash=len(self._interrupted), **counts)

    def _try_to_set_aside(self, directory: Path) -> str:
        try:
            return self._set_aside(directory)
        except FileNotFoundError:
            raise
        except OSError as error:  # a full disk, or no directory: no reason to end
            log.error("cannot look after what has no record", path=str(directory), why=str(error))  # noqa: TRY400  # it says all
            return "left_alone"

    def _set_aside(self, directory: Path) -> str:
        """Put a directory that has no record into quarantine; say what became of it."""
        if judge(directory) is Verdict.ALIVE:
            log.error("a shim runs a job that has no record; it is left alone", dir=str(directory))
            return "left_alone"
        secrets.forget(directory)
        with suppress(OSError):
            directory.rmdir()  # it held nothing else: of a `run` that was not answered
            return "removed"
        self._quarantine.mkdir(mode=0o700, exist_ok=True)
        directory.rename(self._quarantine / f"{directory.name}.{time.time_ns()}")
        log.error("a job's directory without a record was put into quarantine", job=directory.name)
        return "quarantined"

    async def run(self) -> None:
        """Finish `tidy`; then forget what is too old, too many or too large, again and again."""
        await self._finish_tidying()
        while True:
            try:
                while await self._forget_expired() == AT_ONCE:
                    pass
                await self._empty_forgotten()
            except OSError as error:  # a full disk, for example: no reason to end
                log.error("cannot forget jobs yet", why=str(error))  # noqa: TRY400  # it says all
            await trio.sleep(EVERY_S)

    async def _forget_expired(self) -> int:
        """Forget what is not to be kept; give how many jobs that were, `AT_ONCE` at most."""
        expired = self._store.expired(
            before_ns=time.time_ns() - round(self._settings.keep_s * 1e9),
            beyond=self._settings.keep_jobs,
            bytes_beyond=self._settings.keep_output_bytes,
            limit=AT_ONCE,
        )
        await self.remove(expired)
        return len(expired)

    async def _empty_forgotten(self) -> None:
        """Empty the trash of what somebody removed who went away before it was."""
        left = await trio.to_thread.run_sync(os.listdir, self._trash)
        gone = list(self._store.unknown(left[:AT_ONCE]))
        await trio.to_thread.run_sync(self._empty, gone)

    async def remove(self, ids: Iterable[str]) -> None:
        """Forget these jobs, which have exited, with their output."""
        ids = list(ids)
        for job_id in ids:
            with suppress(FileNotFoundError):
                (self._jobs / job_id).rename(self._trash / job_id)
        if ids:
            failpoint("remove.trashed")
            await self._delete(ids)
            failpoint("remove.forgotten")
            await trio.to_thread.run_sync(self._empty, ids)

    async def _delete(self, ids: list[str]) -> None:
        await self._store.delete(ids, partial(trio.to_thread.run_sync, self._hollow, ids))

    def _hollow(self, ids: list[str]) -> None:
        """Delete what is in directories; that they are there says that their jobs are to go."""
        for job_id in ids:
            with suppress(OSError):
                for each in (self._trash / job_id).iterdir():
                    each.unlink()

    def _empty(self, ids: list[str]) -> None:
        for job_id in ids:
            shutil.rmtree(self._trash / job_id, ignore_errors=True)

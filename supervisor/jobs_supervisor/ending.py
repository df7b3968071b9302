"""A job's end: written down and told, in an order that depends on who knows of it.

The end that a shim's exit record tells is on the disk by then, so it is told at once. One that no
exit record tells (the job was lost, or was never launched) is written down before it is told.
Either way what was told never changes.
"""

import time

import structlog
import trio
from attrs import evolve

from jobs_plugins import Kind
from jobs_proto import files
from jobs_proto.failpoint import failpoint
from jobs_proto.job import Job, Output
from jobs_proto.phases import Outcome
from jobs_supervisor import outcome, reattach, secrets
from jobs_supervisor.live import LiveJob
from jobs_supervisor.output import indexed, retained_from
from jobs_supervisor.places import Places
from jobs_supervisor.reattach import Reattachment
from jobs_supervisor.recover import sweep
from jobs_supervisor.register import Register
from jobs_supervisor.store import Store, Write

log = structlog.get_logger()


class Ending:
    """Ends jobs, as far as the supervisor is concerned.

    Args:
        store: the records.
        register: the jobs.
        places: one of which becomes free.
        reattachment: what is ended need not be looked for.
        nursery: for what goes on after the end was told.
    """

    def __init__(
        self,
        *,
        store: Store,
        register: Register,
        places: Places,
        reattachment: Reattachment,
        nursery: trio.Nursery,
    ) -> None:
        self._store = store
        self._register = register
        self._places = places
        self._reattachment = reattachment
        self._nursery = nursery

    def tell(self, live: LiveJob, job: Job) -> None:
        """The job has ended: tell, write down, make room. A second report of it changes nothing."""
        if live.exited:
            return
        failpoint("exit.known", job.id)
        how = reattach.LOST if job.outcome is Outcome.LOST else reattach.FINISHED
        self._reattachment.found(live, how)
        live.trouble = None
        live.record = evolve(live.record, job=job, killing=None)
        live.total = max(live.total, job.output.total)
        live.wake()
        self._clear(job)
        failpoint("exit.before-record", job.id)
        # Posted now: a `remove` that comes next must find it before itself in the store's order.
        write = self._store.note(live.record, Kind.EXITED)
        self._nursery.start_soon(self._forget, live, write)
        self._places.leave(live)

    async def _forget(self, live: LiveJob, write: Write) -> None:
        """Keep it in memory until the disk has it."""
        await write.done.wait()
        failpoint("exit.recorded", live.job.id)
        self._register.forget(live)

    async def conclude(self, live: LiveJob, job: Job) -> None:
        """The job has ended, and no exit record says how: write it down before anybody is told."""
        live.ending = True
        self._clear(job)  # before the record: nobody looks here after it
        await self._store.put(evolve(live.record, job=job, killing=None))
        self.tell(live, job)

    async def lose(self, live: LiveJob, why: str) -> None:
        """The job has ended, nobody knows how: nothing is left of it but its output.

        Args:
            live: the job.
            why: for people.
        """
        log.warning("a job is lost", job=live.job.id, why=why)
        directory = self._register.directory(live.job.id)
        try:
            size = (directory / files.OUTPUT).stat().st_size
        except FileNotFoundError:
            size = 0
        # What a full disk did not take is in the index, or followers were told of it, at the most.
        total = max(size, indexed(directory), live.total)
        output = Output(total=total, lost=total - size, retained_from=retained_from(directory))
        await self.conclude(live, outcome.lost(live.job, why, time.time_ns(), output))

    def _clear(self, job: Job) -> None:
        """Remove what nobody needs any more of a job that has ended."""
        directory = self._register.directory(job.id)
        if job.spec.isolation.secrets:
            try:
                secrets.forget(directory)
            except OSError as error:  # no reason to keep the job from ending
                log.error("cannot delete a job's secrets", job=job.id, why=error.strerror)  # noqa: TRY400  # it says all
        sweep(directory)

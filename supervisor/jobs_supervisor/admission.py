"""Taking jobs on, and launching them when there is a place.

What a client was told is on the disk before it was told: `submit` returns when the record is. From
the moment that the record is offered to the disk the job is the supervisor's and not its client's:
a client that goes away strands nothing, and what it brought along (secrets) belongs to the job; up
to that moment all of it goes with the client.
"""

import time
import uuid

import trio
from attrs import evolve

from jobs_proto import files
from jobs_proto.errors import JobsError
from jobs_proto.failpoint import failpoint
from jobs_proto.job import Job, timestamp
from jobs_proto.methods import Run
from jobs_proto.phases import Event
from jobs_supervisor import secrets
from jobs_supervisor.keeper import Keeper
from jobs_supervisor.limits import Granted
from jobs_supervisor.live import LiveJob
from jobs_supervisor.places import Places
from jobs_supervisor.plan import describe
from jobs_supervisor.register import NOT_STARTED, Register, written
from jobs_supervisor.spare import Spares
from jobs_supervisor.store import Account, Record, Store, Write
from jobs_supervisor.terms import Impose, Terms
from jobs_supervisor.users import User


class Admission:
    """Takes jobs on.

    Args:
        store: the records.
        register: the jobs.
        places: for those that may run.
        terms: on which they are taken on.
        keeper: of those that are launched.
        spares: where a shim waits for the next one.
        nursery: for the jobs' tasks.
    """

    def __init__(
        self,
        *,
        store: Store,
        register: Register,
        places: Places,
        terms: Terms,
        keeper: Keeper,
        spares: Spares,
        nursery: trio.Nursery,
    ) -> None:
        self._store = store
        self._register = register
        self._places = places
        self._terms = terms
        self._keeper = keeper
        self._spares = spares
        self._nursery = nursery

    async def submit(
        self, owner: str, request: Run, impose: Impose, account: Account = None
    ) -> Job:
        """Take a job on; give it once its record is on the disk.

        Args:
            owner: whose it is.
            request: what was asked.
            impose: not called for a request that has come before.
            account: called in a thread before the record is committed.

        Raises:
            JobsError: the spec cannot be carried out here, the queue is full, the request_id
                was used for another request, or a plugin refuses it.
        """
        known = await self._known(owner, request)
        if known is not None:
            return known
        _user, granted = await self._grant(owner, request, impose)
        at_once = self._places.has_one_for(owner, granted.limits)
        job_id = self._spares.next_id() if at_once else str(uuid.uuid4())
        live = _new(job_id, owner, request, granted)
        write = None
        with self._register.coming(live) as directory:
            try:
                if request.secrets:
                    await trio.to_thread.run_sync(secrets.write, directory, request.secrets)
                # The same request may have come again while this one waited for a disk.
                known = await self._known(owner, request)
                if known is None:
                    self._check(request)
                    write = self._take_on(live, account)
            finally:
                if write is None:
                    self._spares.forget(job_id)
                    if request.secrets:
                        secrets.withdraw(directory)
        if known is not None:
            return known
        assert write is not None, "what is not known is taken on, or refused"
        await written(write, NOT_STARTED)
        await trio.lowlevel.checkpoint()  # the launch goes first, then the answer
        failpoint("launch.before-answer", live.job.id)
        return live.job

    async def rehearse(self, owner: str, request: Run, impose: Impose) -> dict[str, object]:
        """Give the steps that would set up a job; nothing is started or written down.

        Raises:
            JobsError: as `submit`.
        """
        user, granted = await self._grant(owner, request, impose)
        live = _new(str(uuid.uuid4()), owner, request, granted)
        self._places.ledger.check(owner, request.spec, granted.limits)
        cgroup = self._terms.cgroup(live.job, granted.device)
        secret = str(self._register.directory(live.job.id) / files.SECRETS)
        plan = self._terms.plan(live.job, user, cgroup, secret)
        return {"steps": describe(plan), "notes": list(granted.notes)}

    def _check(self, request: Run) -> None:
        self._terms.check(request.spec)
        self._places.check_queue()

    async def _grant(self, owner: str, request: Run, impose: Impose) -> tuple[User, Granted]:
        self._check(request)
        user = await self._terms.user(owner, request.spec)
        return user, await self._terms.grant(owner, request.spec, user, await impose())

    async def _known(self, owner: str, request: Run) -> Job | None:
        """Give the job that this very request has made before; does not wait if there is none."""
        if request.request_id is None:
            return None
        live = await self._register.requested(owner, request.request_id)
        if live is None:
            return None
        job = live.job
        asked = (request.spec, request.name, request.labels, request.priority)
        if (job.spec, job.name, job.labels, job.priority) != asked:
            raise JobsError(
                "already_exists",
                f"the request_id {request.request_id!r} was used for another request, which made "
                f"job {job.id}; give each request its own",
            )
        return job

    # -- the record, and then a place or the queue -------------------------------------------

    def _take_on(self, live: LiveJob, account: Account) -> Write:
        """Offer a job to the disk; from here on it is the supervisor's, whoever goes away."""
        self._places.ledger.check(live.job.owner, live.job.spec, live.job.limits)
        if launch := self._places.ask(live):
            self._prepare(live)
        else:
            self._spares.forget(live.job.id)
        failpoint("launch.before-record", live.job.id)
        write = self._register.offer(live, account)
        self._nursery.start_soon(self._take_up, live, write, launch)
        return write

    async def _take_up(
        self,
        live: LiveJob,
        write: Write,
        launch: bool,  # noqa: FBT001  # trio's start_soon takes no keywords
    ) -> None:
        if not await self._register.taken(live, write):  # nobody was told that it was taken on
            self._places.leave(live)
            self._spares.forget(live.job.id)
            secrets.withdraw(self._register.directory(live.job.id))
        elif launch:
            await self._keeper.keep(live)
        elif not live.ending and not live.exited:  # it was killed before it could wait
            self._places.wait(live)

    async def run(self) -> None:
        """Launch from the queue whenever there is room."""
        while True:
            await self._places.freed()
            while (live := self._places.next()) is not None:
                self._prepare(live)
                self._nursery.start_soon(self._launch_from_queue, live)

    def _prepare(self, live: LiveJob) -> None:
        """Note, for a job that was given a place, what must be on the disk before its launch."""
        live.apply(Event.ADMIT)
        cgroup = self._terms.cgroup(live.job, live.record.device)
        live.record = evolve(live.record, boot=self._terms.boot, cgroup=cgroup)

    async def _launch_from_queue(self, live: LiveJob) -> None:
        failpoint("queue.admitted", live.job.id)
        await self._store.put(live.record)
        failpoint("queue.recorded", live.job.id)
        await self._keeper.keep(live)


def _new(job_id: str, owner: str, request: Run, granted: Granted) -> LiveJob:
    job = Job(
        id=job_id,
        name=request.name,
        owner=owner,
        labels=request.labels,
        priority=request.priority,
        spec=request.spec,
        created_at=timestamp(time.time_ns()),
        limits=granted.limits,
        timeout_s=request.spec.timeout_s,
        notes=granted.notes,
        limited_by=granted.limited_by,
    )
    return LiveJob(Record(job=job, request_id=request.request_id, device=granted.device))

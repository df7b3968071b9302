"""All jobs: taken on, launched, watched over, ended, found again after a restart.

Theory. Each job that has not ended has one task, `_own`, which alone decides what becomes of it. It
does not remember; it judges the job's directory (`jobs_supervisor.recover`) and acts on what it
finds: launch, reattach, write down the end. When what it held breaks away (the shim, the fork
server), it judges again. So a first launch, a restart of the supervisor and the death of a shim
are one piece of code, and are tried by every job.

What a client was told is on the disk before it was told: the record at `run`, the kill at `kill`.
The record of a job's end may be told at once, since the shim's exit record is on the disk; an end
that no exit record tells (it was lost, or never launched) is on the disk first, too.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import structlog
import trio
from attrs import evolve

from jobs_plugins import Kind
from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.errors import JobsError
from jobs_proto.failpoint import failpoint
from jobs_proto.job import Job, Limits, Output, Spec, timestamp
from jobs_proto.methods import Run, Update
from jobs_proto.phases import TABLE, Event, Outcome, Phase, RefusedError, advance
from jobs_shim.cgroup import Cgroup
from jobs_supervisor import isolation, outcome, reattach, secrets
from jobs_supervisor.cgroups import disk_of
from jobs_supervisor.config import JobSettings
from jobs_supervisor.forkserver import ForkServer
from jobs_supervisor.host import NONE, Host
from jobs_supervisor.isolation import Walls
from jobs_supervisor.limits import Granted, check_maximum, grant
from jobs_supervisor.link import ShimLink, connect
from jobs_supervisor.live import LiveJob
from jobs_supervisor.output import indexed, retained_from
from jobs_supervisor.plan import describe, make_plan
from jobs_supervisor.queue import Queue
from jobs_supervisor.quotas import Ledger, Quotas
from jobs_supervisor.reattach import Reattachment
from jobs_supervisor.recover import Verdict, exit_record, judge, sweep
from jobs_supervisor.retention import Retention
from jobs_supervisor.rootfs import check_command
from jobs_supervisor.store import Record, Store, Write
from jobs_supervisor.users import User, user_of

LAUNCHES = 5
"""Tries to have a job launched that leave no trace of a shim, before it counts as failed."""

LAUNCH_S = 5.0
"""So long it is tried at least: a disk that is full may have room again in a moment."""

START_S = 5.0
"""How long a signal waits for a job that is just being started."""

SHIM_ANSWER_S = 2.0
"""How long a shim may take to answer; it has one thread, which does nothing that waits."""

RETRY_S = (0.01, 2.0)
"""The first and the longest pause before a job's directory is judged again."""

LOOKUP_S = 5.0
"""How long it may take to find a user in a job's root directory."""

Imposed = list[tuple[str, Limits]]
Impose = Callable[[], Awaitable[Imposed]]

log = structlog.get_logger()


class Jobs:
    """The jobs of one supervisor.

    Args:
        settings: what jobs get.
        state_dir: their directories are in its `jobs`.
        store: the records.
        retention: removes jobs.
        forkserver: running.
        host: what can be had here.
        walls: what isolation is made with here.
        quotas: of the owners.
        nursery: for the jobs' tasks.
    """

    def __init__(
        self,
        *,
        settings: JobSettings,
        state_dir: Path,
        store: Store,
        retention: Retention,
        forkserver: ForkServer,
        host: Host,
        walls: Walls,
        quotas: Quotas,
        nursery: trio.Nursery,
    ) -> None:
        self.store = store
        self.live: dict[str, LiveJob] = {}
        self._settings = settings
        self._directory = state_dir / "jobs"
        self._forkserver = forkserver
        self._host = host
        self._walls = walls
        self._nursery = nursery
        self._retention = retention
        self._queue = Queue()
        self._ledger = Ledger(quotas)
        self._requests: dict[tuple[str, str], tuple[LiveJob, Write]] = {}
        self._boot = files.boot_id()
        self._reattachment = Reattachment()

    def directory(self, job_id: str) -> Path:
        """Give the directory of a job."""
        return self._directory / job_id

    # -- taking on ---------------------------------------------------------------------------

    async def restore(self, unfinished: list[Record]) -> None:
        """Take up the jobs that had not ended, by their records; call once, at start."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        await self._retention.tidy()
        for record in unfinished:
            failpoint("reattach.restoring", record.job.id)
            live = LiveJob(record)
            self.live[live.job.id] = live
            if live.job.phase is Phase.QUEUED:
                self._ledger.wait(live)
                self._queue.push(live)
            else:
                self._ledger.place(live)
                self._reattachment.expect(live)
                self._nursery.start_soon(self._find_again, live)
        self._admit()

    async def _find_again(self, live: LiveJob) -> None:
        """Have the job's task begin when there is a place, and give it its time in that place."""
        async with self._reattachment.place:
            self._nursery.start_soon(self._own, live)
            with trio.move_on_after(reattach.ANSWER_S):
                await self.settled(live)
        self._reattachment.give_up(live)

    async def restored(self) -> None:
        """Wait until every job was found again, or its shim has had its time."""
        await self._reattachment.done()

    async def settled(self, live: LiveJob) -> None:
        """Wait until this job was found again, or its shim has had its time."""
        if live.settled is not None:
            await live.settled.wait()

    async def submit(self, owner: str, request: Run, impose: Impose) -> Job:
        """Take a job on; give it once its record is on the disk.

        Args:
            owner: whose it is.
            request: what was asked.
            impose: asks the plugins for limits; not called for a request that has come before.

        Raises:
            JobsError: the spec cannot be carried out here, the queue is full, the request_id
                was used for another request, or a plugin refuses it.
        """
        known = await self._known(owner, request)
        if known is not None:
            return known
        self._check(request)
        granted = self._grant(request, await self._user(request.spec), await impose())
        job_id = str(uuid.uuid4())
        if request.secrets:
            place = self.directory(job_id)
            await trio.to_thread.run_sync(secrets.write, place, request.secrets)
        try:
            # The same request may have come again while this one waited for a disk.
            known = await self._known(owner, request)
            if known is None:
                self._check(request)
                return await self._take_on(owner, request, job_id, granted)
        except JobsError:
            secrets.withdraw(self.directory(job_id))
            raise
        secrets.withdraw(self.directory(job_id))
        return known

    async def _take_on(self, owner: str, request: Run, job_id: str, granted: Granted) -> Job:
        self._ledger.check(owner, request.spec, granted.limits)
        live = LiveJob(
            Record(
                job=_new_job(job_id, owner, request, granted),
                request_id=request.request_id,
                device=granted.device,
            )
        )
        key = _request(live)
        self.live[live.job.id] = live
        self._ledger.wait(live)
        if launch := not self._queue and self._has_room(live):
            self._prepare(live)
        failpoint("launch.before-record", live.job.id)
        write = self.store.offer(live.record)
        self._requests[key] = live, write
        # In a task of the supervisor's: a client that goes away now must not strand the job.
        self._nursery.start_soon(self._take_up, live, write, key, launch)
        await _written(write)
        failpoint("launch.before-answer", live.job.id)
        return live.job

    async def _take_up(
        self,
        live: LiveJob,
        write: Write,
        key: tuple[str, str],
        launch: bool,  # noqa: FBT001  # trio's start_soon takes no keywords
    ) -> None:
        await write.done.wait()
        del self._requests[key]
        if write.error is not None:  # nobody was told that it was taken on
            del self.live[live.job.id]
            self._ledger.drop(live)
        elif launch:
            await self._own(live)
        elif live.record.killing is None and not live.exited:  # it was killed before it could wait
            self._queue.push(live)
        self._admit()

    async def _known(self, owner: str, request: Run) -> Job | None:
        """Give the job that this very request has made before, once it is on the disk.

        Does not wait if there is none: the caller may then make it, and nobody comes between.
        """
        if request.request_id is None:
            return None
        if taken := self._requests.get((owner, request.request_id)):
            live, write = taken
            await _written(write)
            record: Record | None = live.record
        else:
            record = self.store.by_request(owner, request.request_id)
        if record is None:
            return None
        job = self.current(record).job
        asked = (request.spec, request.name, request.labels, request.priority)
        if (job.spec, job.name, job.labels, job.priority) != asked:
            raise JobsError(
                "already_exists",
                f"the request_id {request.request_id!r} was used for another request, which made "
                f"job {job.id}; give each request its own",
            )
        return job

    def _check(self, request: Run) -> None:
        """Refuse what cannot be carried out, before anything is written down."""
        whole = self._host.mode != NONE and self._walls.filter
        if not whole and self._settings.isolation == "required":
            raise JobsError(
                "failed_precondition",
                "this host cannot isolate jobs as the supervisor requires: "
                f"{'; '.join(self._host.missing)}. An operator can set "
                '[jobs] isolation = "best-effort"',
            )
        isolation.check(request.spec.isolation, self._walls)
        waiting = self._ledger.waiting
        if waiting >= self._settings.max_queued:
            raise JobsError(
                "resource_exhausted",
                f"{waiting} jobs are waiting already, which is the limit (max_queued); "
                "try again later",
            )

    def _grant(self, request: Run, user: User, imposed: Imposed) -> Granted:
        """Decide on the job's limits, or refuse them."""
        spec = request.spec
        return grant(
            spec.limits,
            self._settings.default_limits,
            self._settings.max_limits,
            self._host.tree,
            imposed=imposed,
            find_disk=lambda: disk_of(
                spec.limits.io_device or (spec.isolation.rootfs or "") + spec.cwd, user
            ),
        )

    async def _user(self, spec: Spec) -> User:
        """Find the user of a job.

        Raises:
            JobsError: there is no such user, or it cannot be found out.
        """
        find = partial(user_of, spec, self._settings.default_user, root=self._walls.root)
        if spec.isolation.rootfs is None:
            return find()

        def find_in_root() -> User:
            user = find()
            if not spec.isolation.binds:  # else the command may come with one of them
                check_command(spec, user, self._settings.path)
            return user

        try:
            with trio.fail_after(LOOKUP_S):  # somebody's directory may be on anything
                return await trio.to_thread.run_sync(find_in_root, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise JobsError(
                "unavailable", f"{spec.isolation.rootfs} gave no answer within {LOOKUP_S:g} s"
            ) from None

    async def rehearse(self, owner: str, request: Run, impose: Impose) -> dict[str, object]:
        """Give the steps that would set up a job; nothing is started or written down.

        Raises:
            JobsError: as `submit`.
        """
        self._check(request)
        user = await self._user(request.spec)
        granted = self._grant(request, user, await impose())
        self._ledger.check(owner, request.spec, granted.limits)
        job = _new_job(str(uuid.uuid4()), owner, request, granted)
        cgroup = self._host.tree.plan(job.id, job.limits, granted.device)
        return {"steps": describe(self._plan(job, user, cgroup)), "notes": list(granted.notes)}

    def _plan(self, job: Job, user: User, cgroup: dict[str, object] | None) -> dict[str, object]:
        return make_plan(
            job,
            user,
            self._host,
            self._walls,
            self._settings,
            cgroup=cgroup,
            boot=self._boot,
            secrets=str(self.directory(job.id) / files.SECRETS),
        )

    # -- admission ---------------------------------------------------------------------------

    def _has_room(self, live: LiveJob) -> bool:
        return len(self._ledger.places) < self._settings.max_running and self._ledger.has_room(
            live.job.owner, live.job.limits
        )

    def _prepare(self, live: LiveJob) -> None:
        """Note what a launch must leave on the disk before it is asked for."""
        self._ledger.place(live)
        live.apply(Event.ADMIT)
        cgroup = self._host.tree.plan(live.job.id, live.job.limits, live.record.device)
        live.record = evolve(live.record, boot=self._boot, cgroup=cgroup)

    def _admit(self) -> None:
        """Launch from the queue while there is room."""
        while (live := self._queue.pop(self._has_room)) is not None:
            self._prepare(live)
            self._nursery.start_soon(self._launch_from_queue, live)

    async def _launch_from_queue(self, live: LiveJob) -> None:
        failpoint("queue.admitted", live.job.id)
        await self._put(live)
        failpoint("queue.recorded", live.job.id)
        await self._own(live)

    # -- one job's task ----------------------------------------------------------------------

    async def _own(self, live: LiveJob) -> None:
        """Judge and act until the job has ended; see the head of this file."""
        directory = self.directory(live.job.id)
        pause, longest = RETRY_S
        launches, began = 0, trio.current_time()
        while not live.exited:
            try:
                verdict = judge(directory)
                if verdict is Verdict.FRESH:
                    patient = trio.current_time() - began < LAUNCH_S or launches < LAUNCHES
                    await self._launch(live, directory, tries_left=patient)
                    launches += 1
                elif verdict is Verdict.ALIVE:
                    failpoint("reattach.before-connect", live.job.id)
                    link = await connect(directory)
                    failpoint("reattach.connected", live.job.id)
                    await self._greet(live, link)
                elif verdict is Verdict.FINISHED:
                    self._finish(live, outcome.finished(live.job, exit_record(directory)))
                else:
                    await self._bury(live, directory)
            except (OSError, ValueError) as error:
                log.warning("cannot decide on a job yet", job=live.job.id, why=str(error))
            except Exception:  # one job's trouble must not end the supervisor of all the others
                log.exception("a job's task failed; it is judged again", job=live.job.id)
            if not live.exited:
                await trio.sleep(pause)
                pause = min(2 * pause, longest)

    async def _launch(self, live: LiveJob, directory: Path, *, tries_left: bool) -> None:
        """Ask for a launch and see the job to its end, if a shim comes of it."""
        if live.record.boot != self._boot:
            await self._lose(live, directory, "the host went down while it was being started")
            return
        if not tries_left:
            why = f"no shim could be started for it within {LAUNCH_S:g} s; see the supervisor's log"
            job = outcome.never_started(live.job, time.time_ns(), by=None, error=why)
            await self._conclude(live, job)
            return
        failpoint("launch.before-directory", live.job.id)
        directory.mkdir(mode=0o700, exist_ok=True)
        failpoint("launch.directory-made", live.job.id)
        try:
            user = await self._user(live.job.spec)
        except JobsError as error:  # the user was removed while the job was waiting, for example
            job = outcome.never_started(live.job, time.time_ns(), by=None, error=error.message)
            await self._conclude(live, job)
            return
        plan = self._plan(live.job, user, live.record.cgroup)
        sock = await self._forkserver.launch(directory, plan)
        failpoint("launch.asked", live.job.id)
        self._reattachment.found(live, reattach.LAUNCHED)
        await self._tend(live, ShimLink(sock))

    async def _greet(self, live: LiveJob, link: ShimLink) -> None:
        """Hear from a shim that was found which protocol it speaks; tend it, or wait for its end.

        What does not speak ours is told nothing: how its job ends will stand in its exit record.
        """
        try:
            packet = await link.receive()
            kind, body = packet or ("", {})
            if kind == protocol.HELLO and body["protocol"] in protocol.SPOKEN:
                self._hear(live, kind, body)
                await self._tend(live, link)
            elif kind == protocol.HELLO:
                self._reattachment.foreign(live, body["protocol"])
                while await link.receive() is not None:
                    pass
        finally:
            link.close()

    async def _tend(self, live: LiveJob, link: ShimLink) -> None:
        """Listen to the shim until it goes; it goes when the job has ended."""
        live.attach(link)
        try:
            if live.record.killing is not None:
                failpoint("kill.before-repeat", live.job.id)
                await link.send(protocol.KILL, dict(live.record.killing))
            if live.job.updated_at is not None:
                await self._tell_limits(live)
            while (packet := await link.receive()) is not None:
                self._hear(live, *packet)
        finally:
            live.attach(None)
            link.close()

    def _hear(self, live: LiveJob, kind: str, body: protocol.Body) -> None:
        if kind == protocol.GREW:
            live.grown(int(body["total"]))  # type: ignore[call-overload]
        elif kind == protocol.STARTED:
            self._started(live, body["pid"], body["time_ns"])
        elif kind == protocol.HELLO:
            self._reattachment.found(live, reattach.REATTACHED)
            if body["started_ns"] is not None:
                self._started(live, body["leader"], body["started_ns"])
            self._frozen(live, frozen=bool(body["frozen"]))  # whatever the record says
            live.grown(int(body["total"]))  # type: ignore[call-overload]
        elif kind == protocol.FROZEN:
            self._frozen(live, frozen=bool(body["frozen"]))
        elif kind == protocol.USAGE:
            live.measured(outcome.usage(body["usage"]), outcome.output(body["output"]))  # type: ignore[arg-type]
        elif kind == protocol.EXITED:
            self._finish(live, outcome.finished(live.job, body))
        elif kind == protocol.REFUSED:
            log.warning("a shim refused a launch", job=live.job.id, why=body["why"])

    def _started(self, live: LiveJob, pid: object, time_ns: object) -> None:
        if live.job.phase in (Phase.STARTING, Phase.STOPPING) and live.job.started_at is None:
            failpoint("launch.started", live.job.id)
            live.apply(Event.STARTED, pid=pid, started_at=timestamp(int(time_ns)))  # type: ignore[call-overload]
            self.store.note(live.record, Kind.STARTED)

    def _frozen(self, live: LiveJob, *, frozen: bool) -> None:
        event = Event.PAUSE if frozen else Event.RESUME
        if TABLE[live.job.phase, event] not in (None, live.job.phase):
            failpoint("pause.done", live.job.id)
            live.apply(event)
            self.store.post(live.record, Kind.PAUSED if frozen else Kind.RESUMED)

    # -- the end -----------------------------------------------------------------------------

    async def _conclude(self, live: LiveJob, job: Job) -> None:
        """The job has ended, and no exit record says how: write it down before anybody is told."""
        live.ending = True
        directory = self.directory(job.id)
        sweep(directory)  # before the record: nobody looks here after it
        if job.spec.isolation.secrets:
            secrets.forget(directory)
        await self.store.put(evolve(live.record, job=job, killing=None))
        self._finish(live, job)

    def _finish(self, live: LiveJob, job: Job) -> None:
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
        if live.job.spec.isolation.secrets:
            secrets.forget(self.directory(live.job.id))
        sweep(self.directory(job.id))
        failpoint("exit.before-record", job.id)
        # Posted now: a `remove` that comes next must find it before itself in the store's order.
        self._nursery.start_soon(self._forget, live, self.store.note(live.record, Kind.EXITED))
        self._ledger.drop(live)
        self._admit()

    async def _forget(self, live: LiveJob, write: Write) -> None:
        """Keep it in memory until the disk has it."""
        await write.done.wait()
        failpoint("exit.recorded", live.job.id)
        self.live.pop(live.job.id, None)

    async def _bury(self, live: LiveJob, directory: Path) -> None:
        """Its shim died without a record: see that nothing of it is left, then say so."""
        failpoint("lost.before-kill", live.job.id)
        if live.record.cgroup is not None:
            cgroup = Cgroup(live.record.cgroup)
            cgroup.kill()
            failpoint("lost.killed", live.job.id)
            if not await trio.to_thread.run_sync(cgroup.wait_empty):
                raise OSError(f"processes in {cgroup.track} outlive SIGKILL")
            cgroup.remove()
        failpoint("lost.removed", live.job.id)
        await self._lose(live, directory, "its shim was killed, and the job with it")

    async def _lose(self, live: LiveJob, directory: Path, why: str) -> None:
        log.warning("a job is lost", job=live.job.id, why=why)
        try:
            size = (directory / files.OUTPUT).stat().st_size
        except FileNotFoundError:
            size = 0
        # What a full disk did not take is in the index, or followers were told of it, at the most.
        total = max(size, indexed(directory), live.total)
        output = Output(total=total, lost=total - size, retained_from=retained_from(directory))
        lost = outcome.lost(live.job, why, time.time_ns(), output)
        await self._conclude(live, lost)

    # -- what clients ask --------------------------------------------------------------------

    async def kill(self, live: LiveJob, number: int, grace_s: float, by: str) -> None:
        """Have the job killed: on the disk first, so that a restart does not forget it.

        A disk that is full must not keep anybody from ending what fills it: then it is enough that
        the shim was told, which remembers it as well.
        """
        if live.exited:
            return
        failpoint("kill.before-record", live.job.id)
        kill: dict[str, str | int | float] = {"signal": number, "grace_s": grace_s, "by": by}
        if live.ending:
            await live.until_exited()
            return
        if live.job.phase is Phase.QUEUED:
            await self._kill_queued(live, kill)
            return
        live.apply(Event.KILL)
        live.record = evolve(live.record, killing=kill)
        write = self.store.post(live.record)
        await write.tried.wait()
        failpoint("kill.recorded", live.job.id)
        if live.link is not None:
            await live.link.send(protocol.KILL, dict(kill))
        else:
            await write.done.wait()  # whoever finds the shim again repeats it
        failpoint("kill.sent", live.job.id)

    async def _kill_queued(self, live: LiveJob, kill: dict[str, str | int | float]) -> None:
        live.ending = True
        live.record = evolve(live.record, killing=kill)
        self._queue.remove(live)
        by = str(kill["by"])
        ended = outcome.never_started(live.job, time.time_ns(), by=by, error=None)
        # In a task of the supervisor's: a client that goes away now must not strand the job.
        self._nursery.start_soon(self._conclude, live, ended)
        await live.until_exited()

    async def signal(self, live: LiveJob, number: int) -> None:
        """Deliver one signal to the leader's process group.

        Raises:
            JobsError: `failed_precondition`: nothing executes.
        """
        # Who has run a job and signals it at once should not have to know that starting takes ms.
        with trio.move_on_after(START_S):
            while live.job.phase is Phase.STARTING:
                await live.changed()
        if live.job.started_at is None or live.exited:
            raise JobsError(
                "failed_precondition",
                f"job {live.job.short_id} is {live.job.phase}: there is no process to signal",
            )
        await _link(live).send(protocol.SIGNAL, {"signal": number})

    async def freeze(self, live: LiveJob, *, frozen: bool) -> None:
        """Pause or resume the job; return when the shim has done it.

        Raises:
            JobsError: `failed_precondition`: not in this phase, or not on this host.
        """
        event = Event.PAUSE if frozen else Event.RESUME
        try:
            wanted = advance(live.job.phase, event)
        except RefusedError as error:
            raise JobsError("failed_precondition", f"{error}: {live.job.short_id}") from None
        if live.record.cgroup is None:
            why = "; ".join(self._host.missing)
            raise JobsError("failed_precondition", f"pausing needs cgroups: {why}")
        link = _link(live)
        failpoint("pause.before-send", live.job.id)
        await link.send(protocol.FREEZE, {"frozen": frozen})
        failpoint("pause.sent", live.job.id)
        with trio.move_on_after(SHIM_ANSWER_S):
            while live.job.phase is not wanted and not live.exited:
                await live.changed()
            return
        raise JobsError("unavailable", "the job's shim does not answer; try again")

    async def update(self, live: LiveJob, request: Update, impose: Impose) -> None:
        """Change limits of the job: on the disk first, so that a restart does not forget it.

        Args:
            live: the job.
            request: what was asked.
            impose: asks the plugins for limits, which hold here as well.

        Raises:
            JobsError: `failed_precondition`: it has ended; `invalid_argument`: it is over the
                maximum, or over a plugin's.
        """
        cap, timeout_s = request.output_max_bytes, request.timeout_s
        if cap is not None:
            asked = Limits(output_max_bytes=cap)
            check_maximum(asked, self._settings.max_limits)
            for plugin, imposed in await impose():
                check_maximum(asked, imposed, f"the plugin {plugin}")
        if live.exited or live.ending:
            raise JobsError(
                "failed_precondition", f"job {live.job.short_id} has ended: nothing can be changed"
            )
        job = evolve(live.job, updated_at=timestamp(time.time_ns()))
        if cap is not None:
            by = {k: v for k, v in job.limited_by.items() if k != "output_max_bytes"}
            limits = evolve(job.limits, output_max_bytes=cap)
            job = evolve(job, limits=limits, limited_by=by)
        if timeout_s is not None:
            job = evolve(job, timeout_s=timeout_s)
        live.record = evolve(live.record, job=job)
        failpoint("update.before-record", job.id)
        await self._put(live)
        failpoint("update.recorded", job.id)
        await self._tell_limits(live)

    async def _tell_limits(self, live: LiveJob) -> None:
        """Tell the shim, if there is one yet, the limits that can change; again does no harm."""
        if live.link is not None:
            cap, timeout_s = live.job.limits.output_max_bytes, live.job.timeout_s
            body: protocol.Body = {"output_max_bytes": cap, "timeout_s": timeout_s}
            await live.link.send(protocol.UPDATE, body)

    async def remove(self, live: LiveJob) -> None:
        """Forget a job that has ended, with its output.

        Raises:
            JobsError: `failed_precondition`: it has not ended.
        """
        if not live.exited:
            raise JobsError(
                "failed_precondition",
                f"job {live.job.short_id} is {live.job.phase}; kill it first, then remove it",
            )
        await self._retention.remove([live.job.id])

    async def measure(self, live: LiveJob) -> None:
        """Have the job's usage and output be those of now, if its shim answers in time."""
        if live.link is None or live.exited:
            return
        before = live.measurements
        await live.link.send(protocol.USAGE, {})
        with trio.move_on_after(SHIM_ANSWER_S):
            while live.measurements == before and not live.exited:
                await live.changed()

    def used(self, owner: str) -> dict[str, float]:
        """Give what an owner has of each quota of jobs."""
        return self._ledger.used(owner)

    def current(self, record: Record) -> LiveJob:
        """Give the living job of a record, or one that is as dead as the record says."""
        return self.live.get(record.job.id) or LiveJob(record, total=record.job.output.total)

    def matching(self, text: str) -> Iterator[LiveJob]:
        """Give the jobs whose id is or starts with `text`, or whose name it is; newest first."""
        if not text.isascii():  # as every id and name is
            return
        live = self.live.get(text)
        if live is not None and _request(live) not in self._requests:  # on the disk already
            yield live
        elif exact := self.store.get(text):
            yield self.current(exact)
        elif text:
            yield from map(self.current, self.store.matching(text))

    def newest_first(self, *, unfinished: bool) -> Iterator[LiveJob]:
        """Give every job, or every one that has not exited."""
        if unfinished:
            # They are in memory, in the order in which they came; some not on the disk yet.
            offered = {live.job.id for live, _ in self._requests.values()}
            for live in reversed(list(self.live.values())):
                if not live.exited and live.job.id not in offered:
                    yield live
        else:
            yield from map(self.current, self.store.newest_first())

    async def _put(self, live: LiveJob) -> None:
        await self.store.put(live.record)


def _request(live: LiveJob) -> tuple[str, str]:
    """Give the key of the request that made a job, while that is being written down."""
    return live.job.owner, live.record.request_id or live.job.id


def _link(live: LiveJob) -> ShimLink:
    if live.link is None:
        why = live.trouble or "the job's shim is being looked for; try again"
        raise JobsError("unavailable", f"job {live.job.short_id}: {why}")
    return live.link


async def _written(write: Write) -> None:
    """Wait until a job is on the disk: before that, nobody may be told of it.

    Raises:
        JobsError: `resource_exhausted`: the disk does not take it.
    """
    await write.done.wait()
    if write.error is not None:
        raise JobsError(
            "resource_exhausted",
            f"the supervisor cannot write the job down ({write.error}), so it was not started; "
            "an operator has to make room in its state directory",
        )


def _new_job(job_id: str, owner: str, request: Run, granted: Granted) -> Job:
    return Job(
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

"""Whoever keeps a job, from its launch to its end.

Theory. Each job that was given a place and has not ended has one task, `Keeper.keep`, which alone
decides what becomes of it. It does not remember; it judges the job's directory
(`jobs_supervisor.recover`) and acts on what it finds: launch, reattach, write down the end. When
what it held breaks away (the shim, the fork server), it judges again. So a first launch, a restart
of the supervisor and the death of a shim are one piece of code, and are tried by every job.
"""

import time
from pathlib import Path

import structlog
import trio

from jobs_plugins import Kind
from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.errors import JobsError
from jobs_proto.failpoint import failpoint
from jobs_proto.job import timestamp
from jobs_proto.phases import TABLE, Event, Phase
from jobs_shim.cgroup import Cgroup
from jobs_shim.steps import StepError
from jobs_supervisor import cgroups, outcome, reattach
from jobs_supervisor.ending import Ending
from jobs_supervisor.forkserver import ForkServer
from jobs_supervisor.link import ShimLink, connect
from jobs_supervisor.live import LiveJob
from jobs_supervisor.plan import explain
from jobs_supervisor.reattach import Reattachment
from jobs_supervisor.recover import Verdict, exit_record, judge
from jobs_supervisor.register import Register
from jobs_supervisor.store import Store
from jobs_supervisor.terms import Terms

LAUNCHES = 5
"""Tries to have a job launched that leave no trace of a shim, before it counts as failed."""

LAUNCH_S = 5.0
"""So long it is tried at least: a disk that is full may have room again in a moment."""

RETRY_S = (0.01, 2.0)
"""The first and the longest pause before a job's directory is judged again."""

log = structlog.get_logger()


class Keeper:
    """Keeps jobs.

    Args:
        store: the records.
        register: the jobs, and their directories.
        terms: on which they are launched.
        forkserver: running.
        ending: of those that end.
        reattachment: told of those that were found.
    """

    def __init__(
        self,
        *,
        store: Store,
        register: Register,
        terms: Terms,
        forkserver: ForkServer,
        ending: Ending,
        reattachment: Reattachment,
    ) -> None:
        self._store = store
        self._register = register
        self._terms = terms
        self._forkserver = forkserver
        self._ending = ending
        self._reattachment = reattachment

    async def keep(self, live: LiveJob) -> None:
        """Judge and act until the job has ended; see the head of this file."""
        directory = self._register.directory(live.job.id)
        pause, longest = RETRY_S
        launches, began = 0, trio.current_time()
        while not live.exited:
            try:
                verdict = judge(directory)
                if verdict is Verdict.FRESH:
                    patient = trio.current_time() - began < LAUNCH_S or launches < LAUNCHES
                    launches += 1
                    await self._launch(live, directory, tries_left=patient)
                elif verdict is Verdict.ALIVE:
                    failpoint("reattach.before-connect", live.job.id)
                    link = await connect(directory)
                    failpoint("reattach.connected", live.job.id)
                    await self._greet(live, link)
                elif verdict is Verdict.FINISHED:
                    self._ending.tell(live, outcome.finished(live.job, exit_record(directory)))
                else:
                    await self._bury(live)
            except (OSError, ValueError) as error:
                log.warning("cannot decide on a job yet", job=live.job.id, why=str(error))
            except Exception:  # one job's trouble must not end the supervisor of all the others
                log.exception("a job's task failed; it is judged again", job=live.job.id)
            if not live.exited:
                await trio.sleep(pause)
                pause = min(2 * pause, longest)

    # -- a launch ----------------------------------------------------------------------------

    async def _launch(self, live: LiveJob, directory: Path, *, tries_left: bool) -> None:
        """Ask for a launch and see the job to its end, if a shim comes of it."""
        if live.record.boot != self._terms.boot:
            await self._ending.lose(live, "the host went down while it was being started")
            return
        if not tries_left:
            why = f"no shim could be started for it within {LAUNCH_S:g} s; see the supervisor's log"
            await self._fail(live, why)
            return
        failpoint("launch.before-directory", live.job.id)
        directory.mkdir(mode=0o700, exist_ok=True)
        failpoint("launch.directory-made", live.job.id)
        try:
            user = await self._terms.user(live.job.owner, live.job.spec)
        except JobsError as error:  # the user was removed while the job was waiting, for example
            await self._fail(live, error.message)
            return
        secret = str(directory / files.SECRETS)
        plan = self._terms.plan(live.job, user, live.record.cgroup, secret)
        try:
            sock = await self._forkserver.launch(directory, plan)
        except StepError as error:
            await self._fail(live, explain(error.step, error.errno, error.path))
            return
        failpoint("launch.asked", live.job.id)
        self._reattachment.found(live, reattach.LAUNCHED)
        await self._tend(live, ShimLink(sock))

    async def _fail(self, live: LiveJob, why: str) -> None:
        self._forkserver.spares.forget(live.job.id)
        await trio.to_thread.run_sync(cgroups.clear, live.record.cgroup)
        job = outcome.never_started(live.job, time.time_ns(), by=None, error=why)
        await self._ending.conclude(live, job)

    # -- a shim that lives -------------------------------------------------------------------

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
                await live.tell_limits()
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
            self._forkserver.spares.rest()
            self._ending.tell(live, outcome.finished(live.job, body))
        elif kind == protocol.REFUSED:
            log.warning("a shim refused a launch", job=live.job.id, why=body["why"])

    def _started(self, live: LiveJob, pid: object, time_ns: object) -> None:
        if live.job.phase in (Phase.STARTING, Phase.STOPPING) and live.job.started_at is None:
            failpoint("launch.started", live.job.id)
            live.apply(Event.STARTED, pid=pid, started_at=timestamp(int(time_ns)))  # type: ignore[call-overload]
            self._store.note(live.record, Kind.STARTED)

    def _frozen(self, live: LiveJob, *, frozen: bool) -> None:
        event = Event.PAUSE if frozen else Event.RESUME
        if TABLE[live.job.phase, event] not in (None, live.job.phase):
            failpoint("pause.done", live.job.id)
            live.apply(event)
            self._store.post(live.record, Kind.PAUSED if frozen else Kind.RESUMED)

    # -- a shim that died --------------------------------------------------------------------

    async def _bury(self, live: LiveJob) -> None:
        """Its shim died without a record: see that nothing of it is left, then say so."""
        failpoint("lost.before-kill", live.job.id)
        Cgroup(live.record.cgroup).kill()
        failpoint("lost.killed", live.job.id)
        await trio.to_thread.run_sync(cgroups.clear, live.record.cgroup)
        failpoint("lost.removed", live.job.id)
        await self._ending.lose(live, "its shim was killed, and the job with it")

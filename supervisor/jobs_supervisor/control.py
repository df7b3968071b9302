"""What clients ask of a job that there is: to kill, signal, pause, change, measure or forget it.

What a client was told is on the disk before it was told. A disk that is full must not keep anybody
from ending what fills it, nor from pausing it: for these it is enough that the disk has refused,
and that the shim was told, which remembers it as well. To change limits needs the disk.
"""

import time
from contextlib import suppress
from pathlib import Path

import trio
from attrs import evolve

from jobs_proto import shim as protocol
from jobs_proto.errors import JobsError
from jobs_proto.failpoint import failpoint
from jobs_proto.job import Job, Limits, timestamp
from jobs_proto.methods import Update
from jobs_proto.phases import Event, Phase, RefusedError, advance
from jobs_shim.cgroup import Cgroup
from jobs_supervisor import outcome
from jobs_supervisor.ending import Ending
from jobs_supervisor.link import ShimLink
from jobs_supervisor.live import LiveJob
from jobs_supervisor.output import indexed
from jobs_supervisor.places import Places
from jobs_supervisor.register import Register, written
from jobs_supervisor.retention import Retention
from jobs_supervisor.store import Store, Write
from jobs_supervisor.terms import Impose, Terms

START_S = 5.0
"""How long a signal waits for a job that is just being started."""

SHIM_ANSWER_S = 2.0
"""How long a shim may take to answer; it has one thread, which does nothing that waits."""

Kill = dict[str, str | int | float]


class Control:
    """Does what clients ask.

    Args:
        store: the records.
        register: the jobs' directories.
        places: which a killed job may still wait for.
        terms: by which limits may be changed.
        ending: of jobs that are killed while they wait.
        retention: removes jobs.
        nursery: for what goes on without its client.
    """

    def __init__(
        self,
        *,
        store: Store,
        register: Register,
        places: Places,
        terms: Terms,
        ending: Ending,
        retention: Retention,
        nursery: trio.Nursery,
    ) -> None:
        self._store = store
        self._register = register
        self._places = places
        self._terms = terms
        self._ending = ending
        self._retention = retention
        self._nursery = nursery

    # -- ending it ---------------------------------------------------------------------------

    async def kill(self, live: LiveJob, number: int, grace_s: float, by: str) -> None:
        """Have the job killed: on the disk first, so that a restart does not forget it.

        Once that is asked for, the shim hears of it, though the client may have gone meanwhile:
        else the job would be one that is being stopped, and be stopped at our next start only.
        """
        if live.exited:
            return
        failpoint("kill.before-record", live.job.id)
        kill: Kill = {"signal": number, "grace_s": grace_s, "by": by}
        if live.ending:
            await live.until_exited()
            return
        if live.job.phase is Phase.QUEUED:
            await self._kill_queued(live, kill)
            return
        live.apply(Event.KILL)
        live.record = evolve(live.record, killing=kill)
        write = self._store.post(live.record)
        with trio.CancelScope(shield=True):  # one try of the disk, and one packet
            await write.tried.wait()
            failpoint("kill.recorded", live.job.id)
            if told := live.link is not None:
                await live.link.send(protocol.KILL, dict(kill))
        if not told:
            await write.done.wait()  # whoever finds the shim again repeats it
        failpoint("kill.sent", live.job.id)

    async def _kill_queued(self, live: LiveJob, kill: Kill) -> None:
        live.ending = True
        live.record = evolve(live.record, killing=kill)
        self._places.withdraw(live)
        by = str(kill["by"])
        ended = outcome.never_started(live.job, time.time_ns(), by=by, error=None)
        # In a task of the supervisor's: a client that goes away now must not strand the job.
        self._nursery.start_soon(self._ending.conclude, live, ended)
        await live.until_exited()

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

    # -- what its shim does at once ----------------------------------------------------------

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
        """Pause or resume the job; return when the shim has done it, and the disk was told.

        A supervisor that comes back hears from the shim whether its job is frozen; but one that
        cannot hear it, since the shim is silent or speaks another protocol, has but the record.

        Raises:
            JobsError: `failed_precondition`: not in this phase, or not on this host.
        """
        event = Event.PAUSE if frozen else Event.RESUME
        try:
            wanted = advance(live.job.phase, event)
        except RefusedError as error:
            raise JobsError("failed_precondition", f"{error}: {live.job.short_id}") from None
        if live.record.cgroup is None:
            why = "; ".join(self._terms.host.missing)
            raise JobsError("failed_precondition", f"pausing needs cgroups: {why}")
        link = _link(live)
        failpoint("pause.before-send", live.job.id)
        await link.send(protocol.FREEZE, {"frozen": frozen})
        failpoint("pause.sent", live.job.id)
        with trio.move_on_after(SHIM_ANSWER_S) as late:
            while live.job.phase is not wanted and not live.exited:
                await live.changed()
        if late.cancelled_caught:
            raise JobsError("unavailable", "the job's shim does not answer; try again")
        await self._store.tried()

    async def measure(self, live: LiveJob) -> None:
        """Have the job's usage and output be those of now, if its shim answers in time.

        A shim whose job has written nothing is left to sleep: waking it would cost it memory for
        good, and the job's cgroup says as much; but for output that a full disk has not taken.
        """
        if live.link is None or live.exited:
            return
        cgroup = live.record.cgroup
        silent = not live.total and not indexed(self._register.directory(live.job.id))
        if cgroup is not None and silent:
            with suppress(OSError, ValueError):  # it ends just now; or a kernel counts otherwise
                used = await trio.to_thread.run_sync(_usage, Cgroup(cgroup))
                if not live.exited:  # its end has said what it used
                    live.measured(outcome.usage(used), live.job.output)
            return
        before = live.measurements
        await live.link.send(protocol.USAGE, {})
        with trio.move_on_after(SHIM_ANSWER_S):
            while live.measurements == before and not live.exited:
                await live.changed()

    # -- its limits --------------------------------------------------------------------------

    async def update(self, live: LiveJob, request: Update, impose: Impose) -> None:
        """Change limits of the job: on the disk first, so that a restart does not forget it.

        Args:
            live: the job.
            request: what was asked.
            impose: asks the plugins for limits, which hold here as well.

        Raises:
            JobsError: `failed_precondition`: it has ended; `invalid_argument`: it is over the
                maximum, or over a plugin's; `resource_exhausted`: the disk does not take it.
        """
        if request.output_max_bytes is not None:
            asked = Limits(output_max_bytes=request.output_max_bytes)
            self._terms.check_change(asked, await impose())
        async with live.updating:  # each begins with what the one before it has changed
            write = await self._update(live, request)
        await write.done.wait()

    async def _update(self, live: LiveJob, request: Update) -> Write:
        _check_unended(live)
        since, now = live.record, timestamp(time.time_ns())
        failpoint("update.before-record", live.job.id)
        write = self._store.offer(evolve(since, job=_changed(since.job, request, now)))
        # One try of the disk, and one packet: a client that goes away must not part disk and shim.
        with trio.CancelScope(shield=True):
            await written(write, "nothing was changed")
            failpoint("update.recorded", live.job.id)
            _check_unended(live)
            same = live.record is since
            live.record = evolve(live.record, job=_changed(live.job, request, now))
            if not same:  # what was written of the job meanwhile knows nothing of this
                write = self._store.post(live.record)
            await live.tell_limits()
        return write


def _usage(cgroup: Cgroup) -> dict[str, object]:
    """Read what a job uses.

    Raises:
        OSError: its cgroup is gone; what was read is nothing.
    """
    used = cgroup.usage()
    Path(str(cgroup.track)).stat()  # made first and removed first
    return used


def _check_unended(live: LiveJob) -> None:
    if live.exited or live.ending:
        raise JobsError(
            "failed_precondition", f"job {live.job.short_id} has ended: nothing can be changed"
        )


def _changed(job: Job, request: Update, now: str) -> Job:
    """Give the job with the limits that were asked for."""
    job = evolve(job, updated_at=now)
    if (cap := request.output_max_bytes) is not None:
        by = {k: v for k, v in job.limited_by.items() if k != "output_max_bytes"}
        limits = evolve(job.limits, output_max_bytes=cap)
        job = evolve(job, limits=limits, limited_by=by)
    if request.timeout_s is not None:
        job = evolve(job, timeout_s=request.timeout_s)
    return job


def _link(live: LiveJob) -> ShimLink:
    if live.link is None:
        why = live.trouble or "the job's shim is being looked for; try again"
        raise JobsError("unavailable", f"job {live.job.short_id}: {why}")
    return live.link

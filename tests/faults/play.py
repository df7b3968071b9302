"""Plays a schedule: clients ask, processes die, everything ends; gives the history."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest import mock

import schedule
import trio
from asking import Asking
from attrs import frozen
from history import History
from occasion import Fault
from schedule import DESCRIPTORS, DISK, Schedule
from world import World

from jobs_certs import authority, init, issue
from jobs_proto.errors import JobsError
from jobs_proto.files import BLOCK
from jobs_proto.job import Job
from jobs_rpc import Client

SETTLE_S = 180.0
"""How long everything may take to end, on a host that has much else to do: what hangs, hangs."""

EARLIER = timedelta(days=1)
"""Certificates are valid from so long ago: clocks are set back by more than they allow for."""

ASK_S = 10.0
"""How long a supervisor that was found wanting may take to say what it has."""

CAPS = ("max_running", "max_queued")

REFUSALS = {
    DISK: frozenset({"resource_exhausted"}),
    DESCRIPTORS: frozenset({"resource_exhausted"}),
}


@frozen
class Played:
    """What came of a schedule.

    Attributes:
        history: for the checker.
        reached: names of failpoints that somebody came by.
        starts: of the supervisor.
        faults: that are no kills: what, and how often.
        log: the supervisor's.
    """

    schedule: Schedule
    history: History
    reached: set[str]
    starts: int
    faults: Counter[str]
    log: str


@contextmanager
def certificates() -> Iterator[Path]:
    """Give a folder with what `--dev` would make for each supervisor anew."""
    with tempfile.TemporaryDirectory() as folder:
        certs = Path(folder) / "certs"
        with mock.patch.object(authority, "BACKDATE", EARLIER):
            init(certs, name="Jobs development CA")
            issue(certs, "server", role="server", sans=["localhost", "127.0.0.1", "::1"])
            for name, role in (("admin", "admin"), ("alice", "operator"), ("viewer", "viewer")):
                issue(certs, name, role=role)
        yield certs


def play(seed: int, certs: Path, folder: Path) -> Played:
    """Play the schedule of a seed.

    Args:
        seed: any number.
        certs: of `certificates`.
        folder: to be made, and removed at the end; where jobs and inits see it as we do.
    """
    folder.mkdir()
    try:
        return _play(schedule.make(seed, folder / "scratch"), certs, folder)
    finally:
        shutil.rmtree(folder)


def _play(made: Schedule, certs: Path, folder: Path) -> Played:
    world = World(schedule=made, folder=folder, certs=certs)
    history = History(
        **{name: made.jobs[name] for name in CAPS},
        max_running_per_owner=made.quotas["running"],
        kept=made.keep_jobs,
        gaps_allowed=made.host == DISK,
        refusals_allowed=REFUSALS.get(made.host, frozenset()),
    )
    try:
        trio.run(_Play(world, history).run)
    finally:
        world.end()
    history.kills = world.damage.all_kills()
    history.executed = world.executed()
    history.faults += world.faults
    return Played(
        schedule=made,
        history=history,
        reached=world.failpoints.reached(),
        starts=world.starts,
        faults=world.damage.done,
        log=world.supervisor.log.read_text(errors="replace"),
    )


class _Play:
    def __init__(self, world: World, history: History) -> None:
        self._world = world
        self._history = history
        self._askers: list[Asking] = []

    async def run(self) -> None:
        world = self._world
        async with trio.open_nursery() as nursery:
            await nursery.start(world.proxy.run)
            await nursery.start(world.keep)
            async with world.client("dev") as admin, world.client("dev-alice") as alice:
                clients = {"dev": admin, "dev-alice": alice}
                for client in clients.values():
                    await client.hello()  # a client waits only for who has answered once
                try:
                    with trio.fail_after(schedule.LASTS_S + SETTLE_S):
                        await self._play(clients)
                        self._history.listed = await self._list(admin)
                except trio.TooSlowError:
                    self._history.faults += [f"not all ended within {SETTLE_S:g} s", *self._open()]
                    self._history.cut_short = True
                    self._history.faults += await self._unfinished(admin)
                    nursery.cancel_scope.cancel()
                    return
            left = partial(world.left, {job.id for job in self._history.listed})
            self._history.faults += await trio.to_thread.run_sync(left)
            world.stopping = True
            nursery.cancel_scope.cancel()

    async def _play(self, clients: dict[str, Client]) -> None:
        async with trio.open_nursery() as nursery:
            for part in self._world.schedule.parts:
                asker = Asking(clients[part.context], part)
                self._askers.append(asker)
                self._history.told[part.work.key] = asker.told
                nursery.start_soon(asker.run)
            async with trio.open_nursery() as breaking:
                for fault in self._world.schedule.faults:
                    breaking.start_soon(self._break, fault)
            self._world.heal()
            nursery.start_soon(self._end_all)
        self._world.failpoints.disarm()
        for asker in self._askers:
            if asker.told.job is not None:
                await asker.conclude()
        for number, point in self._world.schedule.removals:
            await self._remove(self._askers[number], point)
        self._world.failpoints.disarm()

    async def _list(self, client: Client) -> list[Job]:
        """List all jobs at the end; if only some are to be kept, when there are no more."""
        kept = self._world.schedule.keep_jobs
        if kept is not None:
            await self._world.retain(kept)
        while True:
            with suppress(JobsError):
                jobs = await client.list(all=True)
                if kept is None or len(jobs) <= kept:
                    return jobs
            await trio.sleep(0.05)

    async def _remove(self, asker: Asking, point: str) -> None:
        if asker.told.final is not None:
            if point:
                self._world.failpoints.arm(point)
            await asker.remove()

    def _open(self) -> list[str]:
        """Give the calls that have no answer."""
        return [
            f"{asker.told.work.key}: no answer to {what}"
            for asker in self._askers
            for what in asker.told.unanswered()
        ]

    async def _unfinished(self, client: Client) -> list[str]:
        """Give the jobs that have not ended."""
        with trio.move_on_after(ASK_S):
            try:
                jobs = await client.list()
            except JobsError as error:
                return [f"list: {error}"]
            return [f"{job.name} ({job.id}) is {job.phase}" for job in jobs]
        return ["list: no answer"]

    async def _break(self, fault: Fault) -> None:
        await trio.sleep(fault.at)
        await self._world.damage.do(fault.what, fault.options)

    async def _end_all(self) -> None:
        """Have those that would go on for ever, or were paused, end."""
        async with trio.open_nursery() as nursery:
            for asker in self._askers:
                nursery.start_soon(self._end, asker)

    async def _end(self, asker: Asking) -> None:
        await asker.acted.wait()
        if asker.told.refused is not None and asker.told.refused.code == "unavailable":
            await asker.find()
        if asker.told.job is None:
            return
        if asker.told.work.policy == BLOCK:
            await asker.update_surely()
        if asker.told.work.code is None or asker.told.asked("pause"):
            await asker.kill_surely()

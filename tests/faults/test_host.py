"""What a host in trouble may do to jobs: each kind of trouble by itself, step by step."""

import os
import random
import signal
import tempfile
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path

import harness
import pytest
import trio
import workload
from play import certificates
from schedule import CALM, CLOCK, DESCRIPTORS, DISK, Part, Schedule
from world import FAKETIME, World

from jobs_proto.errors import JobsError
from jobs_rpc import Chunk, Gap

pytestmark = pytest.mark.root

DEADLINE_S = 60.0

SETTINGS = {"max_running": 10, "max_queued": 10, "grace_s": 0.3}
QUOTAS = {"running": 10}


@pytest.fixture(scope="module")
def certs():
    with certificates() as folder:
        yield folder


def _schedule(trouble, settings, parts=()):
    return Schedule(
        seed=0,
        point="",
        host=trouble,
        parts=parts,
        faults=(),
        removals=(),
        jobs=settings,
        quotas=QUOTAS,
        keep_jobs=None,
    )


@asynccontextmanager
async def host(trouble, certs, **settings):
    """Give a supervisor on such a host, a client, and a nursery; at the end, nothing is left."""
    schedule = _schedule(trouble, {**SETTINGS, **settings})
    with tempfile.TemporaryDirectory(prefix="jobs-faults-", dir="/var/lib") as folder:
        Path(folder).chmod(0o755)
        world = World(schedule=schedule, folder=Path(folder), certs=certs)
        try:
            with trio.fail_after(DEADLINE_S):
                async with trio.open_nursery() as nursery:
                    await nursery.start(world.proxy.run)
                    await nursery.start(world.keep)
                    async with world.client("dev") as client:
                        yield world, client, nursery
                        listed = {job.id for job in await client.list(all=True)}
                    assert await trio.to_thread.run_sync(world.left, listed) == []
                    world.stopping = True
                    nursery.cancel_scope.cancel()
        finally:
            world.end()
        assert world.faults == []


async def until(is_so):
    """Wait for what nothing can wake us for."""
    while not is_so():
        await trio.sleep(0.01)


def follower(client, job, items, nursery):
    async def follow():
        async for item in client.follow(job.id):
            items.append(item)

    nursery.start_soon(follow)


async def test_a_full_disk_costs_output_and_new_jobs_and_nothing_else(certs):
    async with host(DISK, certs) as (world, client, nursery):
        gate = world.scratch / workload.GATE
        script = f"echo before; read -r go < {gate}; seq 100000; read -r go < {gate}; echo after"
        job = await harness.until_running(client, await client.run(["sh", "-c", script]))
        items = []
        follower(client, job, items, nursery)
        nursery.start_soon(world.damage.fill_disk, inf)
        await until(lambda: world.damage.done["disk filled"])
        with pytest.raises(JobsError) as refusal:
            await client.run(["true"])
        assert refusal.value.code == "resource_exhausted"
        world.gate.say("go")
        await until(lambda: any(isinstance(item, Gap) for item in items))
        assert (await client.inspect(job.id)).phase == "running"
        world.damage.heal()
        world.gate.say("go")
        ended = await client.wait(job.id)
        assert (ended.outcome, ended.output.lost > 0) == ("completed", True)
        await until(lambda: items[-1].__class__.__name__ == "End")
        assert [item for item in items if isinstance(item, Chunk)][-1].data.endswith(b"after\n")
        assert (await client.wait((await client.run(["true"])).id)).outcome == "completed"
        await world.damage.kill_supervisor(for_s=0.0)
        assert await client.wait(job.id) == ended


async def test_an_end_that_is_being_written_down_is_not_changed_any_more(certs):
    async with host(DISK, certs) as (world, client, nursery):
        # Its record is large: what room SQLite's file happens to have left will not do.
        job = await client.run(["sh", "-c", "echo on; sleep 1000"], env={"LARGE": "x" * 100_000})
        await harness.until_running(client, job)
        nursery.start_soon(world.damage.fill_disk, inf)
        await until(lambda: world.damage.done["disk filled"])
        os.kill(world.supervisor.shim(job), signal.SIGKILL)
        await until(lambda: "a job is lost" in world.supervisor.said())
        await until(lambda: "cannot write records" in world.supervisor.said())
        with pytest.raises(JobsError) as refusal:
            await client.update(job.id, output_max_bytes=1)
        assert refusal.value.code == "failed_precondition"
        world.damage.heal()
        assert (await client.wait(job.id)).outcome == "lost"


async def test_without_descriptors_requests_wait_and_jobs_go_on(certs):
    async with host(CALM, certs) as (world, client, nursery):
        gate = world.scratch / workload.GATE
        script = f"echo before; read -r go < {gate}; echo after"
        job = await harness.until_running(client, await client.run(["sh", "-c", script]))
        items, served = [], trio.Event()
        follower(client, job, items, nursery)
        await until(lambda: items)

        async def come():
            async with world.client("dev") as other:
                await other.run(["true"])
                served.set()

        await world.supervisor.spare(running=1)  # whose making takes some for a moment
        nursery.start_soon(world.damage.take_descriptors, 0, inf)
        await until(lambda: world.damage.done["descriptors taken"])
        nursery.start_soon(come)
        with pytest.raises(JobsError) as refusal:
            await client.inspect(job.id)
        assert (refusal.value.code, "Too many open files" in str(refusal.value)) == (
            "unavailable",
            True,
        )
        await until(lambda: "connections have to wait" in world.supervisor.said())
        assert not served.is_set()
        world.gate.say("go")
        await until(lambda: b"after\n" in [getattr(item, "data", None) for item in items])
        world.damage.give_descriptors()
        await served.wait()
        assert {(await client.wait(job.id)).outcome for job in await client.list(all=True)} == {
            "completed"
        }


async def test_a_supervisor_with_few_descriptors_runs_jobs_all_the_same(certs):
    async with host(DESCRIPTORS, certs) as (_world, client, _nursery):
        jobs = [await client.run(["true"]) for _ in range(8)]
        assert [(await client.wait(job.id)).outcome for job in jobs] == ["completed"] * 8


@pytest.mark.skipif(not FAKETIME.exists(), reason="needs libfaketime: make test-packages")
async def test_a_clock_that_is_set_back_changes_no_order_and_no_deadline(certs):
    async with host(CLOCK, certs, max_running=1) as (world, client, _nursery):
        gate = world.scratch / workload.GATE
        first = await client.run(["sh", "-c", f"echo on; read -r go < {gate}"])
        await harness.until_running(client, first)
        second = await client.run(["true"])
        await world.damage.set_clock_back(by_s=3600)
        third = await client.run(["sleep", "1000"], timeout_s=0.2)
        assert third.created_at < first.created_at  # it has
        await world.damage.kill_supervisor(for_s=0.0)
        world.gate.say("go")
        ended = [await client.wait(job.id) for job in (first, second, third)]
        assert [job.outcome for job in ended] == ["completed", "completed", "timed_out"]
        starts = [job.started_at for job in ended]
        assert starts == sorted(starts)
        assert [job.id for job in await client.list(all=True)] == [third.id, second.id, first.id]


def test_a_secret_that_can_still_be_read_is_found(certs, tmp_path):
    work = workload.make("secret", "s0j0", tmp_path / "scratch", random.Random(1))
    part = Part(at=0.0, context="dev", priority=0, twice=False, work=work, acts=())
    schedule = _schedule(CALM, SETTINGS, (part,))
    world = World(schedule=schedule, folder=tmp_path, certs=certs)
    try:
        assert world.secrets_told() == []
        found = world.supervisor.directory / "found"
        found.write_bytes(b"before " + work.secrets["token"] + b" after")
        assert world.secrets_told() == [f"a secret in {found}"]
    finally:
        world.gate.close()

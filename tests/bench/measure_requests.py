"""Requests that only ask, on connections that are open, with many finished jobs on record."""

import uuid
from functools import partial
from pathlib import Path

import trio
from attrs import evolve
from bench import Bench, Sample, Stopwatch
from figures import REQUESTS
from peers import TRUE

from jobs_rpc import Client
from jobs_supervisor.store import Store

CLIENTS = 8
NEWEST = 20
RUNNING = 10
ALL = f"list --all, {NEWEST}"


async def requests(bench: Bench) -> None:
    """Eight clients, each of which asks again when it was answered."""
    job = await bench.complete([TRUE])
    bench.supervisor.stop()
    await _fill(bench.supervisor.state / "jobs.sqlite", job.id, bench.scale.records)
    bench.supervisor.start()
    params: dict[str, dict[str, object]] = {
        "list": {},
        "inspect": {"id": job.id},
        "whoami": {},
        ALL: {"all": True, "limit": NEWEST},
    }
    assert params.keys() == {*REQUESTS, ALL}
    async with bench.sleepers(min(RUNNING, bench.scale.records)):
        times: dict[str, list[float]] = {name: [] for name in params}
        contestants: dict[str, Sample] = {
            name: partial(_ask, bench, name.partition(" ")[0], each, times[name])
            for name, each in params.items()
        }
        await bench.alternate("requests", contestants, bench.scale.bulk_rounds)
    for name, each in times.items():
        bench.results.add("answers", name, each[CLIENTS * bench.scale.requests :])  # the warm-up


async def _fill(path: Path, job_id: str, count: int) -> None:
    """Have so many records more in the supervisor's store, as if that job had been run so often."""
    store = Store(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        record = store.get(job_id)
        assert record is not None
        for _ in range(count):
            job = evolve(record.job, id=str(uuid.uuid4()))
            last = store.offer(evolve(record, job=job, request_id=None))
        await last.done.wait()
        nursery.cancel_scope.cancel()
    store.close()


async def _ask(bench: Bench, method: str, params: dict[str, object], times: list[float]) -> float:
    """Ask from all clients; give answers per second, and note the time of each, in ms."""

    async def ask(client: Client) -> None:
        for _ in range(bench.scale.requests):
            watch = Stopwatch()
            await client.call(method, params)
            times.append(watch.ms)

    async with trio.open_nursery() as nursery:
        clients = [await nursery.start(_connected, bench) for _ in range(CLIENTS)]
        watch = Stopwatch()
        async with trio.open_nursery() as asking:
            for client in clients:
                asking.start_soon(ask, client)
        rate = CLIENTS * bench.scale.requests / watch.s
        nursery.cancel_scope.cancel()
    return rate


async def _connected(bench: Bench, task_status: trio.TaskStatus[Client]) -> None:
    async with bench.supervisor.client() as client:
        await client.hello()
        task_status.started(client)
        await trio.sleep_forever()

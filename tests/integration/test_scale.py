"""A thousand sleeping jobs, a hundred thousand finished ones: what they cost, and a restart.

The figures are printed (`pytest -s`). Memory is asserted. Time is not, but for generous multiples
of the aims, since others may use this machine: a cost that grows with the work would be beyond.
"""

import re
import time
import uuid
from pathlib import Path

import proctable
import pytest
import trio
import wire
from harness import in_thread

from jobs_proto.job import Exit, Job, Spec, timestamp
from jobs_proto.phases import Outcome, Phase
from jobs_supervisor.store import Record, Store

JOBS = 1000
ABREAST = 8
FINISHED = 100_000

PAIR_KB = 976
"""Of memory for a shim and its init, to which a supervisor has come back: 1 GB for a thousand.

855 to 909 were seen.
"""

SERVING_S, FOUND_S, LIST_S = 1.0, 3.0, 0.05
"""The aims, on two cores that have nothing else to do."""

PATIENCE = 20
"""How many times as long anything may take here; ten times were seen on a busy machine."""


def say(text: str) -> None:
    print(f"\n  {text}", end="")  # noqa: T201  # figures are for people


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def start(supervisor) -> float:
    """Start it; give the time until a client was answered."""
    supervisor.process = supervisor.spawn()
    begin = time.monotonic()
    while True:
        try:
            with wire.Wire(supervisor) as client:
                assert client.call("whoami", {})[0] is None
                break
        except ConnectionRefusedError:
            assert supervisor.running
            time.sleep(0.005)
    taken = time.monotonic() - begin
    supervisor.process.stdout.readline()
    supervisor.process.stdout.close()
    say(f"answered a client after {taken:.2f} s, {cpu_s(supervisor.pid):.2f} s of CPU time")
    return taken


@pytest.mark.root
async def test_a_thousand_sleeping_jobs(supervisor):
    pairs = [(shim, init) async for shim, init in _sleepers(supervisor)]
    _weigh(pairs, "launched")
    await in_thread(supervisor.kill)
    assert await in_thread(start, supervisor) < SERVING_S * PATIENCE
    found, seconds = await _found(supervisor)
    say(f"{found} after {seconds} s")
    assert found == f"reattached={JOBS}"
    assert seconds < FOUND_S * PATIENCE
    assert _weigh(pairs, "found again") <= PAIR_KB
    before = cpu_s(supervisor.pid)
    await trio.sleep(2)  # a time in which it should do nothing
    idle = cpu_s(supervisor.pid) - before
    say(
        f"supervisor: {proctable.pss_kb(supervisor.pid)} kB PSS, {idle / 2:.1%} of a CPU while idle"
    )
    assert idle < 0.2


async def _sleepers(supervisor):
    """Launch them; give the pids of each one's shim and init."""
    async with supervisor.client() as client:
        limit, jobs = trio.CapacityLimiter(ABREAST), []

        async def one():
            async with limit:
                jobs.append(await client.run(["sleep", "100000"]))

        async with trio.open_nursery() as nursery:
            for _ in range(JOBS):
                nursery.start_soon(one)
        while any(job.phase != "running" for job in await client.list(limit=JOBS)):
            await trio.sleep(0.1)
    for job in jobs:
        shim = supervisor.shim(job)
        yield shim, int(Path(f"/proc/{shim}/task/{shim}/children").read_text())


def _weigh(pairs, when: str) -> float:
    shims, inits = (sum(map(proctable.pss_kb, pids)) for pids in zip(*pairs, strict=True))
    mean = (shims + inits) / len(pairs)
    total = (shims + inits) * 1024 / 1e9
    say(f"{when}: {mean:.0f} kB PSS for a shim ({shims / len(pairs):.0f}) and its init;")
    say(f"  {total:.2f} GB for {len(pairs)} of them")
    return mean


async def _found(supervisor) -> tuple[str, float]:
    """Wait for the supervisor's own count of what it has found; give counts and seconds."""
    while True:
        log = supervisor.log.read_text().rpartition(" serving ")[2]
        if line := re.search(r"all jobs found again +(.*) seconds=(\S+)", log):
            return line[1], float(line[2])
        await trio.sleep(0.05)


async def test_a_hundred_thousand_finished_jobs(make_supervisor):
    supervisor = make_supervisor()  # which makes certificates and an empty store
    supervisor.stop()
    ids = await _fill(supervisor)
    assert await in_thread(start, supervisor) < SERVING_S * PATIENCE
    with wire.Wire(supervisor) as client:
        first = _ask(client, "list", all=True, limit=50)
        assert [job["id"] for job in first["jobs"]] == ids[: -50 - 1 : -1]
        assert _time(client, "list, newest 50", "list", all=True, limit=50) < LIST_S * PATIENCE
        _time(client, "by name", "inspect", id="name-7")
        _time(client, "by the start of an id", "inspect", id=ids[500][:12])
    begin = time.monotonic()
    await in_thread(supervisor.cli, "list", "--all", "--limit", "50")
    say(f"jobsctl list: {time.monotonic() - begin:.2f} s, with its own start")
    say(f"supervisor: {proctable.pss_kb(supervisor.pid)} kB PSS")


async def _fill(supervisor) -> list[str]:
    """Write their records down as the supervisor does, each with its directory; give the ids."""
    directories = supervisor.state / "jobs"
    store = Store(supervisor.state / "jobs.sqlite")
    ids = [str(uuid.uuid4()) for _ in range(FINISHED)]
    now = timestamp(time.time_ns())
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        for number, ident in enumerate(ids):
            job = Job(
                id=ident,
                owner="alice",
                name=f"name-{number % 1000}",
                labels={},
                priority=0,
                spec=Spec(argv=("true",)),
                phase=Phase.EXITED,
                outcome=Outcome.COMPLETED,
                created_at=now,
                finished_at=now,
                exit=Exit(code=0),
            )
            (directories / ident).mkdir()
            write = store.post(Record(job=job))
            if number % 5000 == 0:
                await write.done.wait()
        nursery.cancel_scope.cancel()  # what was posted is committed before it ends
    store.close()
    return ids


def _ask(client, method: str, **params):
    error, result = client.call(method, params)
    assert error is None, error
    return result


def _time(client, what: str, method: str, **params) -> float:
    """Give the median time of an answer, in seconds."""
    times = []
    for _ in range(21):
        begin = time.monotonic()
        _ask(client, method, **params)
        times.append(time.monotonic() - begin)
    median = sorted(times)[len(times) // 2]
    say(f"{what}: {median * 1000:.1f} ms")
    return median

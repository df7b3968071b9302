"""Many jobs that run and do nothing: what they cost, what the next one costs, and a restart."""

import time

import proctable
import trio
from bench import Bench, Stopwatch, until_started
from figures import FEW, MANY, SHIMS, SUPERVISOR
from measure_memory import of_monitors, pss_mb
from peers import TRUE

from jobs_proto.job import Job

ABREAST = 32
"""Jobs that are being started at the same time."""

KB_A_JOB = 20
"""What the supervisor may need for each running job."""

_CPUCLOCK_SCHED = 2
"""Of a process's clock, as the C library makes its number: in ns, and all threads together."""

REATTACH_S = 120.0
"""How long a restarted supervisor may take before we give up on it."""


async def crowd(bench: Bench) -> None:
    """Grow in steps; look at each of them, and at the last one more closely."""
    jobs: list[Job] = []
    least, *_, most = bench.scale.crowd
    names = {least: FEW, most: MANY}
    try:
        for step in bench.scale.crowd:
            jobs += await _start(bench, step - len(jobs))
            await _cost(bench, jobs, names.get(step, f"{step} run"))
        memory = pss_mb(bench.supervisor.pid) - len(jobs) * KB_A_JOB / 1000
        bench.results.add("supervisor-memory", SUPERVISOR, [memory])
        await _idle(bench, jobs)
        for _ in range(bench.scale.bulk_rounds):
            await _restart(bench, len(jobs))
    finally:
        with trio.CancelScope(shield=True):
            await bench.kill(jobs)


async def _start(bench: Bench, count: int) -> list[Job]:
    limit = trio.CapacityLimiter(ABREAST)
    jobs: list[Job] = []

    async def one() -> None:
        async with limit:
            job = await bench.run(["sleep", "1000000"])
            jobs.append(job)
            await until_started(bench.client, job)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return jobs


async def _cost(bench: Bench, jobs: list[Job], name: str) -> None:
    """Measure a launch beside so many, and what each of these has of memory."""

    async def launch() -> float:
        watch = Stopwatch()
        await bench.complete([TRUE])
        return watch.ms

    await bench.alternate("growth-launch", {name: launch}, bench.scale.crowd_rounds)
    bench.results.add("growth-memory", name, of_monitors(bench, jobs))


async def _idle(bench: Bench, jobs: list[Job]) -> None:
    """Count the CPU time of the supervisor, and of all shims and inits, while nobody asks."""
    shims = {bench.supervisor.shim(job) for job in jobs}
    inits = {process.pid for process in proctable.processes() if process.parent in shims}
    pids = {SUPERVISOR: {bench.supervisor.pid}, SHIMS: shims | inits}
    before = {name: sum(map(cpu_s, each)) for name, each in pids.items()}
    watch = Stopwatch()
    await trio.sleep(bench.scale.idle_s)  # the one thing here that is to last for a time
    elapsed = watch.s
    for name, each in pids.items():
        used = sum(map(cpu_s, each)) - before[name]
        bench.results.add("idle", name, [100 * used / elapsed])


def cpu_s(pid: int) -> float:
    """Give the CPU time that a process has had, in seconds: clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)


async def _restart(bench: Bench, shims: int) -> None:
    """Kill the supervisor; measure until another one answers, and until it has all the shims."""
    supervisor = bench.supervisor
    supervisor.kill()
    watch = Stopwatch()
    supervisor.start()
    async with supervisor.client() as client:  # the other one has yet to learn of its loss
        await client.hello()
    bench.results.add("serving", SUPERVISOR, [watch.s])
    with trio.fail_after(REATTACH_S):
        while _unix_sockets(supervisor.pid) < shims:
            await trio.sleep(0.01)
    bench.results.add("reattach", SUPERVISOR, [watch.s])


def _unix_sockets(pid: int) -> int:
    """Count the sockets of a process: one for each shim that it has, and a few others."""
    return sum(what.startswith("socket:") for what in proctable.open_files(pid).values())

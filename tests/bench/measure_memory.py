"""What a job that runs costs in memory, beside the command itself."""

import proctable
from bench import FAULTS, Bench

from jobs_proto.job import Job


async def job_memory(bench: Bench) -> None:
    """Shim and init of ours; the monitors of others. It is the same whenever one looks."""
    async with bench.sleepers(bench.scale.sleepers) as jobs:
        bench.results.add("job-memory", "jobs", of_monitors(bench, jobs))
    for name, peer in bench.peers.items():
        if peer.monitors:
            try:
                with peer.sleeper(bench.ident()) as pids:
                    bench.results.add("job-memory", name, [sum(map(pss_mb, pids))])
            except FAULTS as error:
                bench.results.faults.append(f"job-memory, {name}: {error}")


def of_monitors(bench: Bench, jobs: list[Job]) -> list[float]:
    """Give, for each of these running jobs, the PSS of its shim and its init together, in MB."""
    inits: dict[int, float] = {}
    shims = {bench.supervisor.shim(job) for job in jobs}
    for process in proctable.processes():
        if process.parent in shims:
            inits[process.parent] = pss_mb(process.pid)
    assert inits.keys() == shims, "a running job without an init"
    return [pss_mb(shim) + inits[shim] for shim in shims]


def pss_mb(pid: int) -> float:
    """Give a process's proportional set size, proc_pid_smaps_rollup(5), in MB."""
    return proctable.pss_kb(pid) * 1024 / 1e6

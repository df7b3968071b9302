"""Measures, and reports: `python tests/bench/run_bench.py`, as root; see README.md beside it.

Needs a quiet machine for figures that mean something, and says at the end how quiet it was. The
exit status says whether everything was measured, not whether every goal was reached.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

import trio

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "integration")]

import harness  # noqa: E402
import machine  # noqa: E402
import table  # noqa: E402
from bench import FAULTS, Bench, say, started  # noqa: E402
from measure_crowd import crowd  # noqa: E402
from measure_following import followers, latency  # noqa: E402
from measure_launch import launch, throughput  # noqa: E402
from measure_memory import job_memory  # noqa: E402
from measure_output import follow, write  # noqa: E402
from measure_requests import requests  # noqa: E402
from oci import Conmon, Containerd, Runc  # noqa: E402
from peers import Bare, Bubblewrap, Peer, TaskSpooler  # noqa: E402
from plot import to_svg  # noqa: E402
from results import Results  # noqa: E402
from scale import FULL, SMOKE, Scale  # noqa: E402
from slurm import Slurm  # noqa: E402

Group = Callable[[Bench], Awaitable[None]]

PEERED: dict[str, Group] = {
    "launch": launch,
    "throughput": throughput,
    "job-memory": job_memory,
    "write": write,
}
ALONE: dict[str, Group] = {
    "latency": latency,
    "followers": followers,
    "follow": follow,
    "crowd": crowd,
    "requests": requests,
}
"""In which no peer takes part; their daemons have ended by then."""

GROUPS = {**PEERED, **ALONE}

PEERS: tuple[type[Peer], ...] = (Bare, TaskSpooler, Bubblewrap, Runc, Conmon, Slurm, Containerd)

MAX_RUNNING = 4000
"""More than any figure has at once: nothing waits in a queue here."""

MAX_REQUESTS = 1_000_000
"""A second: no quota is measured here."""


async def measure(scale: Scale, groups: Collection[str], directory: Path, results: Results) -> None:
    """Measure these groups; a group that fails is noted, and the next one has its turn."""
    supervisor = harness.Supervisor(
        directory / "supervisor",
        jobs={"max_running": MAX_RUNNING},
        quotas={"running": MAX_RUNNING, "requests_per_s": MAX_REQUESTS, "burst": MAX_REQUESTS},
    )
    try:
        supervisor.start()
        async with supervisor.client() as client:
            for part, kinds in ((PEERED, PEERS), (ALONE, ())):
                chosen = [name for name in part if name in groups]
                peers = [kind() for kind in kinds if chosen]
                with started(peers, directory, results) as there:
                    bench = Bench(directory, scale, supervisor, client, there, results)
                    for name in chosen:
                        await _measure(bench, name)
    finally:
        supervisor.end_clients()
        results.faults += supervisor.end()


async def _measure(bench: Bench, name: str) -> None:
    began = time.monotonic()
    try:
        await GROUPS[name](bench)
    except* FAULTS as group:
        why = "; ".join(repr(each) for each in _leaves(group))
        bench.results.faults.append(f"{name}: {why}")
    say(f"{name:<12} {time.monotonic() - began:6.1f} s")


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf
        for each in group.exceptions
        for leaf in (_leaves(each) if isinstance(each, BaseExceptionGroup) else [each])
    ]


def bench(scale: Scale, groups: Collection[str], out: Path) -> Results:
    """Measure, and write `results.json`, `table.md` and `plot.svg` into a folder."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir=_place()) as folder:
        about = {
            "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            **machine.describe(Path(folder)),
            "load before": machine.load(),
        }
        trio.run(measure, scale, groups, Path(folder), results)
        about["load after"] = machine.load()
    about |= {peer.name: peer.version for kind in PEERS if (peer := kind()).version}
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(table.to_json(results, about))
    (out / "table.md").write_text(table.to_markdown(results, about))
    (out / "plot.svg").write_text(to_svg(results))
    return results


def _place() -> str:
    """Give where the state is: on a disk, as a supervisor's is, and not hidden from its jobs."""
    return "/var/tmp"  # /tmp may be in memory, where fsync costs nothing


def main(argv: list[str] | None = None) -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="tiny: shows that the harness works")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="DIR")
    arguments = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("not root: the bench needs cgroups and namespaces; run it as root", file=sys.stderr)
        return 2
    # As Ctrl-C: everything is ended and removed on the way out.
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    results = None
    try:
        results = bench(SMOKE if arguments.smoke else FULL, arguments.only, arguments.out)
    except* KeyboardInterrupt:  # from within whichever nursery
        pass
    if results is None:
        say("interrupted; everything was ended")
        return 130
    print((arguments.out / "table.md").read_text())
    say(f"written: {', '.join(str(path) for path in sorted(arguments.out.iterdir()))}")
    return 1 if results.faults else 0


if __name__ == "__main__":
    sys.exit(main())

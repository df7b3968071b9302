"""Where the time of a launch goes: `python tests/bench/profile_launch.py [LAUNCHES]`, as root.

The failpoints (`jobs_proto/failpoint.py`) are names for every step that means something, in every
process that takes part. Switched on, and none of them armed, each tries one rename(2) that fails;
strace(1), stopping processes at nothing else (`--seccomp-bpf`), writes down when. So the code that
is measured is the code that runs. It costs each process that is forked or executed some 0.1 ms:
the total with and without is printed, and the difference belongs to no step.
"""

import os
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / part) for part in ("bench", "integration", "faults")]

import harness  # noqa: E402
import proctable  # noqa: E402
import trio  # noqa: E402
from bench import LIMITS  # noqa: E402
from failpoints import Failpoints  # noqa: E402
from peers import TRUE  # noqa: E402

LAUNCHES = 30
WARM_UPS = 5
STRACE = ["strace", "-f", "--seccomp-bpf", "-ttt", "-e", "trace=rename", "-o"]

_COME_BY = re.compile(r'^\d+ +([0-9.]+) rename\("[^"]*/armed/([^"]+)"')


class Launch(NamedTuple):
    """One of them, as its client sees it; seconds since the epoch."""

    asked: float
    answered: float
    known: float


async def launches(supervisor: harness.Supervisor, count: int) -> list[Launch]:
    """Run `TRUE` so often, each when all of the last one is over."""
    found = []
    async with supervisor.client() as client:
        for _ in range(WARM_UPS + count):
            asked = time.time()
            job = await client.run([TRUE], limits=LIMITS)
            answered = time.time()
            job = await client.wait(job.id)
            found.append(Launch(asked, answered, time.time()))
            assert job.outcome == "completed", f"it ended {job.outcome}: {job.exit}"
            proctable.wait_gone(supervisor.shim(job), harness.SHIM_END_S)
    return found[WARM_UPS:]


def steps(trace: str, found: list[Launch]) -> dict[str, list[float]]:
    """Give, for each step that launches came by, the ms since each was asked for; in order."""
    events = [(float(m[1]), m[2]) for line in trace.splitlines() if (m := _COME_BY.match(line))]
    times: dict[str, list[float]] = defaultdict(list)
    for launch in found:
        own = [(launch.answered, "client: run answered"), (launch.known, "client: exit known")]
        seen: Counter[str] = Counter()
        for when, name in sorted([*events, *own]):
            if launch.asked <= when <= launch.known:
                seen[name] += 1  # a commit comes more than once
                nth = name if seen[name] == 1 else f"{name}, again"
                times[nth].append(1e3 * (when - launch.asked))
    usual = [name for name, each in times.items() if len(each) > len(found) / 2]
    order = sorted(usual, key=lambda name: statistics.median(times[name]))
    return {name: times[name] for name in order}


def profile(directory: Path, count: int) -> str:
    """Measure without tracing and with; give the table."""
    untraced = run(harness.Supervisor(directory / "plain"), count)
    trace, points = directory / "trace", Failpoints(directory / "points")
    supervisor = harness.Supervisor(directory / "traced")
    supervisor.prefix = ["env", points.setting, *STRACE, str(trace)]
    traced = run(supervisor, count)
    rows, last = [("step", "ms since `run`", "ms since the step before"), ("---",) * 3], 0.0
    for name, times in steps(trace.read_text(), traced).items():
        at = statistics.median(times)
        rows.append((name, f"{at:.2f}", f"{at - last:.2f}"))
        last = at
    lines = [f"| {' | '.join(row)} |" for row in rows]
    known = (statistics.median(each.known - each.asked for each in f) for f in (traced, untraced))
    told = "Exit known: {:.2f} ms traced, {:.2f} ms not.".format(*(1e3 * s for s in known))
    return "\n".join([*lines, "", told])


def run(supervisor: harness.Supervisor, count: int) -> list[Launch]:
    """Have it launch; end it, and strace with it: whom that left would miss a system call."""
    supervisor.start()
    try:
        return trio.run(launches, supervisor, count)
    finally:
        # With a prefix, the supervisor is the child of what we have started.
        (child,) = proctable.children(supervisor.pid)
        os.kill(child.pid if supervisor.prefix else supervisor.pid, signal.SIGTERM)
        assert supervisor.process is not None
        supervisor.process.wait(harness.STOP_S)


def main() -> int:
    """Measure, and print."""
    if shutil.which("strace") is None:
        print("strace is not installed: apt-get install strace", file=sys.stderr)
        return 2
    count = int(sys.argv[1]) if len(sys.argv) > 1 else LAUNCHES
    # Not in /var/tmp: init, too, sees the job's own there.
    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir="/run") as folder:
        print(profile(Path(folder), count))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Where the time of a launch goes: `python tests/bench/profile_launch.py [LAUNCHES]`, as root.

The failpoints (`jobs_proto/failpoint.py`) are names for every step that means something, in every
process that takes part; here each writes down when somebody comes by. So the code that is measured
is the code that runs. It costs some 0.03 ms for each: the total with and without is printed.
"""

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


class Launch(NamedTuple):
    """One of them, as its client sees it; ns of the monotonic clock."""

    asked: int
    answered: int
    known: int


async def launches(supervisor: harness.Supervisor, count: int) -> list[Launch]:
    """Run `TRUE` so often, each when all of the last one is over, and what it left to do done."""
    found = []
    async with supervisor.client() as client:
        for _ in range(WARM_UPS + count):
            asked = time.monotonic_ns()
            job = await client.run([TRUE], limits=LIMITS)
            answered = time.monotonic_ns()
            job = await client.wait(job.id)
            found.append(Launch(asked, answered, time.monotonic_ns()))
            assert job.outcome == "completed", f"it ended {job.outcome}: {job.exit}"
            proctable.wait_gone(supervisor.shim(job), harness.SHIM_END_S)
            await supervisor.prepared()
    return found[WARM_UPS:]


def steps(trace: str, found: list[Launch]) -> dict[str, list[float]]:
    """Give, for each step that launches came by, the ms since each was asked for; in order."""
    lines = (line.split(" ", 1) for line in trace.splitlines())
    events = [(int(when), name) for when, name in lines]
    times: dict[str, list[float]] = defaultdict(list)
    for launch in found:
        own = [(launch.answered, "client: run answered"), (launch.known, "client: exit known")]
        seen: Counter[str] = Counter()
        for when, name in sorted([*events, *own]):
            if launch.asked <= when <= launch.known:
                seen[name] += 1  # a commit comes more than once
                nth = name if seen[name] == 1 else f"{name}, again"
                times[nth].append((when - launch.asked) / 1e6)
    usual = [name for name, each in times.items() if len(each) > len(found) / 2]
    order = sorted(usual, key=lambda name: statistics.median(times[name]))
    return {name: times[name] for name in order}


def profile(directory: Path, count: int) -> str:
    """Measure without the times and with; give the table."""
    plain = run(harness.Supervisor(directory / "plain"), count)
    points = Failpoints(directory / "points")
    times = points.folder / "times"
    times.touch()
    supervisor = harness.Supervisor(directory / "timed")
    supervisor.prefix = ["env", points.setting]
    timed = run(supervisor, count)
    rows, last = [("step", "ms since `run`", "ms since the step before"), ("---",) * 3], 0.0
    for name, found in steps(times.read_text(), timed).items():
        at = statistics.median(found)
        rows.append((name, f"{at:.2f}", f"{at - last:.2f}"))
        last = at
    lines = [f"| {' | '.join(row)} |" for row in rows]
    known = (statistics.median(each.known - each.asked for each in f) for f in (timed, plain))
    told = "Exit known: {:.2f} ms with the times, {:.2f} ms without.".format(
        *(k / 1e6 for k in known)
    )
    return "\n".join([*lines, "", told])


def run(supervisor: harness.Supervisor, count: int) -> list[Launch]:
    """Have it launch; end it."""
    supervisor.start()
    try:
        return trio.run(launches, supervisor, count)
    finally:
        supervisor.stop()


def main() -> int:
    """Measure, and print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else LAUNCHES
    # On a disk, for the syncs; and not in /var/tmp: init, too, sees the job's own there.
    with tempfile.TemporaryDirectory(prefix="jobs-bench-", dir="/var/lib") as folder:
        print(profile(Path(folder), count))
    return 0


if __name__ == "__main__":
    sys.exit(main())

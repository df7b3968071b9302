"""Plays schedules and reports: `python tests/faults/run.py --schedules 500 --seed 1`.

Each schedule has a seed, one after the other from the first; `--schedules 1 --seed N` plays one
again. The exit status is 1 if anything was found that must not be, or nobody came by a failpoint.
"""

import argparse
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "integration")]

import checker  # noqa: E402
from failpoints import ARMED  # noqa: E402
from play import Played, certificates, play  # noqa: E402

COVERED_BY = 20
"""So many schedules have to come by every failpoint; else it is not where it says."""


class Report:
    """What has come of the schedules so far."""

    def __init__(self) -> None:
        self.schedules = self.jobs = self.cuts = self.follows = 0
        self.hosts: Counter[str] = Counter()
        self.roles: Counter[str] = Counter()
        self.points: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.reached: set[str] = set()
        self.violations: dict[int, list[str]] = {}

    def add(self, played: Played) -> list[str]:
        """Count a schedule in; give its violations."""
        history = played.history
        self.schedules += 1
        self.cuts += played.cuts
        self.jobs += len(history.told)
        self.follows += sum(len(told.follows) for told in history.told.values())
        self.hosts[played.schedule.host] += 1
        self.roles.update(kill.role for kill in history.kills)
        self.points.update(kill.point for kill in history.kills if kill.point)
        self.outcomes.update(
            told.final.outcome or "" for told in history.told.values() if told.final is not None
        )
        self.reached |= played.reached
        found = checker.violations(history)
        if found:
            self.violations[played.schedule.seed] = found
        return found

    def unreached(self) -> list[str]:
        """Give the failpoints that nobody came by."""
        return sorted(set(ARMED) - self.reached)

    def text(self) -> str:
        """Give the report."""
        rows = [
            ("schedules", self.schedules),
            ("host", _counts(self.hosts)),
            ("jobs", self.jobs),
            ("outcomes", _counts(self.outcomes)),
            ("follows", self.follows),
            ("connections cut", self.cuts),
            ("kills", f"{self.roles.total()} ({_counts(self.roles)})"),
            (
                "of them at failpoints",
                f"{self.points.total()} at {len(self.points)} of {len(ARMED)}",
            ),
            ("failpoints", _counts(self.points)),
            ("never come by", ", ".join(self.unreached()) or "none"),
            ("violations", sum(map(len, self.violations.values()))),
            ("in the seeds", ", ".join(map(str, self.violations)) or "none"),
        ]
        return "\n".join(f"{name:<22} {value}" for name, value in rows)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


def main() -> int:
    """Play, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=10, metavar="N", help="how many (10)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first (1)")
    parser.add_argument("--log", action="store_true", help="print the supervisor's logs too")
    arguments = parser.parse_args()
    report = Report()
    began = time.monotonic()
    with certificates() as certs:
        for seed in range(arguments.seed, arguments.seed + arguments.schedules):
            try:
                played = play(seed, certs)
            except Exception:  # noqa: BLE001  # the suite's own fault: said, counted, and the next is played
                report.violations[seed] = [traceback.format_exc()]
                print(f"seed {seed}: {report.violations[seed][0]}", flush=True)
                continue
            found = report.add(played)
            print(
                f"seed {seed}: {played.schedule.host}, {len(played.history.told)} jobs, "
                f"{len(played.history.kills)} kills, {len(found)} violations",
                flush=True,
            )
            for violation in found:
                print(f"    {violation}", flush=True)
            if arguments.log:
                print(played.log)
    print(f"\n{report.text()}\n{'seconds':<22} {time.monotonic() - began:.0f}")
    missed = arguments.schedules >= COVERED_BY and report.unreached()
    return 1 if report.violations or missed else 0


if __name__ == "__main__":
    sys.exit(main())

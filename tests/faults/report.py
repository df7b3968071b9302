"""What has come of schedules: of one, as its worker tells it, and of all of them together."""

from collections import Counter

from attrs import field, frozen
from failpoints import ARMED

COVERED_BY = len(ARMED)
"""In so many schedules somebody has to come by each failpoint; else it is not where it says."""

STRUCK_BY = 3 * len(ARMED)
"""In so many, somebody must have died at each; else it is armed where nobody comes by."""

REPLAY = "python tests/faults/run.py --schedules 1 --log --seed"


@frozen(kw_only=True)
class Result:
    """What came of one schedule; goes from worker to runner as JSON.

    Attributes:
        seed: its.
        host: the trouble that its host is in.
        jobs: how many were asked for.
        follows: how many were begun.
        starts: of its supervisor.
        kills: role and failpoint of each process that was killed; no failpoint: at random.
        faults: of other kinds: what, and how often.
        outcomes: of its jobs.
        reached: failpoints that somebody came by.
        violations: what the checker has found, or why the schedule could not be played.
        log: of its supervisor.
    """

    seed: int
    host: str = ""
    jobs: int = 0
    follows: int = 0
    starts: int = 0
    kills: list[list[str]] = field(factory=list)
    faults: dict[str, int] = field(factory=dict)
    outcomes: dict[str, int] = field(factory=dict)
    reached: list[str] = field(factory=list)
    violations: list[str] = field(factory=list)
    log: str = ""

    def line(self) -> str:
        """Give what is said of it at once."""
        text = (
            f"seed {self.seed}: {self.host or 'not played'}, {self.jobs} jobs, "
            f"{len(self.kills)} kills, {len(self.violations)} violations"
        )
        return "\n    ".join([text, *self.violations])


class Report:
    """All results together."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.violations: dict[int, list[str]] = {}
        self._sums: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._roles: Counter[str] = Counter()
        self._points: Counter[str] = Counter()
        self._reached: set[str] = set()

    def add(self, result: Result) -> None:
        """Count a schedule in."""
        self.seeds.append(result.seed)
        for name in ("jobs", "follows", "starts"):
            self._sums[name] += getattr(result, name)
        self._hosts[result.host or "not played"] += 1
        self._outcomes.update(result.outcomes)
        self._faults.update(result.faults)
        self._roles.update(role for role, _ in result.kills)
        self._points.update(point for _, point in result.kills if point)
        self._reached.update(result.reached)
        if result.violations:
            self.violations[result.seed] = result.violations

    @property
    def unreached(self) -> list[str]:
        """The failpoints that nobody came by."""
        return sorted(set(ARMED) - self._reached)

    @property
    def unstruck(self) -> list[str]:
        """The failpoints that nobody died at."""
        return sorted(set(ARMED) - set(self._points))

    @property
    def sound(self) -> bool:
        """Whether nothing was found, and the schedules have tried what they must."""
        played = len(self.seeds)
        missed = (played >= COVERED_BY and self.unreached) or (
            played >= STRUCK_BY and self.unstruck
        )
        return not self.violations and not missed

    def text(self) -> str:
        """Give the report."""
        kills, points = self._roles.total(), self._points
        rows = [
            ("schedules", f"{len(self.seeds)}, seeds {min(self.seeds)} to {max(self.seeds)}"),
            ("host", _counts(self._hosts)),
            ("jobs", self._sums["jobs"]),
            ("outcomes", _counts(self._outcomes)),
            ("follows", self._sums["follows"]),
            ("supervisors started", self._sums["starts"]),
            ("kills", f"{kills}, {kills / len(self.seeds):.1f} a schedule"),
            ("by role", _counts(self._roles)),
            ("at random", kills - points.total()),
            ("at failpoints", f"{points.total()} at {len(points)} of {len(ARMED)}"),
            ("failpoints", _counts(points)),
            ("nobody died at", ", ".join(self.unstruck) or "none"),
            ("nobody came by", ", ".join(self.unreached) or "none"),
            ("other faults", _counts(self._faults)),
            ("violations", sum(map(len, self.violations.values()))),
            *(("  again by", f"{REPLAY} {seed}") for seed in sorted(self.violations)),
        ]
        return "\n".join(f"{name:<22} {value}" for name, value in rows)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"

"""What was measured: samples, what they come to, and whether that is what was wanted."""

import statistics
from collections.abc import Iterable, Sequence

from attrs import define, field, frozen
from figures import GOALS, Goal


@frozen(kw_only=True)
class Summary:
    """What some samples come to, in their unit."""

    count: int
    median: float
    q1: float
    q3: float
    least: float
    most: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Summarize one value or more."""
        # `quantiles` wants two; one value twice has the same quantiles.
        spread = [*values, *values] if len(values) == 1 else values
        q1, median, q3 = statistics.quantiles(spread, n=4, method="inclusive")
        return cls(
            count=len(values),
            median=median,
            q1=q1,
            q3=q3,
            least=min(values),
            most=max(values),
            p99=statistics.quantiles(spread, n=100, method="inclusive")[98],
        )


@frozen(kw_only=True)
class Verdict:
    """A goal, and how far it is.

    Attributes:
        goal: it.
        value: what was measured, as the goal puts it: absolute, or a multiple of the other's.
    """

    goal: Goal
    value: float

    @property
    def reached(self) -> bool:
        """Whether it is."""
        if self.goal.kind == "at most":
            return self.value <= self.goal.bound
        return self.value >= self.goal.bound

    @property
    def text(self) -> str:
        """Say so; if it is not, by how much."""
        if self.reached:
            return "reached"
        if not self.value or not self.goal.bound:
            return f"not reached, by {abs(self.value - self.goal.bound):.3g}"
        over = self.value / self.goal.bound
        factor = over if self.goal.kind == "at most" else 1 / over
        return f"not reached, by a factor of {factor:.2f}"


@define
class Results:
    """Everything that one run has found.

    Attributes:
        samples: by figure and contestant.
        missing: contestants that are not there, each with the reason.
        faults: what went wrong, of whichever figure.
    """

    samples: dict[str, dict[str, list[float]]] = field(factory=dict)
    missing: dict[str, str] = field(factory=dict)
    faults: list[str] = field(factory=list)

    def add(self, figure: str, contestant: str, values: Iterable[float]) -> None:
        """Count samples in."""
        self.samples.setdefault(figure, {}).setdefault(contestant, []).extend(values)

    def summaries(self, figure: str) -> dict[str, Summary]:
        """Give what the samples of a figure come to, by contestant."""
        return {
            name: Summary.of(values)
            for name, values in self.samples.get(figure, {}).items()
            if values
        }

    def verdicts(self) -> list[Verdict]:
        """Judge each goal whose figure was measured, of both contestants."""
        return [verdict for goal in GOALS if (verdict := self._judge(goal)) is not None]

    def _judge(self, goal: Goal) -> Verdict | None:
        found = self.summaries(goal.figure)
        if goal.contestant not in found or (goal.of is not None and goal.of not in found):
            return None
        value = getattr(found[goal.contestant], goal.statistic)
        if goal.of is not None:
            value /= getattr(found[goal.of], goal.statistic)
        return Verdict(goal=goal, value=value)

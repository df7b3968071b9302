"""The report of a run: JSON to keep, Markdown to read."""

import json
from typing import Any

from attrs import asdict
from figures import FIGURES, Figure
from results import Results, Summary, Verdict

TIMES = "\N{MULTIPLICATION SIGN}"

KEPT = 500
"""Samples of each contestant that are written down at most; summaries are of all."""


def to_json(results: Results, about: dict[str, str]) -> str:
    """Write everything down, the samples too, so that it can be judged anew."""
    figures: dict[str, Any] = {
        figure.key: {
            "title": figure.title,
            "unit": figure.unit,
            "summaries": {k: asdict(v) for k, v in results.summaries(figure.key).items()},
            "samples": {k: _thin(v) for k, v in results.samples[figure.key].items()},
        }
        for figure in FIGURES
        if figure.key in results.samples
    }
    goals = [
        {**asdict(verdict.goal), "value": verdict.value, "verdict": verdict.text}
        for verdict in results.verdicts()
    ]
    whole = {
        "about": about,
        "figures": figures,
        "goals": goals,
        "missing": results.missing,
        "faults": results.faults,
    }
    return json.dumps(whole, indent=1) + "\n"


def to_markdown(results: Results, about: dict[str, str]) -> str:
    """Write the tables: figures, goals, what is not there, the machine."""
    rows = [
        _figure_row(figure, name, summary)
        for figure in FIGURES
        for name, summary in results.summaries(figure.key).items()
    ]
    parts = [
        _table(("figure", "of", "median", "quartiles", "range", "p99", "unit", "samples"), rows),
        _table(("goal", "of", "wanted", "found", "verdict"), map(_goal_row, results.verdicts())),
    ]
    for title, lines in (("Not measured", results.missing), ("Machine", about)):
        if lines:
            parts.append(
                f"{title}:\n\n" + "\n".join(f"- {k}: {v}" for k, v in lines.items()) + "\n"
            )
    if results.faults:
        parts.append("Went wrong:\n\n" + "\n".join(f"- {fault}" for fault in results.faults) + "\n")
    return "\n".join(parts)


def number(value: float) -> str:
    """Write a value with three digits, and no exponent."""
    if value and abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:,.0f}".replace(",", " ")


def _thin(values: list[float]) -> list[float]:
    """Keep some of very many, evenly."""
    return values[:: -(-len(values) // KEPT)]


def _figure_row(figure: Figure, name: str, summary: Summary) -> tuple[str, ...]:
    quartiles = f"{number(summary.q1)} to {number(summary.q3)}"
    reach = f"{number(summary.least)} to {number(summary.most)}"
    return (
        figure.title,
        name,
        number(summary.median),
        quartiles,
        reach,
        number(summary.p99),
        figure.unit,
        str(summary.count),
    )


def _goal_row(verdict: Verdict) -> tuple[str, ...]:
    goal = verdict.goal
    (figure,) = (each for each in FIGURES if each.key == goal.figure)
    unit = figure.unit if goal.of is None else f"{TIMES} {goal.of}"
    title = figure.title if goal.statistic == "median" else f"{figure.title}, {goal.statistic}"
    wanted = f"{goal.kind} {number(goal.bound)} {unit}{' (a wish)' if goal.wish else ''}"
    return title, goal.contestant, wanted, f"{number(verdict.value)} {unit}", verdict.text


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

"""Durations as people type them: `10`, `1.5`, `500ms`, `30s`, `10m`, `2h`, `1d`."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

from cyclopts import Parameter, Token

UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "": 1.0}

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|[smhd]?)")


def seconds(text: str) -> float:
    """Read a duration.

    Args:
        text: a number, whole or with a fraction, and a unit; without one, seconds.

    Returns:
        Seconds.

    Raises:
        ValueError: this is no duration.
    """
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no duration; write 500ms, 30s, 10m, 2h or 1d")
    number, unit = found.groups()
    return float(number) * UNITS[unit]


def span(duration_s: float) -> str:
    """Write seconds in their largest unit, for people: 90061.0 → `1d`."""
    for unit in ("d", "h", "m"):
        if duration_s >= UNITS[unit]:
            return f"{duration_s // UNITS[unit]:.0f}{unit}"
    return f"{max(duration_s, 0.0):.0f}s"


def exact_span(duration_s: float) -> str:
    """Write seconds as somebody could have typed them: 600.0 → `10m`, 90.5 → `90.5s`."""
    for unit in ("d", "h", "m"):
        if duration_s >= UNITS[unit] and duration_s % UNITS[unit] == 0:
            return f"{duration_s / UNITS[unit]:.0f}{unit}"
    return f"{duration_s:.3f}".rstrip("0").removesuffix(".") + "s"


def _convert(_type: object, tokens: Sequence[Token]) -> float:
    return seconds(tokens[0].value)


OPTION: Final = Parameter(converter=_convert, metavar="DURATION")

Duration = Annotated[float, OPTION]
"""The type of an option that takes a duration; its value is in seconds."""

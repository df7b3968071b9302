"""Options given as `KEY=VALUE`, any number of times."""

from collections.abc import Iterable
from typing import Annotated, Final

from cyclopts import Parameter

OPTION: Final = Parameter(metavar="KEY=VALUE")

Pairs = Annotated[tuple[str, ...], OPTION]
"""The type of such an option; `as_map` makes the map of its value."""


def as_map(pairs: Iterable[str], option: str, shape: str = "KEY=VALUE") -> dict[str, str]:
    """Make a map of `KEY=VALUE` texts; of a key given twice, the last one counts.

    Args:
        pairs: what was typed. A value may hold further `=`, and may be empty.
        option: the option's name, for the message.
        shape: what it takes, likewise.

    Raises:
        ValueError: one has no `=`, or nothing before it.
    """
    split = [pair.partition("=") for pair in pairs]
    for key, equals, value in split:
        if not (key and equals):
            raise ValueError(f"{option} wants {shape}, not {key + equals + value!r}")
    return {key: value for key, _, value in split}

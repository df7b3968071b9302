"""The tightest of some limits: the one definition of what it is that a limit may not loosen.

It knows no field by name but three. A number is tighter when it is less; a set of CPUs when it is
part of the other. Of anything else that a later version may limit there is no tighter: two who
say different things about it cannot both be right, and that is an error.
"""

from functools import reduce
from typing import Final

import attrs

from jobs_proto.job import Limits, parse_cpuset

NO_LIMITS: Final = ("io_device", "enforcement")
"""What `Limits` says of how they are meant; nobody's word on it is tighter than another's."""

LIMITS: Final = tuple(field.name for field in attrs.fields(Limits) if field.name not in NO_LIMITS)


def tightest(first: Limits, *others: Limits) -> Limits:
    """Give limits that hold all of these; where they name a device, and how to enforce: the first.

    Raises:
        ValueError: no job could hold all of them.
    """
    return reduce(_tighter, others, first)


def _tighter(one: Limits, other: Limits) -> Limits:
    values = {name: _least(name, getattr(one, name), getattr(other, name)) for name in LIMITS}
    return attrs.evolve(one, **values)  # type: ignore[arg-type]


def _least(name: str, one: object, other: object) -> object:
    if one is None or other is None or one == other:
        return one if other is None else other
    if name == "cpuset":
        return _common(str(one), str(other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return min(one, other)
    raise ValueError(f"{name} cannot be both {one} and {other}")


def _common(one: str, other: str) -> str:
    cpus = parse_cpuset(one) & parse_cpuset(other)
    if not cpus:
        raise ValueError(f"the cpusets {one} and {other} have no CPU in common")
    if cpus == parse_cpuset(one):
        return one
    return ",".join(map(str, sorted(cpus)))

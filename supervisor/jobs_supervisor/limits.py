"""From the limits that were asked for to those that are enforced, or an error that says why not.

The settings give defaults, which are left out where the host cannot enforce them, and maximums,
which are defaults that nobody may exceed. What was asked for by name is enforced or refused; with
`best-effort` it is left out, and the job's notes say so.
"""

import resource
from collections.abc import Callable

import attrs
from attrs import evolve, frozen

from jobs_proto.errors import JobsError
from jobs_proto.job import Limits
from jobs_supervisor.cgroups import NEEDED, Tree, check_against_host

_NUMBERS = tuple(
    field.name
    for field in attrs.fields(Limits)
    if field.name not in ("cpuset", "io_device", "enforcement")
)
_IO = tuple(name for name in NEEDED if name.startswith("io_"))


@frozen(kw_only=True)
class Granted:
    """What a job gets.

    Attributes:
        limits: all of these are enforced.
        notes: what was asked for and is not; sentences.
        device: `major:minor` of the disk that I/O limits are about.
    """

    limits: Limits
    notes: tuple[str, ...] = ()
    device: str | None = None


def grant(
    asked: Limits,
    default: Limits,
    maximum: Limits,
    tree: Tree,
    *,
    find_disk: Callable[[], str],
) -> Granted:
    """Decide on a job's limits.

    Args:
        asked: by the client.
        default: of the settings, for what was not asked.
        maximum: of the settings.
        tree: what the host can enforce.
        find_disk: gives the disk that I/O limits are about; called if there are any.

    Raises:
        JobsError: `invalid_argument`: they make no sense on this host, or are over the maximum;
            `failed_precondition`: the host cannot enforce them.
    """
    check_against_host(asked)
    check_maximum(asked, maximum)
    _check_nofile(asked)
    unenforceable = tree.check(asked)
    if unenforceable and asked.enforcement == "required":
        raise JobsError(
            "failed_precondition",
            "this host cannot enforce what was asked: "
            f"{'; '.join(unenforceable)}. Leave it out, or accept that with --limits best-effort",
        )
    limits = _fill(_enforceable(asked, tree), default, maximum, tree)
    device = None
    notes = [f"not enforced: {sentence}" for sentence in unenforceable]
    if any(getattr(limits, name) is not None for name in _IO):
        device = find_disk()
        if not tree.unified and (limits.io_write_bps or limits.io_write_iops):
            notes.append(
                "cgroups of this host are v1: only direct writes are throttled (O_DIRECT), "
                "not those that go through the page cache"
            )
    return Granted(limits=limits, notes=tuple(notes), device=device)


def check_maximum(asked: Limits, maximum: Limits) -> None:
    """Refuse what is over the maximum.

    Raises:
        JobsError: `invalid_argument`: it is.
    """
    for name in _NUMBERS:
        value, most = getattr(asked, name), getattr(maximum, name)
        if value is not None and most is not None and value > most:
            raise JobsError(
                "invalid_argument",
                f"{name} = {value:g} is more than this supervisor allows: {most:g} (max_limits)",
            )


def _check_nofile(asked: Limits) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if asked.nofile is not None and asked.nofile > hard:
        raise JobsError(
            "invalid_argument", f"--nofile {asked.nofile} is more than the supervisor's own: {hard}"
        )


def _enforceable(limits: Limits, tree: Tree) -> Limits:
    absent = [name for name, controller in NEEDED.items() if controller not in tree.controllers]
    return evolve(limits, **dict.fromkeys(absent))  # type: ignore[arg-type]


def _fill(asked: Limits, default: Limits, maximum: Limits, tree: Tree) -> Limits:
    """Put defaults and maximums where nothing was asked, as far as they can be enforced."""
    given: dict[str, object] = {}
    for field in attrs.fields(Limits):
        name = field.name
        if name == "enforcement" or getattr(asked, name) is not None:
            continue
        value, most = getattr(default, name), getattr(maximum, name)
        if name in _NUMBERS and most is not None:
            value = most if value is None else min(value, most)
        given[name] = value
    limits = evolve(asked, **_values(_enforceable(evolve(Limits(), **given), tree), given))  # type: ignore[arg-type]
    if limits.memory_bytes is not None and limits.swap_bytes is None and "swap" in tree.controllers:
        # Else "64 MB" would mean 64 MB and as much swap as there is.
        limits = evolve(limits, swap_bytes=0)
    return limits


def _values(limits: Limits, names: dict[str, object]) -> dict[str, object]:
    return {name: getattr(limits, name) for name in names}

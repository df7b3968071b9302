"""From the limits that were asked for to those that are enforced, or an error that says why not.

The settings give defaults, which are left out where the host cannot enforce them, and maximums,
which are defaults that nobody may exceed. What was asked for by name is enforced or refused; with
`best-effort` it is left out, and the job's notes say so. What plugins impose comes last, and can
only tighten what there is then; the job's record says which of them did. It too is enforced or
refused, unless the plugin itself says `best-effort`.
"""

import resource
from collections.abc import Iterable

from attrs import evolve, field, frozen

from jobs_proto.errors import JobsError
from jobs_proto.job import Limits
from jobs_proto.tightest import LIMITS, tightest
from jobs_supervisor.cgroups import NEEDED, Tree, check_against_host

_IO = tuple(name for name in NEEDED if name.startswith("io_"))


@frozen(kw_only=True)
class Granted:
    """What a job gets.

    Attributes:
        limits: all of these are enforced.
        notes: what was asked for and is not; sentences.
        device: `major:minor` of the disk that I/O limits are about; to be found, by who may wait.
        limited_by: for each limit that a plugin has set or tightened, that plugin.
    """

    limits: Limits
    notes: tuple[str, ...] = ()
    device: str | None = None
    limited_by: dict[str, str] = field(factory=dict)


def grant(
    asked: Limits,
    default: Limits,
    maximum: Limits,
    tree: Tree,
    *,
    imposed: Iterable[tuple[str, Limits]] = (),
) -> Granted:
    """Decide on a job's limits.

    Args:
        asked: by the client.
        default: of the settings, for what was not asked.
        maximum: of the settings.
        tree: what the host can enforce.
        imposed: by plugins, each with its name.

    Raises:
        JobsError: `invalid_argument`: they make no sense on this host, or are over the maximum;
            `failed_precondition`: the host cannot enforce them, or they contradict a plugin's.
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
    limits = _without_swap(_fill(_enforceable(asked, tree), default, maximum, tree), tree)
    notes = [f"not enforced: {sentence}" for sentence in unenforceable]
    limited_by: dict[str, str] = {}
    for plugin, each in imposed:
        before = limits
        limits = _impose(limits, plugin, each, tree)
        changed = [name for name in LIMITS if getattr(limits, name) != getattr(before, name)]
        limited_by |= dict.fromkeys(changed, plugin)
        notes += [f"not enforced, though {plugin} has set it: {why}" for why in tree.check(each)]
    limits = _without_swap(limits, tree)  # the memory may be a plugin's limit
    if not tree.unified and (limits.io_write_bps or limits.io_write_iops):
        notes.append(
            "cgroups of this host are v1: only direct writes are throttled (O_DIRECT), "
            "not those that go through the page cache"
        )
    return Granted(limits=limits, notes=tuple(notes), limited_by=limited_by)


def of_disk(limits: Limits) -> bool:
    """Tell whether some of these limits are about a disk."""
    return any(getattr(limits, name) is not None for name in _IO)


def _impose(limits: Limits, plugin: str, imposed: Limits, tree: Tree) -> Limits:
    """Tighten limits by a plugin's."""
    try:
        check_against_host(imposed)
        _check_nofile(imposed)
        unenforceable = tree.check(imposed)
        if unenforceable and imposed.enforcement == "required":
            raise ValueError(f"this host cannot enforce that: {'; '.join(unenforceable)}")
        return tightest(limits, _enforceable(imposed, tree))
    except (JobsError, ValueError) as error:
        raise JobsError(
            "failed_precondition", f"the plugin {plugin} limits what may run here, but {error}"
        ) from None


def check_maximum(asked: Limits, maximum: Limits, by: str = "max_limits") -> None:
    """Refuse what is over the maximum, which is set by the settings or a plugin.

    Raises:
        JobsError: `invalid_argument`: it is.
    """
    try:
        most = tightest(asked, maximum)
    except ValueError as error:
        raise JobsError("invalid_argument", f"{error} ({by})") from None
    for name in LIMITS:
        value = getattr(asked, name)
        if value is not None and value != getattr(most, name):
            raise JobsError(
                "invalid_argument",
                f"{name} = {value} is more than this supervisor allows: {getattr(maximum, name)} "
                f"({by})",
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
    ours = tightest(default, maximum)
    names = [*LIMITS, "io_device"]
    given = {name: getattr(ours, name) for name in names if getattr(asked, name) is None}
    return evolve(asked, **_values(_enforceable(evolve(Limits(), **given), tree), given))  # type: ignore[arg-type]


def _without_swap(limits: Limits, tree: Tree) -> Limits:
    """Else "64 MB" would mean 64 MB and as much swap as there is."""
    if (
        limits.memory_bytes is None
        or limits.swap_bytes is not None
        or "swap" not in tree.controllers
    ):
        return limits
    return evolve(limits, swap_bytes=0)


def _values(limits: Limits, names: dict[str, object]) -> dict[str, object]:
    return {name: getattr(limits, name) for name in names}

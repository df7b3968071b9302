"""What brings somebody by a failpoint. Each schedule has one that it must come by: its own.

An armed failpoint is struck only if somebody comes by while it is armed, and what comes by chance
leaves the rare ones out. So the seed names one, all in turn; it is armed from the start, and the
schedule is given the jobs, questions and faults that lead there.
"""

from attrs import frozen


@frozen(kw_only=True)
class Act:
    """Something asked about one job, `after` seconds after it was taken on.

    Attributes:
        after: seconds.
        what: a method of `Asking`.
        options: its arguments.
    """

    after: float
    what: str
    options: dict[str, object]


@frozen(kw_only=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        at: seconds after the start.
        what: a method of `Damage`.
        options: its arguments.
    """

    at: float
    what: str
    options: dict[str, object]


@frozen(kw_only=True)
class Occasion:
    """What leads to a failpoint.

    Attributes:
        kinds: of the jobs that are asked for, one after the other.
        acts: asked about each of them.
        faults: besides those of any schedule.
        also: failpoints that are armed too: one must die there first.
        removed: the jobs are removed after their end.
        max_running: of the settings; None: any.
    """

    kinds: tuple[str, ...] = ("talks",)
    acts: tuple[Act, ...] = ()
    faults: tuple[Fault, ...] = ()
    also: tuple[str, ...] = ()
    removed: bool = False
    max_running: int | None = None


def _fault(at: float, what: str, **options: object) -> Fault:
    return Fault(at=at, what=what, options=options)


_FOLLOW = Act(after=0.0, what="follow", options={"start": 0})
_KILL = Act(after=0.3, what="kill", options={"signal": "TERM", "grace_s": 0.2})
_PAUSE = Act(after=0.3, what="pause", options={})
_RESUME = Act(after=0.6, what="resume", options={})

_UPDATE = Act(after=0.3, what="update", options={})

_ANY = Occasion(acts=(_FOLLOW,))
_KILLED = Occasion(kinds=("endless", "deaf"), acts=(_KILL,))
_LOST = Occasion(
    kinds=("endless", "endless"),
    faults=(_fault(0.8, "kill_shim", which=0.0), _fault(1.2, "kill_shim", which=0.9)),
)
_FOUND_AGAIN = Occasion(kinds=("endless",), faults=(_fault(1.0, "kill_supervisor", for_s=0.0),))

_OCCASIONS = {
    "forkserver.before-hello": Occasion(faults=(_fault(0.6, "kill_forkserver"),)),
    "kill.": _KILLED,
    "kill.before-repeat": Occasion(kinds=("deaf",), acts=(_KILL,), also=("kill.recorded",)),
    "lost.": _LOST,
    "pause.": Occasion(kinds=("endless",), acts=(_PAUSE, _RESUME)),
    "queue.": Occasion(kinds=("talks", "brief", "brief"), max_running=1),
    "reattach.": _FOUND_AGAIN,
    "remove.": Occasion(kinds=("brief",), removed=True),
    "shim.before-kill": _KILLED,
    "shim.deadline": Occasion(kinds=("late",)),
    "shim.frozen": Occasion(kinds=("endless",), acts=(_PAUSE, _RESUME)),
    "shim.kill-": _KILLED,
    "update.": Occasion(kinds=("blocks", "blocks", "blocks"), acts=(_UPDATE,)),
}


def of(point: str) -> Occasion:
    """Give what leads to a failpoint: the longest start of its name that is known, or any job."""
    known = [start for start in _OCCASIONS if point.startswith(start)]
    return _OCCASIONS[max(known, key=len)] if known else _ANY

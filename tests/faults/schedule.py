"""A schedule: who asks for what and when, and what is killed meanwhile. All from one number.

It is data, made before anything runs: the same seed gives the same schedule. What the processes
make of it is theirs; a race is met again by running its seed again, a few times.
"""

import random
from pathlib import Path

import workload
from attrs import frozen
from failpoints import ARMED

CALM, DISK, DESCRIPTORS, CLOCK = "calm", "disk full", "few descriptors", "clock set back"
HOSTS = {CALM: 7, DISK: 1, DESCRIPTORS: 1, CLOCK: 1}
"""What else is wrong with the host, and how often."""

POINTS = 7
"""Failpoints that a schedule arms."""

REMOVING = tuple(name for name in ARMED if name.startswith("remove."))

LASTS_S = 3.0
"""Within so many seconds everything is asked for; then all is let end."""


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
class Part:
    """One job's part: when it is asked for, by whom, and what is asked about it."""

    at: float
    context: str
    work: workload.Work
    acts: tuple[Act, ...]


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
class Schedule:
    """All of it.

    Attributes:
        seed: what it was made from.
        host: of `HOSTS`.
        parts: the jobs.
        faults: in order of time.
        removals: of jobs that have ended, by number, and the failpoint at which it is interrupted.
        max_running: of the supervisor's settings.
    """

    seed: int
    host: str
    parts: tuple[Part, ...]
    faults: tuple[Fault, ...]
    removals: tuple[tuple[int, str], ...]
    max_running: int


def _acts(work: workload.Work, rng: random.Random) -> tuple[Act, ...]:
    acts = []

    def add(what: str, chance: float, **options: object) -> None:
        if rng.random() < chance:
            acts.append(Act(after=rng.uniform(0, LASTS_S), what=what, options=options))

    size = len(work.stdout) + len(work.stderr)
    for _ in range(rng.randint(0, 3)):
        add("follow", 1.0, start=rng.choice((0, 0, rng.randint(0, size + 10))))
    add("wait", 0.5)
    add("again", 0.4)
    add("pause", 0.3)
    add("resume", 0.3)
    grace_s = rng.choice((0.0, 0.2, 1.0))
    add("kill", 0.7 if work.code is None else 0.2, grace_s=grace_s, signal="TERM")
    return tuple(acts)


def _armed(rng: random.Random, seed: int) -> list[Fault]:
    """Arm some failpoints; one seed after the other goes round all of them."""
    names = [ARMED[(seed * POINTS + number) % len(ARMED)] for number in range(POINTS)]
    return [Fault(at=rng.uniform(0, LASTS_S), what="arm", options={"name": name}) for name in names]


def _fault(rng: random.Random, host: str) -> Fault:
    at = rng.uniform(0.1, LASTS_S)
    kinds = {"supervisor": 3, "forkserver": 2, "shim": 3, "init": 1, "cut": 2}
    extra = {DISK: "fill_disk", CLOCK: "set_clock_back"}.get(host)
    if extra is not None:
        kinds[extra] = 6
    what = rng.choices(list(kinds), list(kinds.values()))[0]
    options: dict[str, object] = {}
    if what in ("shim", "init"):
        options["which"] = rng.random()
    elif what in ("fill_disk", "supervisor"):
        options["for_s"] = rng.choice((0.0, 0.1, 0.6))
    elif what == "set_clock_back":
        options["by_s"] = rng.choice((1, 30))
    return Fault(at=at, what=what, options=options)


def make(seed: int, scratch: Path) -> Schedule:
    """Make the schedule of a seed.

    Args:
        seed: any number.
        scratch: where its jobs leave their evidence.
    """
    rng = random.Random(seed)
    host = rng.choices(list(HOSTS), list(HOSTS.values()))[0]
    parts = []
    for number in range(rng.randint(5, 12)):
        work = workload.make(f"s{seed}j{number}", scratch, rng)
        parts.append(
            Part(
                at=rng.uniform(0, LASTS_S * 0.7),
                context=rng.choice(("dev", "dev", "dev-alice")),
                work=work,
                acts=_acts(work, rng),
            )
        )
    faults = [_fault(rng, host) for _ in range(rng.randint(3, 6))] + _armed(rng, seed)
    removals = [
        (number, rng.choice(("", *REMOVING))) for number in range(len(parts)) if rng.random() < 0.2
    ]
    return Schedule(
        seed=seed,
        host=host,
        parts=tuple(parts),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        removals=tuple(removals),
        max_running=rng.choice((2, 5, 1000)),
    )

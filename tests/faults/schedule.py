"""A schedule: who asks for what and when, and what is killed meanwhile. All from one number.

It is data, made before anything runs: the same seed gives the same schedule. What the processes
make of it is theirs; a race is met again by running its seed again, a few times.
"""

import random
from pathlib import Path

import occasion
import workload
from attrs import frozen
from failpoints import ARMED
from occasion import Act, Fault, Occasion

CALM, DISK, DESCRIPTORS, CLOCK = "calm", "disk full", "few descriptors", "clock set back"
HOSTS = {CALM: 5, DISK: 1, DESCRIPTORS: 1, CLOCK: 1}
"""What else is wrong with the host, and how often."""

TROUBLE = {DISK: "fill_disk", DESCRIPTORS: "take_descriptors", CLOCK: "set_clock_back"}
TROUBLED = 0.4
"""How many of the faults of such a host are its own."""

FAULTS = {
    "kill_supervisor": 3,
    "kill_forkserver": 2,
    "kill_shim": 3,
    "kill_init": 1,
    "cut": 2,
    "stop": 2,
}
"""What goes wrong at random, and how often."""

POINTS = 7
"""Failpoints that a schedule arms."""

REMOVING = tuple(name for name in ARMED if name.startswith("remove."))

TWICE = 0.2
"""So many of the jobs are asked for two times at once, as by a client whose answer was lost."""

RETAINING = 0.3
"""In so many schedules only some of the jobs that have ended are kept at last."""

LASTS_S = 3.0
"""Within so many seconds everything is asked for; then all is let end."""


@frozen(kw_only=True)
class Part:
    """One job's part: when it is asked for, by whom, and what is asked about it.

    Attributes:
        at: seconds after the start.
        context: of the client.
        priority: in the queue.
        twice: the same request is made two times at once.
        work: the job.
        acts: what is asked about it.
    """

    at: float
    context: str
    priority: int
    twice: bool
    work: workload.Work
    acts: tuple[Act, ...]


@frozen(kw_only=True)
class Schedule:
    """All of it.

    Attributes:
        seed: what it was made from.
        point: the failpoint that it must come by.
        host: of `HOSTS`.
        parts: the jobs.
        faults: in order of time.
        removals: of jobs that have ended, by number, and the failpoint at which it is interrupted.
        jobs, quotas: of the supervisor's settings, the sections of these names.
        keep_jobs: the setting that it has at last; None: all are kept.
    """

    seed: int
    point: str
    host: str
    parts: tuple[Part, ...]
    faults: tuple[Fault, ...]
    removals: tuple[tuple[int, str], ...]
    jobs: dict[str, float]
    quotas: dict[str, int]
    keep_jobs: int | None


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
    if work.raised is not None:
        add("update", 0.6)
    grace_s = rng.choice((0.0, 0.2, 1.0))
    add("kill", 0.7 if work.code is None else 0.2, grace_s=grace_s, signal="TERM")
    return tuple(acts)


def _arm(at: float, name: str) -> Fault:
    return Fault(at=at, what="arm", options={"name": name})


def _armed(rng: random.Random, seed: int) -> list[Fault]:
    """Arm some failpoints; one seed after the other goes round all of them."""
    names = [ARMED[(seed * POINTS + number) % len(ARMED)] for number in range(POINTS)]
    return [_arm(rng.uniform(0, LASTS_S), name) for name in names]


def _fault(rng: random.Random, host: str) -> Fault:
    what = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
    if host in TROUBLE and rng.random() < TROUBLED:
        what = TROUBLE[host]
    options: dict[str, object] = {}
    if what in ("kill_shim", "kill_init", "stop"):
        options["which"] = rng.random()
    if what in ("kill_supervisor", "fill_disk", "take_descriptors", "stop"):
        options["for_s"] = rng.choice((0.0, 0.1, 0.6))
    if what == "set_clock_back":
        options["by_s"] = rng.choice((1, 30, 1000))
    if what == "take_descriptors":
        options["spare"] = rng.randint(0, 12)
    if what == "stop":
        options["role"] = rng.choice(("supervisor", "forkserver", "shim"))
    return Fault(at=rng.uniform(0.1, LASTS_S), what=what, options=options)


def _parts(rng: random.Random, seed: int, scratch: Path, leading: Occasion) -> list[Part]:
    """Make the jobs: first those that lead to the schedule's failpoint, then any."""
    parts = []
    for number in range(len(leading.kinds) + rng.randint(4, 10)):
        leads = number < len(leading.kinds)
        kind = leading.kinds[number] if leads else workload.any_kind(rng)
        work = workload.make(kind, f"s{seed}j{number}", scratch, rng)
        parts.append(
            Part(
                at=0.1 * number if leads else rng.uniform(0, LASTS_S * 0.7),
                context=rng.choice(("dev", "dev", "dev-alice")),
                priority=rng.choice((0, 0, 5)),
                twice=rng.random() < TWICE,
                work=work,
                acts=leading.acts if leads else _acts(work, rng),
            )
        )
    return parts


def _removals(
    rng: random.Random, parts: list[Part], point: str, leading: Occasion
) -> list[tuple[int, str]]:
    if leading.removed:
        return [(0, point)]
    return [
        (number, rng.choice(("", *REMOVING))) for number in range(len(parts)) if rng.random() < 0.2
    ]


def make(seed: int, scratch: Path) -> Schedule:
    """Make the schedule of a seed.

    Args:
        seed: any number.
        scratch: where its jobs leave their evidence.
    """
    rng = random.Random(seed)
    point = ARMED[seed % len(ARMED)]
    leading = occasion.of(point)
    host = rng.choices(list(HOSTS), list(HOSTS.values()))[0]
    parts = _parts(rng, seed, scratch, leading)
    faults = [
        *(_arm(0.0, name) for name in (point, *leading.also)),
        *leading.faults,
        *(_fault(rng, host) for _ in range(rng.randint(4, 8))),
        *_armed(rng, seed),
    ]
    return Schedule(
        seed=seed,
        point=point,
        host=host,
        parts=tuple(parts),
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        removals=tuple(_removals(rng, parts, point, leading)),
        jobs={
            "max_running": leading.max_running or rng.choice((1, 2, 5, 1000)),
            "max_queued": rng.choice((3, 10_000, 10_000)),
            "grace_s": 0.3,
        },
        quotas={"running": rng.choice((1, 2, 1000, 1000))},
        keep_jobs=rng.randint(1, 5) if rng.random() < RETAINING else None,
    )

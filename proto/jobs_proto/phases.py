"""Where a job is in its life: one table, total over (phase, event).

Code, tests and the diagram in ARCHITECTURE.md all come from `TABLE`. A cell is the next phase, or
None where the event cannot happen or is refused. How a job *ended* is its outcome, not a phase.
"""

from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Phase(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    EXITED = "exited"


class Event(StrEnum):
    """What can happen to a job."""

    ADMIT = "admit"  # a place is free: the launch is written down, then asked for
    STARTED = "started"  # the shim reports that the leader executes
    KILL = "kill"  # somebody asked for its end
    PAUSE = "pause"
    RESUME = "resume"
    EXITED = "exited"  # an exit record exists, or never will (lost)


class Outcome(StrEnum):
    """How a job ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    TIMED_OUT = "timed_out"
    OOM_KILLED = "oom_killed"
    START_FAILED = "start_failed"
    LOST = "lost"


_Q, _S, _R = Phase.QUEUED, Phase.STARTING, Phase.RUNNING
_P, _K, _X = Phase.PAUSED, Phase.STOPPING, Phase.EXITED

#        event: ADMIT  STARTED  KILL  PAUSE  RESUME  EXITED
_ROWS: Final = {
    _Q: (_S, None, _X, None, None, None),  # a queued job that is killed was never launched
    _S: (None, _R, _K, None, None, _X),
    _R: (None, None, _K, _P, _R, _X),
    _P: (None, None, _K, _P, _R, _X),
    _K: (None, _K, _K, None, None, _X),  # STARTED: the kill overtook the start's report
    _X: (None, None, _X, None, None, None),  # killing what has ended is no error: it is dead
}

TABLE: Final = MappingProxyType(
    {
        (phase, event): after
        for phase, row in _ROWS.items()
        for event, after in zip(Event, row, strict=True)
    }
)


class RefusedError(Exception):
    """The event cannot happen in this phase."""

    def __init__(self, phase: Phase, event: Event) -> None:
        super().__init__(f"cannot {event} a job that is {phase}")
        self.phase = phase
        self.event = event


def advance(phase: Phase, event: Event) -> Phase:
    """Give the phase after `event`.

    Raises:
        RefusedError: the table has no way from `phase` by `event`.
    """
    after = TABLE[phase, event]
    if after is None:
        raise RefusedError(phase, event)
    return after


def diagram() -> str:
    """Draw `TABLE` as a Mermaid state diagram; ARCHITECTURE.md holds what this returns."""
    edges: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, event), after in TABLE.items():
        if after is not None and after is not phase:
            edges.setdefault((phase, after), []).append(event)
    lines = [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in edges.items()]
    return "\n".join(["stateDiagram-v2", "    [*] --> queued: run", *lines, "    exited --> [*]"])

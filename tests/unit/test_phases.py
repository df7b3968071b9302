"""The table of phases is total, and says what it should."""

from itertools import product

import pytest

from jobs_proto.phases import TABLE, Event, Phase, RefusedError, advance, diagram


def test_every_cell_is_filled():
    assert set(TABLE) == set(product(Phase, Event))
    assert {after for after in TABLE.values() if after is not None} <= set(Phase)


@pytest.mark.parametrize(("phase", "event"), list(TABLE))
def test_advance_follows_the_table(phase, event):
    if (after := TABLE[phase, event]) is not None:
        assert advance(phase, event) is after
        return
    with pytest.raises(RefusedError, match=f"cannot {event} a job that is {phase}") as caught:
        advance(phase, event)
    assert (caught.value.phase, caught.value.event) == (phase, event)


def test_whoever_has_exited_stays_so():
    assert {TABLE[Phase.EXITED, event] for event in Event} == {Phase.EXITED, None}


def test_any_job_can_be_killed():
    assert None not in {TABLE[phase, Event.KILL] for phase in Phase}


def test_every_phase_can_be_reached_and_left():
    reached, todo = set(), [Phase.QUEUED]
    while todo:
        phase = todo.pop()
        reached.add(phase)
        todo += {TABLE[phase, event] for event in Event} - reached - {None}
    assert reached == set(Phase)
    for phase in set(Phase) - {Phase.EXITED, Phase.QUEUED}:
        assert TABLE[phase, Event.EXITED] is Phase.EXITED


def test_the_diagram_draws_every_way_between_two_phases():
    drawn = diagram()
    assert drawn.startswith("stateDiagram-v2\n    [*] --> queued: run\n")
    for (phase, event), after in TABLE.items():
        if after not in (None, phase):
            line = next(x for x in drawn.splitlines() if x.startswith(f"    {phase} --> {after}:"))
            assert event in line

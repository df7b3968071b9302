"""Any life of a job, against a second account of the phases: facts about it instead of a table."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jobs_proto.phases import Event, Phase, RefusedError, advance


class Life(RuleBasedStateMachine):
    """One job, to which anything may happen in any order."""

    def __init__(self):
        super().__init__()
        self.phase = Phase.QUEUED
        self.admitted = self.started = self.frozen = self.killed = self.ended = False

    def possible(self, event):
        under_way = self.admitted and not self.ended
        match event:
            case Event.ADMIT:
                return not self.admitted and not self.ended
            case Event.STARTED:
                return under_way and (self.killed or not self.started)
            case Event.KILL:
                return True
            case Event.PAUSE | Event.RESUME:
                return under_way and self.started and not self.killed
            case Event.EXITED:
                return under_way

    def happen(self, event):
        match event:
            case Event.ADMIT:
                self.admitted = True
            case Event.STARTED:
                self.started = True
            case Event.KILL:
                self.killed = True
                self.ended = self.ended or not self.admitted
            case Event.PAUSE | Event.RESUME:
                self.frozen = event is Event.PAUSE
            case Event.EXITED:
                self.ended = True

    @rule(event=st.sampled_from(Event))
    def event(self, event):
        if self.possible(event):
            self.phase = advance(self.phase, event)
            self.happen(event)
        else:
            with pytest.raises(RefusedError):
                advance(self.phase, event)

    @invariant()
    def the_phase_follows_from_the_facts(self):
        if self.ended:
            expected = Phase.EXITED
        elif not self.admitted:
            expected = Phase.QUEUED
        elif self.killed:
            expected = Phase.STOPPING
        elif not self.started:
            expected = Phase.STARTING
        else:
            expected = Phase.PAUSED if self.frozen else Phase.RUNNING
        assert self.phase is expected


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=200, stateful_step_count=20, deadline=None)

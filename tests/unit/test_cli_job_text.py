"""Jobs as people are told of them."""

import pytest

from jobs_cli.account import account, command_line
from jobs_cli.options import given, options_of
from jobs_cli.pairs import as_map
from jobs_cli.prose import prose
from jobs_cli.verdict import condition, verdict
from jobs_proto.errors import JobsError
from jobs_proto.job import Exit, Job, Spec
from jobs_proto.phases import Outcome, Phase
from jobs_proto.wire import structure, unstructure


def job(outcome=None, argv=("true",), name=None, timeout_s=None, **exit_fields):
    return Job(
        id="0f0e0d0c-0b0a-4908-8706-050403020100",
        name=name,
        owner="alice",
        phase=Phase.EXITED if outcome else Phase.RUNNING,
        outcome=outcome,
        spec=Spec(argv=argv, timeout_s=timeout_s, env={"A": "b c"}),
        created_at="2026-01-02T03:04:05.678901Z",
        exit=Exit(**exit_fields) if outcome else None,
    )


@pytest.mark.parametrize(
    ("ended", "sentence"),
    [
        (job(), None),
        (job(Outcome.COMPLETED, code=0), None),
        (job(Outcome.FAILED, code=3), None),
        (job(Outcome.FAILED, signal="SEGV"), "the job was ended by signal SEGV"),
        (job(Outcome.STOPPED, signal="TERM", killed_by="bob"), "the job was killed by bob"),
        (job(Outcome.TIMED_OUT, signal="KILL", timeout_s=90.0), "the job timed out after 90s"),
        (job(Outcome.START_FAILED, error="no x"), "the job could not start: no x"),
        (job(Outcome.LOST, error="its shim died"), "the job was lost: its shim died"),
    ],
)
def test_verdict(ended, sentence):
    assert verdict(ended) == sentence


def test_every_outcome_has_a_condition_and_no_verdict_fails():
    for outcome in Outcome:
        assert condition(job(outcome)) == outcome.value
        verdict(job(outcome))
    assert condition(job()) == "running"


def test_a_command_cannot_drive_the_terminal():
    evil = job(argv=("echo", "\x1b]0;owned\x07", "a b\nc"))
    assert command_line(evil) == "echo '\\x1b]0;owned\\x07' 'a b\\nc'"
    assert all(line.isprintable() for line in account(evil))


def test_an_account_names_what_is_known_and_nothing_else():
    lines = dict(line.split(":", 1) for line in account(job(Outcome.FAILED, code=3, name="n")))
    assert lines["exit"].strip() == "code 3"
    assert lines["env"].strip() == "'A=b c'"
    assert "started" not in lines


def test_a_job_is_the_same_after_the_wire():
    sent = job(Outcome.STOPPED, signal="TERM", killed_by="bob")
    came = structure(unstructure(sent), Job, "job")
    assert came == sent
    assert came.phase is Phase.EXITED
    assert came.outcome is Outcome.STOPPED
    with pytest.raises(JobsError, match=r"phase: must be one of queued, .* not 'x'"):
        structure({**unstructure(sent), "phase": "x"}, Job, "job")


def test_pairs():
    assert as_map(["A=b=c", "E=", "A=2"], "--env") == {"A": "2", "E": ""}
    for wrong in ["A", "=x", ""]:
        with pytest.raises(ValueError, match="--env wants KEY=VALUE"):
            as_map([wrong], "--env")


def test_given_are_only_the_options_that_were_typed():
    made = options_of(Spec, skip=frozenset({"argv", "isolation", "limits"}))
    assert given(None) == {}
    assert given(made()) == {}
    assert given(made(env=("A=1",), timeout_s=2.0)) == {"env": {"A": "1"}, "timeout_s": 2.0}


def test_prose_joins_paragraphs_and_keeps_examples():
    text = """One
    line.

        jobsctl  run
        x

    Args:
        a: b
    """
    assert prose(text) == "One line.\n\n    jobsctl  run\n    x"

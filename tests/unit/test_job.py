"""What a spec, a name, a label, a signal may be; how a job's end becomes an exit status."""

import pytest
from attrs import evolve

from jobs_proto.job import (
    MAX_TIMEOUT_S,
    Exit,
    Job,
    Spec,
    check_labels,
    check_name,
    exit_status,
    signal_name,
    signal_number,
    timestamp,
)
from jobs_proto.phases import Outcome, Phase

JOB = Job(
    id="8f14e45f-ceea-467f-8b5a-1b2d3c4e5f60", owner="a", spec=Spec(argv=("x",)), created_at=""
)


@pytest.mark.parametrize(
    "fields",
    [
        {"argv": ("ls", "", "-l", "\udcff")},
        {"argv": ("x",), "env": {"A": "", "b.c": "=x"}},
        {"argv": ("x",), "cwd": "/tmp"},
        {"argv": ("x",), "timeout_s": 0.001},
        {"argv": ("x",), "timeout_s": MAX_TIMEOUT_S},
    ],
)
def test_specs(fields):
    assert Spec(**fields).argv == fields["argv"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"argv": ()}, "the command is empty"),
        ({"argv": ("",)}, "the command is empty"),
        ({"argv": ("a", "b\0")}, "argument 1 of the command holds a NUL"),
        ({"argv": ("x",), "env": {"": "x"}}, "not a name for an environment variable"),
        ({"argv": ("x",), "env": {"a=b": "x"}}, "not a name for an environment variable"),
        ({"argv": ("x",), "env": {"a": "\0"}}, "environment variable a holds a NUL"),
        ({"argv": ("x",), "cwd": "tmp"}, "absolute path"),
        ({"argv": ("x",), "cwd": "/\0"}, "absolute path"),
        ({"argv": ("x",), "timeout_s": 0}, "more than 0 s"),
        ({"argv": ("x",), "timeout_s": -1}, "more than 0 s"),
        ({"argv": ("x",), "timeout_s": float("nan")}, "more than 0 s"),
        ({"argv": ("x",), "timeout_s": float("inf")}, "at most ten years"),
    ],
)
def test_what_is_no_spec(fields, why):
    with pytest.raises(ValueError, match=why):
        Spec(**fields)


@pytest.mark.parametrize("name", [None, "x", "web-1", "N" * 63, "g0", "a_b.c"])
def test_names(name):
    check_name(None, None, name)


@pytest.mark.parametrize(
    "name", ["", "1x", "-x", "x y", "x\n", "N" * 64, "ü", "abc", "fade", "a-1"]
)
def test_what_is_no_name(name):
    with pytest.raises(ValueError, match="cannot be a job's name"):
        check_name(None, None, name)


def test_labels():
    check_labels(None, None, {"app/tier": "web", "empty": "", "x" * 128: "1"})


@pytest.mark.parametrize(
    "labels", [{"": "x"}, {"-a": "x"}, {"a": "b c"}, {"a": "x\n"}, {"a": "x" * 129}]
)
def test_what_is_no_label(labels):
    with pytest.raises(ValueError, match="cannot be a label"):
        check_labels(None, None, labels)


def test_labels_are_not_too_many():
    check_labels(None, None, {f"a{i}": "" for i in range(64)})
    with pytest.raises(ValueError, match="at most 64"):
        check_labels(None, None, {f"a{i}": "" for i in range(65)})


@pytest.mark.parametrize(
    ("name", "number"), [("TERM", 15), ("sigterm", 15), ("15", 15), ("KILL", 9), ("64", 64)]
)
def test_signals(name, number):
    assert signal_number(name) == number


@pytest.mark.parametrize("name", ["", "0", "65", "-1", "NOPE", "SIG", "²", "1.0", "TERM "])
def test_what_is_no_signal(name):
    with pytest.raises(ValueError, match="there is no signal"):
        signal_number(name)


@pytest.mark.parametrize(("number", "name"), [(9, "KILL"), (15, "TERM"), (40, "40")])
def test_signal_names(number, name):
    assert signal_name(number) == name
    assert signal_number(name) == number


@pytest.mark.parametrize(
    ("outcome", "end", "status"),
    [
        (None, None, 125),
        (Outcome.COMPLETED, Exit(code=0), 0),
        (Outcome.FAILED, Exit(code=3), 3),
        (Outcome.FAILED, Exit(signal="SEGV"), 139),
        (Outcome.STOPPED, Exit(signal="TERM"), 143),
        (Outcome.STOPPED, Exit(code=0), 0),
        (Outcome.TIMED_OUT, Exit(signal="KILL", timed_out=True), 124),
        (Outcome.OOM_KILLED, Exit(signal="KILL", oom=True), 137),
        (Outcome.START_FAILED, Exit(code=127, error="x"), 127),
        (Outcome.START_FAILED, Exit(error="x"), 125),
        (Outcome.LOST, Exit(error="x"), 125),
        (Outcome.FAILED, Exit(signal="40"), 168),
    ],
)
def test_exit_statuses(outcome, end, status):
    assert exit_status(evolve(JOB, phase=Phase.EXITED, outcome=outcome, exit=end)) == status


def test_times_are_utc_with_microseconds():
    assert timestamp(0) == "1970-01-01T00:00:00.000000Z"
    assert timestamp(1767323045_678901999) == "2026-01-02T03:04:05.678901Z"


def test_a_short_id_is_unique_enough_for_people():
    assert JOB.short_id == "8f14e45f-cee"

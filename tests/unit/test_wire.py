"""From untrusted maps to classes: nothing is coerced, and every fault has its path."""

import time

import pytest
from attrs import evolve, field, frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs_proto.connection import pack
from jobs_proto.errors import JobsError
from jobs_proto.job import Exit, Job, Spec, timestamp
from jobs_proto.methods import METHODS
from jobs_proto.wire import MAX_FAULTS, structure, unstructure


@frozen(kw_only=True)
class Inner:
    number: int = 0
    many: tuple[int, ...] = ()
    named: dict[str, int] = field(factory=dict)


@frozen(kw_only=True)
class Outer:
    text: str
    ratio: float = 0.0
    flag: bool = False
    maybe: str | None = None
    inner: Inner = Inner()


OUTER = "text, ratio, flag, maybe, inner"


def inner(**fields):
    return {"text": "x", "inner": fields}


def faults(raw):
    with pytest.raises(JobsError) as caught:
        structure(raw, Outer, "it")
    assert caught.value.code == "invalid_argument"
    assert caught.value.message.startswith("it")
    return caught.value.detail.get("faults", caught.value.message)


def test_what_is_right_is_made():
    raw = {"text": "x", "ratio": 1, "flag": True, "inner": {"number": 3, "many": [1, 2]}}
    made = structure(raw, Outer, "it")
    assert made == Outer(text="x", ratio=1.0, flag=True, inner=Inner(number=3, many=(1, 2)))
    assert type(made.ratio) is float


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({}, "text: is missing"),
        ({"text": 5}, "text: must be text, not 5"),
        ({"text": b"x"}, "text: must be text, not b'x'"),
        ({"text": "x", "ratio": "1"}, "ratio: must be a number, not '1'"),
        ({"text": "x", "ratio": True}, "ratio: must be a number, not True"),
        ({"text": "x", "flag": 1}, "flag: must be true or false, not 1"),
        (inner(number=1.0), "inner.number: must be a whole number, not 1.0"),
        (inner(number=True), "inner.number: must be a whole number, not True"),
        (inner(many=[1, "2"]), "inner.many[1]: must be a whole number, not '2'"),
        (inner(many="12"), "inner.many: must be a list, not '12'"),
        (inner(named={"a": "b"}), "inner.named['a']: must be a whole number, not 'b'"),
        ({"text": "x", "odd": 1, "extra": 2}, f"unknown: extra, odd (there are: {OUTER})"),
        (inner(odd=1), "inner: unknown: odd (there are: number, many, named)"),
        *(({"text": "x", "inner": value}, "inner: must be a map") for value in (5, "x", [1], b"x")),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_its_path(raw, expected):
    assert faults(raw) == [expected]


def test_all_faults_are_named_at_once():
    assert len(faults({"text": 5, "ratio": "x", "inner": {"number": "x", "odd": 1}})) == 4


@pytest.mark.parametrize(
    "raw", [inner(many=["x"] * 250_000), inner(named=dict.fromkeys(map(str, range(250_000)), "x"))]
)
def test_of_many_faults_the_first_are_named(raw):
    before = time.process_time()
    assert len(faults(raw)) == MAX_FAULTS
    assert time.process_time() - before < 1  # else a peer keeps us busy with one message


@pytest.mark.parametrize("raw", [None, 5, [], "x"])
def test_what_is_no_map(raw):
    assert "must be a map" in faults(raw)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.binary() | st.integers(), inner, max_size=3)
    ),
    max_leaves=10,
)
NAMES = st.sampled_from(["spec", "argv", "env", "id", "signal", "labels", "cwd", "isolation", "x"])


@settings(suppress_health_check=[HealthCheck.too_slow])  # what it draws from is wide
@given(
    st.sampled_from([method.params for method in METHODS.values()]),
    st.dictionaries(NAMES, ANYTHING | st.dictionaries(NAMES, ANYTHING, max_size=4), max_size=4),
)
def test_whatever_is_sent_is_params_or_a_refusal(cls, raw):
    try:
        made = structure(raw, cls, "params")
    except JobsError as error:
        assert error.code == "invalid_argument"  # noqa: PT017  it may come, or not
    else:
        assert structure(unstructure(made), cls, "params") == made


def test_a_job_comes_back_as_it_went():
    job = Job(
        id="x",
        owner="alice",
        spec=Spec(argv=("a", "\udcff"), timeout_s=3),
        created_at=timestamp(1),
        exit=Exit(code=1),
    )
    assert structure(unstructure(job), Job, "job") == job
    assert job.packed == pack(unstructure(job))
    assert evolve(job, owner="bob").packed == pack(unstructure(evolve(job, owner="bob")))

"""What samples come to, and how it is told: without measuring anything."""

import os
import time
import xml.etree.ElementTree as ET

import pytest
import table
from bench import Bench
from figures import FIGURES, GOALS, KINDS, Goal
from machine import cgroup_mode
from measure_crowd import cpu_s
from plot import to_svg
from profile_launch import Launch, steps
from results import Results, Summary, Verdict
from run_bench import GROUPS
from scale import SMOKE


def test_figures_goals_and_groups_name_each_other_rightly():
    keys = {figure.key for figure in FIGURES}
    assert len(keys) == len(FIGURES)
    assert {figure.group for figure in FIGURES} == GROUPS.keys()
    assert {goal.figure for goal in GOALS} <= keys
    assert {goal.kind for goal in GOALS} <= set(KINDS)


def test_a_summary_of_many_samples_and_of_one():
    many = Summary.of([float(number) for number in range(101)])
    assert (many.q1, many.median, many.q3, many.p99) == (25, 50, 75, 99)
    assert (many.least, many.most, many.count) == (0, 100, 101)
    one = Summary.of([7.0])
    assert (one.q1, one.median, one.q3, one.p99, one.count) == (7, 7, 7, 7, 1)


@pytest.mark.parametrize(
    ("kind", "bound", "value", "text"),
    [
        ("at most", 2.0, 2.0, "reached"),
        ("at most", 2.0, 3.0, "not reached, by a factor of 1.50"),
        ("at least", 8.0, 9.0, "reached"),
        ("at least", 8.0, 2.0, "not reached, by a factor of 4.00"),
        ("at least", 8.0, 0.0, "not reached, by 8"),
        ("at most", 0.0, 0.25, "not reached, by 0.25"),
    ],
)
def test_a_verdict_says_by_how_much(kind, bound, value, text):
    goal = Goal(figure="launch", kind=kind, bound=bound)
    assert Verdict(goal=goal, value=value).text == text


def test_goals_are_multiples_of_what_the_same_run_found():
    results = Results()
    results.add("launch", "jobs", [10.0, 10.0])
    results.add("launch", "bwrap", [4.0, 4.0])
    found = {(verdict.goal.of, verdict.goal.bound): verdict for verdict in results.verdicts()}
    assert found.keys() == {("bwrap", 2.5), ("bwrap", 2.0)}  # the others were not measured
    assert {verdict.value for verdict in found.values()} == {2.5}
    assert found["bwrap", 2.5].reached
    assert not found["bwrap", 2.0].reached


def recording(seen, name, *, fails_at=0):
    """A contestant that notes its turn, and fails if that is the one of this number."""

    async def sample():
        seen.append(name)
        if len(seen) == fails_at:
            raise OSError("broken")
        return float(len(seen))

    return sample


async def test_contestants_take_turns_and_warm_ups_are_not_counted():
    seen, results = [], Results()
    bench = Bench(None, SMOKE, None, None, {}, results)
    contestants = {"a": recording(seen, "a"), "b": recording(seen, "b")}
    await bench.alternate("launch", contestants, 3)
    assert seen == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert results.samples["launch"] == {"a": [4, 5, 8], "b": [3, 6, 7]}
    assert results.faults == []


async def test_a_contestant_that_fails_is_out_and_the_others_go_on():
    seen, results = [], Results()
    bench = Bench(None, SMOKE, None, None, {}, results)
    contestants = {"a": recording(seen, "a"), "b": recording(seen, "b", fails_at=6)}
    await bench.alternate("launch", contestants, 3)
    assert seen == ["a", "b", "b", "a", "a", "b", "a"]
    assert results.samples["launch"] == {"a": [4, 5, 7], "b": [3]}
    assert results.faults == ["launch, b: OSError('broken')"]


def test_a_process_that_has_worked_is_not_idle():
    before = cpu_s(os.getpid())
    while time.process_time() < before + 0.02:
        pass
    assert before + 0.02 <= cpu_s(os.getpid()) <= time.process_time() + 1


def test_zero_and_hostile_names_can_be_drawn():
    results = Results()
    results.add("idle", "a <&> b", [0.0, 0.0])
    results.add("idle", "shims", [0.0])
    root = ET.fromstring(to_svg(results))
    assert "a <&> b" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_very_many_samples_are_thinned_where_they_are_written_down():
    results = Results()
    results.add("latency", "jobs", map(float, range(10_000)))
    assert f'"count": {10_000}' in table.to_json(results, {})
    assert table.to_json(results, {}).count("\n") < 2 * table.KEPT


@pytest.mark.parametrize(
    ("types", "mode"),
    [
        (("cgroup2",), "v2"),
        (("cgroup", "cgroup2"), "hybrid"),
        (("cgroup",), "v1"),
        (("ext4",), "none"),
    ],
)
def test_the_cgroup_mode_is_read_from_the_mounts(types, mode):
    assert cgroup_mode("".join(f"1 2 0:3 / /x rw - {each} none rw\n" for each in types)) == mode


def test_a_trace_becomes_steps_in_order_and_repeated_ones_are_told_apart():
    trace = "1001000 b\n1002000 a\n1004000 b\n9000000 late\n"
    found = steps(trace, [Launch(asked=1_000_000, answered=1_003_000, known=1_005_000)])
    assert list(found) == ["b", "a", "client: run answered", "b, again", "client: exit known"]
    assert found["a"] == [pytest.approx(0.002)]

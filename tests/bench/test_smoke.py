"""The bench itself, with next to no samples: that it works, not what the figures are."""

import json
import math
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import harness
import proctable
import pytest
from figures import FIGURES, GOALS
from run_bench import PEERS

pytestmark = pytest.mark.root

SMOKE_S = 120.0
SCRIPT = Path(__file__).with_name("run_bench.py")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What one smoke run has written: its folder, and the JSON of it."""
    out = tmp_path_factory.mktemp("bench")
    done = smoke(out)
    assert (out / "results.json").exists(), done.stderr
    return out, json.loads((out / "results.json").read_text())


def smoke(out, *words, path=None):
    environment = {**os.environ, "PATH": path or os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, SCRIPT, "--smoke", "--out", out, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SMOKE_S,
        check=False,
    )


def test_every_figure_has_finite_samples_of_ours(outcome):
    _, found = outcome
    for figure in FIGURES:
        samples = found["figures"][figure.key]["samples"]
        ours = {name: values for name, values in samples.items() if name not in peers()}
        assert ours, figure.key
        for name, values in ours.items():
            assert values, (figure.key, name)
            assert all(math.isfinite(value) and value >= 0 for value in values), (figure.key, name)


def peers():
    return {kind.name for kind in PEERS}


def test_every_peer_was_measured_or_it_is_said_why_not(outcome):
    _, found = outcome
    launched = found["figures"]["launch"]["samples"].keys()
    for name in peers():
        assert (
            name in launched
            or name in found["missing"]
            or any(name in fault for fault in found["faults"])
        )


def test_nothing_of_ours_went_wrong(outcome):
    _, found = outcome
    ours = [f for f in found["faults"] if not any(f", {name}: " in f for name in peers())]
    assert ours == []


def test_every_goal_is_judged_whose_contestants_were_measured(outcome):
    _, found = outcome
    judged = [(goal["figure"], goal["contestant"], goal["of"]) for goal in found["goals"]]
    for goal in GOALS:
        samples = found["figures"][goal.figure]["samples"]
        if goal.of is None or goal.of in samples:
            assert (goal.figure, goal.contestant, goal.of) in judged


def test_the_tables_hold_every_figure_and_the_plot_is_a_picture(outcome):
    out, _ = outcome
    table = (out / "table.md").read_text()
    assert all(f"| {figure.title} |" in table for figure in FIGURES)
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert widths == {9, 6}
    root = ET.parse(out / "plot.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.findall(".//{http://www.w3.org/2000/svg}rect")


def left_behind(mark):
    """Processes, cgroups and folders of the bench with this temporary name."""
    return [
        *(f"process {pid}" for pid in proctable.bearing(mark)),
        *(path for base in harness.own_cgroups() for path in base.glob("jobs-bench-*")),
        *Path("/var/tmp").glob("jobs-bench-*"),
    ]


def test_nothing_is_left_behind(outcome):
    assert left_behind("/var/tmp/jobs-bench-") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing_behind(tmp_path, number):
    argv = [sys.executable, SCRIPT, "--smoke", "--out", tmp_path / "out"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as bench:
        assert bench.stderr.readline().startswith("launch")
        bench.send_signal(number)
        _, said = bench.communicate(timeout=SMOKE_S)
    assert bench.returncode == 130, said
    assert said.endswith("interrupted; everything was ended\n")
    assert left_behind("/var/tmp/jobs-bench-") == []
    assert not (tmp_path / "out").exists()


def test_peers_that_are_not_installed_are_said_to_be_so(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "python3"):
        (programs / name).symlink_to(harness.program(name))
    done = smoke(tmp_path / "out", "--only", "job-memory", path=str(programs))
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert done.returncode == 0, done.stderr
    assert found["missing"]["bwrap"] == "not installed: bwrap (bubblewrap)"
    assert found["missing"].keys() == peers() - {"fork + exec"}

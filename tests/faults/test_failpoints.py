"""Failpoints: what they do, that they are off by default, and that each is documented."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from failpoints import ARMED, Failpoints

from jobs_proto.failpoint import VARIABLE

README = Path(__file__).parent / "README.md"

PROGRAM = """
from jobs_proto.failpoint import concerning, failpoint, shim_forked
failpoint("shim.killed")
shim_forked()
failpoint("shim.forked")
concerning("the job")
failpoint("shim.killed")
failpoint("exit.known", "another")
print("alive")
"""


def run(failpoints, *prefix):
    environment = dict(os.environ)
    environment.pop(VARIABLE, None)
    if failpoints is not None:
        environment[VARIABLE] = str(failpoints.folder)
    command = [*prefix, sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, check=False)


@pytest.fixture
def failpoints(tmp_path):
    return Failpoints(tmp_path / "failpoints")


def test_without_the_variable_nothing_happens():
    assert run(None).stdout == b"alive\n"


def test_who_comes_by_is_noted(failpoints):
    assert run(failpoints).stdout == b"alive\n"
    assert failpoints.reached() == {"shim.forked", "shim.killed", "exit.known"}
    assert failpoints.struck() == []


@pytest.mark.parametrize(
    ("name", "about"), [("shim.forked", ""), ("shim.killed", "the job"), ("exit.known", "another")]
)
def test_one_process_dies_of_it(failpoints, name, about):
    failpoints.arm(name)
    ended = run(failpoints)
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, b"")
    assert failpoints.struck() == [(name, about)]
    assert run(failpoints).stdout == b"alive\n"


def test_with_times_nobody_dies_and_each_writes_down_when(failpoints):
    (failpoints.folder / "times").touch()
    failpoints.arm("exit.known")
    assert run(failpoints).stdout == b"alive\n"
    rows = [line.split(" ") for line in (failpoints.folder / "times").read_text().splitlines()]
    assert [name for _when, name in rows] == ["shim.forked", "shim.killed", "exit.known"]
    assert sorted(int(when) for when, _name in rows) == [int(when) for when, _name in rows]


@pytest.mark.root
def test_pid_1_of_a_namespace_dies_of_it_too(failpoints):
    failpoints.arm("exit.known")
    ended = run(failpoints, "unshare", "--pid", "--fork", "--kill-child")
    assert ended.stdout == b""  # its exit status is unshare's, and says little
    assert failpoints.struck() == [("exit.known", "another")]


def test_what_is_disarmed_kills_nobody(failpoints):
    failpoints.arm("exit.known")
    failpoints.disarm()
    assert run(failpoints).stdout == b"alive\n"


def test_each_failpoint_is_documented_and_no_other():
    section = README.read_text().partition("## Failpoints")[2]
    assert tuple(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)) == ARMED

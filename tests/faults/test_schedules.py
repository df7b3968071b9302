"""A few schedules, as part of the tests; `make test-faults` plays more."""

import tempfile
from pathlib import Path

import checker
import pytest
import schedule
from play import certificates, play

SEEDS = range(1, 5)


@pytest.fixture(scope="module")
def certs():
    with certificates() as folder:
        yield folder


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="jobs-faults-", dir="/var/lib") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.root
@pytest.mark.parametrize("seed", SEEDS)
def test_everything_is_as_it_was_promised(certs, folder, seed):
    played = play(seed, certs, folder / str(seed))
    assert checker.violations(played.history) == [], played.log
    assert played.history.kills


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_schedule_again(tmp_path, seed):
    assert schedule.make(seed, tmp_path) == schedule.make(seed, tmp_path)


def test_all_failpoints_are_armed_in_turn(tmp_path):
    schedules = [schedule.make(seed, tmp_path) for seed in range(1, 21)]
    armed = {
        fault.options["name"] for made in schedules for fault in made.faults if fault.what == "arm"
    }
    assert armed == set(schedule.ARMED)

"""Fixtures: supervisors that end with their test, and the proof that they leave nothing behind."""

import contextlib
import os
import signal
import tempfile
from pathlib import Path

import harness
import pytest

TEST_S = 150
"""How long one test may take before it counts as hanging."""


@pytest.fixture(autouse=True)
def deadline():
    """End a test that hangs, with the place where it does."""

    def hung(_number, _frame):
        raise TimeoutError(f"the test did not end within {TEST_S} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(TEST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _supervisors(folder: Path):
    """Give a function that makes and starts supervisors; end them, and look for what is left."""
    if not (harness.SCRIPTS / "jobs-supervisor").exists():
        pytest.fail("the project is not installed here: pip install -e '.[test]'")
    made = []

    def make(*, start=True, **settings):
        supervisor = harness.Supervisor(folder / f"supervisor-{len(made)}", **settings)
        made.append(supervisor)
        if start:
            supervisor.start()
        return supervisor

    try:
        yield make
        leftovers = [fault for supervisor in made for fault in supervisor.end()]
        assert leftovers == []
    finally:
        for supervisor in made:
            supervisor.end_clients()
            if supervisor.running:
                supervisor.kill()
            print(f"--- {supervisor.log}\n{supervisor.said()}")  # noqa: T201  shown on failure


@pytest.fixture
def make_supervisor(tmp_path):
    """Give a function that makes a supervisor, started unless `start=False`."""
    with _supervisors(tmp_path) as make:
        yield make


@pytest.fixture
def supervisor(make_supervisor):
    """Give a supervisor of this test's own."""
    return make_supervisor()


@pytest.fixture(scope="module")
def make_shared(tmp_path_factory):
    """Give a function that makes a supervisor for all tests of the file."""
    with _supervisors(tmp_path_factory.mktemp("shared")) as make:
        yield make


@pytest.fixture(scope="module")
def shared(make_shared):
    """Give a supervisor for all tests of the file: each must leave it serving."""
    return make_shared()


@pytest.fixture
def gates():
    """Give a function that makes a `Gate`, where a job of another user can reach it."""
    with contextlib.ExitStack() as stack:
        # Where jobs see the same as we: they have a /tmp, a /var/tmp and a /dev/shm of their own.
        common = "/run" if os.geteuid() == 0 else Path.cwd()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=common)))
        folder.chmod(0o755)
        made = []

        def make():
            gate = harness.Gate(folder / f"gate-{len(made)}")
            made.append(gate)
            stack.callback(gate.close)
            return gate

        yield make

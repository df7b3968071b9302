"""What the program says, and exits with, where no supervisor can be asked."""

import os
import socket
import subprocess
import sys

import pytest

import jobs_certs

AS_THE_JOB = [["run", "-f", "ls"], ["follow", "x"], ["wait", "x"], ["wait", "x", "--timeout", "1s"]]
OTHERS = [
    ["run", "ls"],
    ["list"],
    ["inspect", "x"],
    ["logs", "x"],
    ["kill", "x"],
    ["kill", "--all"],
]
OTHERS += [["signal", "x", "HUP"], ["whoami"], ["plugins"]]

CASES = [*((words, 125) for words in AS_THE_JOB), *((words, 1) for words in OTHERS)]


def jobsctl(*words, home):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JOBS_")}
    return subprocess.run(
        [sys.executable, "-m", "jobs_cli", *words],
        env={**kept, "HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_said(done, status, said):
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("jobsctl: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """Options with a good certificate, but for the server."""
    ca = tmp_path_factory.mktemp("certs") / "ca"
    authority = jobs_certs.init(ca)
    alice = jobs_certs.issue(ca, "alice", role="operator")
    return ["--ca", authority.certificate, "--cert", alice.certificate, "--key", alice.key]


@pytest.fixture
def nobody():
    """An address where nothing listens, and nothing can start to."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize(("words", "status"), CASES)
def test_a_supervisor_that_is_not_there(words, status, identity, nobody, tmp_path):
    done = jobsctl("--server", nobody, *map(str, identity), *words, home=tmp_path)
    assert_said(done, status, f"{nobody}: connection refused")


@pytest.mark.parametrize(("words", "status"), [(["follow", "x"], 125), (["list"], 1)])
def test_none_that_is_configured(words, status, tmp_path):
    assert_said(jobsctl(*words, home=tmp_path), status, "no supervisor is configured")


def test_a_configuration_that_is_not_there(tmp_path):
    done = jobsctl("--config", str(tmp_path / "none.toml"), "list", home=tmp_path)
    assert_said(done, 1, "none.toml: No such file or directory")

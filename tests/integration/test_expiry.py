"""Whose certificate ends soon is told in time, and not in the midst of a job's output."""

import shutil

import pytest
import trio
from harness import in_thread

from jobs_certs import issue


@pytest.fixture
def ending(supervisor):
    """Give a function that has `jobsctl` ask with a certificate of so many days."""
    folder = supervisor.directory / "short"
    folder.mkdir(mode=0o700)
    for name in ("ca.crt", "ca.key"):
        shutil.copy(supervisor.certs / name, folder)

    def call(days, *words):
        pair = issue(folder, f"alice-{days}-{words[0]}", role="operator", days=days)
        options = ("--server", f"127.0.0.1:{supervisor.port}", "--ca", str(folder / "ca.crt"))
        mine = ("--cert", str(pair.certificate), "--key", str(pair.key))
        return supervisor.cli(*options, *mine, *words)

    return call


@pytest.mark.parametrize(
    ("days", "when"), [(1, "ends within a day, on"), (2, "ends in 1 day, on"), (14, "in 13 days")]
)
async def test_a_certificate_that_ends_soon_is_told_of(ending, days, when):
    done = await in_thread(ending, days, "whoami")
    assert done.returncode == 0
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("jobsctl: your certificate ")
    assert when in line


async def test_one_that_has_time_is_not(ending):
    assert (await in_thread(ending, 15, "whoami")).stderr == b""


async def test_a_jobs_standard_error_stays_its_own(ending):
    done = await in_thread(ending, 2, "run", "-f", "sh", "-c", "echo to stderr >&2")
    assert (done.returncode, done.stderr) == (0, b"to stderr\n")


async def test_several_requests_of_one_verb_warn_once(ending):
    ran = await in_thread(ending, 3, "run", "true")
    done = await in_thread(ending, 2, "remove", ran.stdout.decode().strip(), "nothing")
    assert done.stderr.decode().count("your certificate") == 1


async def test_the_supervisor_says_so_of_its_own(make_supervisor):
    supervisor = make_supervisor()
    assert "ends soon" not in supervisor.said()
    for name in ("server.crt", "server.key"):
        (supervisor.certs / name).unlink()
    issue(supervisor.certs, "server", role="server", sans=["127.0.0.1"], days=10)
    await in_thread(supervisor.restart)
    with trio.fail_after(30):
        while "our certificate ends soon" not in supervisor.said():
            await trio.sleep(0.01)

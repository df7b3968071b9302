"""Shims, by a fork server of their own: every end of a job, proved and told."""

import contextlib
import os
import select
import signal
import tempfile
import time
from pathlib import Path

import pytest
import shims

from jobs_proto import files
from jobs_proto import shim as protocol

TRIES = 50
"""To stop a shim at a moment that is over in a few ms."""


def test_term_goes_to_the_whole_group(server):
    job = server.launch(["sh", "-c", "sleep 1000 & sleep 1000"])
    job.expect(protocol.STARTED)
    job.kill(signal.SIGTERM, grace_s=1000)
    record = job.end()
    assert (record["status"], record["killed"]) == (signal.SIGTERM, False)
    assert record["killed_by"] == "tester"


def test_what_was_executed_has_a_start_however_soon_it_was_killed(server, stack):
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobs-test-")))
    folder.chmod(0o777)  # for the job's user
    for n in range(TRIES):
        mark = folder / str(n)
        job = server.launch(["sh", "-c", f"echo > {mark}; sleep 1000"])
        assert _until((job.directory / files.IDENTITY).exists)
        os.kill(job.shim, signal.SIGSTOP)
        assert _until(mark.exists)
        in_time = not select.select([job.connection], [], [], 0)[0]  # it has told of no start yet
        job.kill()
        os.kill(job.shim, signal.SIGCONT)
        assert job.end()["started_ns"] is not None
        if in_time:
            return
    raise AssertionError(f"a shim was never stopped in time, in {TRIES} tries")


def _until(holds):
    deadline = time.monotonic() + shims.WAIT_S
    while not holds() and time.monotonic() < deadline:
        os.sched_yield()
    return holds()


def test_what_ignores_term_dies_when_the_grace_period_is_over(server):
    job = server.launch(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1000; done"])
    job.expect(protocol.STARTED)
    job.tell(protocol.WATCH, offset=0)
    job.expect(protocol.GREW)
    job.kill(signal.SIGTERM, grace_s=0.05)
    record = job.end()
    assert (record["status"], record["killed"]) == (signal.SIGKILL, True)


def test_daemons_stopped_ones_and_double_forks_die_with_the_job(server):
    script = """
        setsid sleep 1000 &
        (setsid sh -c 'sleep 1000 & echo $!; exec sleep 1000' &)
        sleep 1000 & kill -STOP $!
        trap '' TERM HUP INT; echo ready; wait
        while :; do sleep 1000; done
    """
    job = server.launch(["sh", "-c", script])
    leader = job.expect(protocol.STARTED)["pid"]
    while b"ready" not in job.output or job.output.count(b"\n") < 2:
        job.tell(protocol.WATCH, offset=len(job.output))
        job.expect(protocol.GREW)
    (init,) = shims.children(job.shim)
    family = {leader, init, *shims.children(init), *shims.children(leader)}
    assert len(family) >= 4
    job.kill(signal.SIGTERM, grace_s=0.05)
    job.end()
    assert not [pid for pid in family if shims.alive(pid)]


def test_the_deadline_is_kept(server):
    record = server.launch(["sleep", "1000"], timeout_s=0.05).end()
    assert (record["status"], record["timed_out"]) == (signal.SIGTERM, True)
    record = server.launch(
        ["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"], timeout_s=0.2, grace_s=0.05
    ).end()
    assert (record["status"], record["timed_out"], record["killed"]) == (9, True, True)


def test_a_deadline_may_be_further_than_poll_can_count(server):
    record = server.launch(["true"], timeout_s=1e9).end()
    assert (record["status"], record["timed_out"]) == (0, False)


def test_a_kill_while_the_job_starts(server):
    for grace_s in (0.0, 0.01, 1000.0) * 5:
        job = server.launch(["sleep", "1000"])
        job.kill(signal.SIGTERM, grace_s=grace_s)
        record = job.end()
        assert record["status"] in (signal.SIGTERM, signal.SIGKILL)
        assert (record["killed_by"], record["error"]) == ("tester", None)


def test_a_kill_of_a_launcher_that_hangs_before_init_knows_of_it(plain, tmp_path):
    os.mkfifo(tmp_path / "nobody-writes")
    hang = ["secrets", "s", str(tmp_path / "nobody-writes"), 0, 0]
    job = plain.launch(["sleep", "1000"], before=[hang])
    assert _until((job.directory / files.IDENTITY).exists)
    job.kill()
    record = job.end()
    assert (record["status"], record["started_ns"]) == (signal.SIGKILL, None)


def test_signals_that_come_as_the_leader_ends_lose_nothing(server):
    for _ in range(60):
        job = server.launch(["true"])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                job.tell(protocol.SIGNAL, signal=signal.SIGCONT)
        record = job.end_on_disk()
        assert (record["status"], record["error"]) == (0, None)


@pytest.mark.root
def test_a_killed_init_takes_its_namespace_along(isolated):
    job = isolated.launch(["sh", "-c", "setsid sleep 1000 & sleep 1000"])
    leader = job.expect(protocol.STARTED)["pid"]
    (init,) = shims.children(job.shim)
    os.kill(init, signal.SIGKILL)
    record = job.end()
    assert (record["status"], record["killed"], record["killed_by"]) == (9, False, None)
    assert not shims.alive(leader)


def _with_a_daemon(server) -> tuple[shims.Job, int, set[int]]:
    """Have a job of several sessions; give it, its init, and the leader with its children."""
    job = server.launch(["sh", "-c", "setsid sleep 1000 & echo up; sleep 1000"])
    leader = job.expect(protocol.STARTED)["pid"]
    job.tell(protocol.WATCH, offset=0)
    job.expect(protocol.GREW)
    (init,) = shims.children(job.shim)
    return job, init, {leader, *shims.children(leader)}


def test_a_killed_init_without_a_namespace_leaves_nothing_either(plain):
    job, init, family = _with_a_daemon(plain)
    os.kill(init, signal.SIGKILL)
    assert job.end()["status"] == signal.SIGKILL
    assert not [pid for pid in family if shims.alive(pid)]


def test_a_job_dies_with_its_shim(server):
    job, init, family = _with_a_daemon(server)
    os.kill(job.shim, signal.SIGKILL)
    assert all(shims.gone(pid) for pid in (init, *family))
    assert not (job.directory / files.EXIT).exists()
    if job.cgroup is not None:
        job.cgroup.rmdir()


def test_signals_for_the_job_do_not_touch_init(server):
    job = server.launch(["sh", "-c", "trap 'echo hup; exit 5' HUP; echo up; sleep 1000 & wait"])
    job.expect(protocol.STARTED)
    job.tell(protocol.WATCH, offset=0)
    job.expect(protocol.GREW)
    (init,) = shims.children(job.shim)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        os.kill(init, number)
    job.tell(protocol.SIGNAL, signal=signal.SIGHUP)
    assert os.waitstatus_to_exitcode(job.end()["status"]) == 5
    assert job.output == b"up\nhup\n"

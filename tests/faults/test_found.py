"""What the suite has found, each by the failpoint at which it was wrong."""

import os
import signal
import tempfile
from pathlib import Path

import harness
import pytest
import trio
from failpoints import Failpoints

from jobs_proto.errors import JobsError

pytestmark = pytest.mark.root

DEADLINE_S = 60.0


class Fragile(harness.Supervisor):
    """A supervisor with failpoints."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        super().__init__(folder, jobs={"max_running": 1})
        self.failpoints = Failpoints(scratch / "failpoints")
        self.prefix = ["env", self.failpoints.setting]

    async def die_at(self, name: str) -> None:
        """Wait until it has died of an armed failpoint, then start it again."""
        status = await trio.to_thread.run_sync(self.process.wait, DEADLINE_S)
        assert status == -signal.SIGKILL
        assert [point for point, _ in self.failpoints.struck()] == [name]
        await trio.to_thread.run_sync(self.restart)


@pytest.fixture
def supervisor(tmp_path):
    with tempfile.TemporaryDirectory(prefix="jobs-faults-", dir="/var/lib") as scratch:
        made = Fragile(tmp_path / "supervisor", Path(scratch))
        made.start()
        try:
            yield made
            assert made.end() == []
        finally:
            if made.running:
                made.kill()


async def test_a_kill_in_the_queue_is_on_the_disk_before_it_is_told(supervisor):
    async with supervisor.client() as client:
        first = await client.run(["sleep", "1000"])
        queued = await client.run(["true"])
        supervisor.failpoints.arm("exit.before-record")
        with pytest.raises(JobsError):  # all was done but to answer
            await client.kill(queued.id)
        await supervisor.die_at("exit.before-record")
        await client.kill(first.id, grace_s=0)
        ended = await client.wait(queued.id)
    assert (ended.outcome, ended.started_at) == ("stopped", None)


async def test_an_end_that_was_told_never_changes(supervisor):
    async with supervisor.client() as client, trio.open_nursery() as nursery:
        job = await client.run(["sh", "-c", "echo on; sleep 1000"])
        await harness.until_running(client, job)
        supervisor.failpoints.arm("exit.before-record")
        nursery.start_soon(supervisor.die_at, "exit.before-record")
        os.kill(supervisor.shim(job), signal.SIGKILL)
        told = await client.wait(job.id)
    async with supervisor.client() as client:
        assert (await client.wait(job.id)) == told
    assert told.outcome == "lost"


async def test_a_removal_that_was_begun_is_finished(supervisor):
    async with supervisor.client() as client:
        job = await client.run(["echo", "output"])
        await client.wait(job.id)
        supervisor.failpoints.arm("remove.trashed")
        with pytest.raises(JobsError):
            await client.remove(job.id)
        await supervisor.die_at("remove.trashed")
        assert await client.list(all=True) == []
    await harness.until_said(supervisor, "tidied")
    assert os.listdir(supervisor.state / "trash") == []


async def test_a_launch_outlasts_fork_servers_that_die_at_once(supervisor):
    async with supervisor.client() as client:
        supervisor.failpoints.arm("forkserver.before-hello")
        os.kill(supervisor.forkserver(), signal.SIGKILL)
        with trio.fail_after(DEADLINE_S):
            job = await client.run(["true"])
            assert (await client.wait(job.id)).outcome == "completed"


async def test_a_shim_may_die_with_its_socket_made_and_its_identity_not_written(supervisor):
    supervisor.failpoints.arm("launcher.before-identity")
    async with supervisor.client() as client:
        job = await client.run(["true"])
        assert (await client.wait(job.id)).outcome == "completed"


@pytest.mark.parametrize(
    ("point", "outcome"),
    [
        ("launcher.forked", "completed"),  # launched again
        ("launcher.ready", "completed"),
        ("launcher.locked", "completed"),
        ("launcher.identified", "lost"),
        ("launcher.told", "start_failed"),
    ],
)
async def test_a_launcher_may_die_anywhere(supervisor, point, outcome):
    async with supervisor.client() as client:
        supervisor.failpoints.arm(point)
        job = await client.run(["true"])
        assert (await client.wait(job.id)).outcome == outcome
        assert (await client.wait((await client.run(["true"])).id)).outcome == "completed"


async def test_a_request_made_twice_is_answered_only_when_its_job_is_on_the_disk(supervisor):
    request = {"spec": {"argv": ["true"]}, "request_id": "once"}
    refused = []

    async def ask(client):
        try:
            await client.call("run", request)
        except JobsError as error:
            refused.append(error.code)

    async with supervisor.client() as client:
        await client.hello()
        supervisor.failpoints.arm("store.before-commit")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, client)
            nursery.start_soon(ask, client)
        await supervisor.die_at("store.before-commit")
        assert refused == ["unavailable", "unavailable"]
        assert await client.list(all=True) == []


async def test_what_a_request_without_answer_has_left_is_deleted(supervisor):
    request = {"spec": {"argv": ["true"], "isolation": {"secrets": ["key"]}}}
    async with supervisor.client() as client:
        supervisor.failpoints.arm("launch.before-record")
        with pytest.raises(JobsError):
            await client.call("run", {**request, "secrets": {"key": b"secret"}})
        await supervisor.die_at("launch.before-record")
    await harness.until_said(supervisor, "tidied")
    assert os.listdir(supervisor.state / "jobs") == []
    assert not (supervisor.state / "quarantine").exists()


def test_a_supervisor_starts_though_its_fork_server_dies_once(supervisor):
    supervisor.stop()
    supervisor.failpoints.arm("forkserver.before-hello")
    supervisor.start()
    assert supervisor.failpoints.struck() == [("forkserver.before-hello", "")]

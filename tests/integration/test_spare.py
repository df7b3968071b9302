"""What is done ahead of a job: the next one gets it if it fits, and nothing of it stays."""

import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
import trio
from harness import SHIM_END_S, Supervisor

from jobs_proto.isolation import Isolation
from jobs_proto.job import Limits

pytestmark = pytest.mark.root


@pytest.fixture
def scratch():
    """A directory that jobs can see, as they cannot what is in /tmp."""
    with tempfile.TemporaryDirectory(prefix="jobs-spare-", dir="/var/lib") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def supervisor(tmp_path, scratch):
    """One that has mounts of its own, and hides a path at which there is nothing yet."""
    hidden = [str(scratch / "hidden")]
    made = Supervisor(tmp_path / "supervisor", jobs={"hidden": hidden, "max_running": 2})
    made.prefix = ["unshare", "--mount"]
    made.start()
    yield made
    assert made.leftovers() == []
    assert made.stop() == 0
    assert made.job_cgroups() == []


async def run(client, *argv, **options):
    """Run a job to its end; give it."""
    return await client.wait((await client.run(list(argv), **options)).id)


async def waited_for(supervisor, *, but=None) -> str:
    """Wait until a launcher waits for a job, another one than `but`; give that job's id."""
    with trio.fail_after(SHIM_END_S):
        while (job := supervisor.waiting_for()) in (None, but):
            await trio.sleep(0.01)
    return job


def mount(supervisor, *words):
    """Mount something where the supervisor is."""
    where = ["nsenter", f"--mount=/proc/{supervisor.pid}/ns/mnt"]
    subprocess.run([*where, "mount", *words], check=True)


async def test_the_next_job_is_the_one_that_is_waited_for(supervisor):
    async with supervisor.client() as client:
        await run(client, "true")
        for _ in range(3):
            expected = await waited_for(supervisor)
            job = await run(client, "cat", "/proc/self/cgroup")
            assert (job.id, job.outcome) == (expected, "completed")


async def test_of_two_jobs_at_once_one_is_waited_for(supervisor):
    async with supervisor.client() as client:
        await run(client, "true")
        expected = await waited_for(supervisor)
        found = []

        async def one():
            found.append(await run(client, "true"))

        async with trio.open_nursery() as both:
            both.start_soon(one)
            both.start_soon(one)
        assert {job.outcome for job in found} == {"completed"}
        assert [job.id == expected for job in found].count(True) == 1


LOOK = "ip -o link | wc -l; grep -c ' /mnt ' /proc/self/mountinfo; nproc; ulimit -n"


@pytest.mark.parametrize(
    ("asked", "differs"),
    [
        ({"isolation": Isolation(network="none")}, {0: "1"}),
        ({"isolation": Isolation(tmpfs=("/mnt",))}, {1: "1"}),
        ({"limits": Limits(cpuset="0")}, {2: "1"}),
        ({"limits": Limits(nofile=77)}, {3: "77"}),
    ],
)
async def test_a_job_unlike_the_last_one_gets_what_it_asked_for(supervisor, asked, differs):
    async with supervisor.client() as client:

        async def look(**options):
            job = await run(client, "sh", "-c", LOOK, **options)
            return dict(enumerate((await _output(client, job)).split()))

        usual = await look()
        assert not usual.items() & differs.items()
        for _ in range(2):
            await waited_for(supervisor)
            assert await look(**asked) == usual | differs
            await waited_for(supervisor)
            assert await look() == usual


async def _output(client, job) -> str:
    parts = [part.data async for part in client.follow(job.id) if hasattr(part, "data")]
    return b"".join(parts).decode()


def replaced(hidden):
    """By a directory of the same number, most likely."""
    hidden.rmdir()
    hidden.mkdir()


def renamed(hidden):
    """By another one's name."""
    other = hidden.with_name("another")
    other.mkdir()
    other.rename(hidden)


def linked(hidden):
    """By the same file, which has had another name meanwhile."""
    other = hidden.with_name("another")
    other.hardlink_to(hidden)
    hidden.unlink()
    hidden.hardlink_to(other)
    other.unlink()


@pytest.mark.parametrize(
    ("made", "change"),
    [
        (None, Path.mkdir),
        (None, Path.touch),
        (Path.mkdir, replaced),
        (Path.mkdir, renamed),
        (Path.touch, linked),
    ],
)
async def test_what_takes_a_hidden_ones_place_is_hidden_from_the_next_job(
    supervisor, scratch, made, change
):
    """Its path is hidden, whatever is there, in which order it came."""
    hidden = scratch / "hidden"
    look = "sh", "-c", "echo seen; ls -l; cat hidden hidden/token"
    if made is not None:
        made(hidden)
    async with supervisor.client() as client:
        for _ in range(2):
            await run(client, *look, cwd=str(scratch), user="root")
            await waited_for(supervisor)
            change(hidden)
            (hidden / "token" if hidden.is_dir() else hidden).write_text("secret")
            said = await _output(client, await run(client, *look, cwd=str(scratch), user="root"))
            assert "seen" in said
            assert "hidden" in said
            assert "secret" not in said
            if made is None:
                break
            if hidden.is_dir():
                (hidden / "token").unlink()


async def test_an_owner_who_has_no_place_costs_nobody_the_one_that_waits(supervisor):
    """Nor is what is ended of it, later, that of a job which bears its id."""
    async with supervisor.client() as client:
        jobs = [await client.run(["sleep", "0.01"]) for _ in range(30)]
        for job in jobs:
            assert (await client.wait(job.id)).outcome == "completed"


async def test_a_fork_server_that_dies_between_the_id_and_the_launch_costs_no_job(supervisor):
    async with supervisor.client() as client:
        await run(client, "true")
        for tenth_ms in range(5, 65, 5):
            await waited_for(supervisor)
            forkserver = supervisor.forkserver()

            async def launch():
                job = await run(client, "sleep", "0.2")
                assert job.outcome == "completed"

            async with trio.open_nursery() as nursery:
                nursery.start_soon(launch)
                await trio.sleep(tenth_ms / 10_000)  # to be at another step each time
                os.kill(forkserver, signal.SIGKILL)


async def test_the_hosts_mounts_are_those_of_the_next_jobs_launch(supervisor, scratch):
    place = scratch / "place"
    place.mkdir()
    async with supervisor.client() as client:
        await run(client, "true")
        await waited_for(supervisor)
        mount(supervisor, "--bind", str(place), str(place))
        assert await _options(client, place) == "rw"
        await waited_for(supervisor)
        mount(supervisor, "-o", "remount,bind,ro", str(place))
        assert await _options(client, place) == "ro"


async def _options(client, place) -> str:
    job = await run(client, "grep", f" {place} ", "/proc/self/mountinfo")
    return (await _output(client, job)).split()[5].split(",")[0]


async def test_a_job_that_has_to_wait_keeps_nobody_waiting(supervisor):
    """Its id is its own, whoever was to be launched under it."""
    async with supervisor.client() as client:
        first, second = [await client.run(["sleep", "1000"]) for _ in range(2)]
        waiting = await client.run(["true"])
        assert waiting.phase == "queued"
        await client.kill(first.id, grace_s=0)
        assert (await client.wait(waiting.id)).outcome == "completed"
        assert (await run(client, "true")).outcome == "completed"
        await client.kill(second.id, grace_s=0)
        await client.wait(second.id)


async def test_a_killed_supervisors_waiting_shim_ends_and_its_cgroups_go_with_the_next(supervisor):
    async with supervisor.client() as client:
        await run(client, "true")
        left = await waited_for(supervisor)
        places = [path / left for path in supervisor.cgroups()]
        assert any(path.is_dir() for path in places)
        await trio.to_thread.run_sync(supervisor.restart)
        with trio.fail_after(SHIM_END_S):
            while any(path.exists() for path in places):
                await trio.sleep(0.01)
        assert (await run(client, "true")).outcome == "completed"


async def test_a_cgroup_with_somebody_in_it_is_left_alone(supervisor):
    """That of a job whose record was lost, perhaps."""
    tracked = next(base for base in supervisor.cgroups() if (base / "cgroup.kill").exists())
    stranger = tracked / "nobody-knows"
    supervisor.stop()
    stranger.mkdir(parents=True)
    with subprocess.Popen(["sleep", "1000"]) as sleeper:  # noqa: ASYNC220  it is only started
        try:
            (stranger / "cgroup.procs").write_text(str(sleeper.pid))
            supervisor.start()
            async with supervisor.client() as client:
                assert (await run(client, "true")).outcome == "completed"
            with trio.fail_after(SHIM_END_S):
                while "processes in a cgroup of no known job" not in supervisor.said():
                    await trio.sleep(0.05)
            assert sleeper.poll() is None
        finally:
            sleeper.kill()
    supervisor.stop()
    supervisor.start()
    with trio.fail_after(SHIM_END_S):
        while stranger.exists():
            await trio.sleep(0.01)

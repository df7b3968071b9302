"""The disk takes its time with a record, or refuses it, and something else happens meanwhile.

A connection of the test's own holds the database's lock, so that the supervisor's commits wait; for
longer than SQLite's patience of 5 s, they fail.
"""

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

import pytest
import trio
import wire
from failpoints import Failpoints
from harness import JobsError, in_thread, until_running

from jobs_proto import failpoint

SOON_S = 20
"""How long what is expected may take on a busy machine."""

CAT = ["cat", "/run/secrets/a"]

IN_TURN = """
import itertools, time
from pathlib import Path
from jobs_plugins import hookimpl

calls = itertools.count(1)

@hookimpl
def jobs_limits(spec):
    folder = Path(spec.env["FOLDER"])
    number = next(calls)
    (folder / f"came-{number}").touch()
    while not (folder / f"go-{number}").exists():
        time.sleep(0.01)
"""


@contextlib.contextmanager
def held(supervisor):
    """Have the supervisor's commits wait for the end of the `with` statement."""
    connection = sqlite3.connect(supervisor.state / "jobs.sqlite", isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def secrets(supervisor) -> set:
    return set((supervisor.state / "jobs").glob("*/secrets"))


async def until(condition) -> None:
    with trio.fail_after(SOON_S):
        while not condition():
            await trio.sleep(0.01)


@pytest.fixture
def reached(monkeypatch):
    """Give a function that tells which failpoints somebody came by."""
    # Where inits see the same as we: they have a /tmp of their own.
    common = "/run" if os.geteuid() == 0 else Path.cwd()
    with tempfile.TemporaryDirectory(dir=common) as folder:
        points = Failpoints(Path(folder, "failpoints"))
        monkeypatch.setenv(failpoint.VARIABLE, str(points.folder))
        yield points.reached


async def test_a_client_that_goes_leaves_no_secrets_of_a_request_that_came_twice(
    reached, make_supervisor, tmp_path
):
    """Its job is the first one's, whose secrets stay until its leader has read them."""
    plugins, folder = tmp_path / "plugins", tmp_path / "folder"
    for each in (plugins, folder):
        each.mkdir(mode=0o755)
    (plugins / "in_turn.py").write_text(IN_TURN)
    (plugins / "in_turn.py").chmod(0o644)
    supervisor = make_supervisor(plugins={"dir": str(plugins), "decide_s": 60.0})
    params = {
        "spec": {"argv": CAT, "env": {"FOLDER": str(folder)}, "isolation": {"secrets": ["a"]}},
        "request_id": "twice",
        "secrets": {"a": b"told"},
    }
    with wire.Wire(supervisor) as first, wire.Wire(supervisor) as second:
        first.ask("run", params)
        await until((folder / "came-1").exists)
        second.ask("run", params)
        await until((folder / "came-2").exists)
        with held(supervisor):
            (folder / "go-1").touch()
            await until(lambda: "launch.before-record" in reached())
            (of_first,) = secrets(supervisor)
            (folder / "go-2").touch()
            await until(lambda: len(secrets(supervisor)) == 2)
            second.socket.close()
            await until(lambda: secrets(supervisor) == {of_first})
        _, _, error, job = await in_thread(first.receive)
    assert error is None
    assert supervisor.state / "jobs" / job["id"] / "secrets" == of_first
    async with supervisor.client() as client:
        assert (await client.wait(job["id"])).outcome == "completed"
    assert not secrets(supervisor)
    assert len(list((supervisor.state / "jobs").iterdir())) == 1


async def test_a_client_that_goes_leaves_no_secrets_of_a_job_that_is_refused_then(supervisor):
    with wire.Wire(supervisor) as client, held(supervisor):
        spec = {"argv": CAT, "isolation": {"secrets": ["a"]}}
        client.ask("run", {"spec": spec, "secrets": {"a": b"told"}})
        await until(lambda: secrets(supervisor))
        client.socket.close()
        await until(lambda: not list((supervisor.state / "jobs").iterdir()))
    async with supervisor.client() as client:
        assert await client.list(all=True) == []


async def test_a_client_that_goes_leaves_its_job_to_go_on(supervisor):
    """Whose record was on its way: it may have been answered, for all the client knows."""
    with wire.Wire(supervisor) as client, held(supervisor):
        spec = {"argv": CAT, "isolation": {"secrets": ["a"]}}
        client.ask("run", {"spec": spec, "name": "mine", "secrets": {"a": b"told"}})
        await until(lambda: secrets(supervisor))
        client.socket.close()
    async with supervisor.client() as client:
        with trio.fail_after(SOON_S):
            while not (jobs := await client.list(all=True)):
                await trio.sleep(0.01)
        assert (await client.wait(jobs[0].id)).outcome == "completed"
        assert [piece.data async for piece in client.follow(jobs[0].id) if hasattr(piece, "data")]


async def test_limits_that_the_disk_refuses(supervisor):
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", "echo here; exec sleep 1000"])
        before = await until_running(client, job)
        with held(supervisor), pytest.raises(JobsError, match="nothing was changed") as refusal:
            await client.update(job.id, timeout_s=1.0)
        assert refusal.value.code == "resource_exhausted"
        after = await client.inspect(job.id)
        assert (after.timeout_s, after.updated_at) == (None, None)
        assert (after.phase, after.pid) == ("running", before.pid)
        updated = await client.update(job.id, timeout_s=1000.0)
        assert (updated.timeout_s, updated.updated_at is None) == (1000.0, False)


@pytest.mark.root
async def test_what_happens_while_limits_are_written_does_not_undo_them(supervisor):
    """Their record was made before the pause, and the pause's before they held."""
    async with supervisor.client() as client, supervisor.client() as other:
        job = await client.run(["sh", "-c", "echo here; exec sleep 1000"])
        await until_running(client, job)
        async with trio.open_nursery() as nursery:
            with held(supervisor):
                nursery.start_soon(_update, client, job)
                nursery.start_soon(other.pause, job.id)
                with trio.fail_after(SOON_S):
                    while (await client.inspect(job.id)).phase != "paused":
                        await trio.sleep(0.01)
    await in_thread(supervisor.restart)
    async with supervisor.client() as client:
        found = await client.inspect(job.id)
        assert (found.phase, found.timeout_s) == ("paused", 1000.0)


async def _update(client, job):
    assert (await client.update(job.id, timeout_s=1000.0)).timeout_s == 1000.0

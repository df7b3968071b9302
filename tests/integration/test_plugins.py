"""Plugins in a real supervisor: decisions, limits and events of a directory's file."""

import json

import pytest
import trio
from harness import JobsError, collect, finish, in_thread

from jobs_proto.job import Limits

POLICY = """
import json, time
from pathlib import Path
import trio
from jobs_plugins import Allow, Deny, hookimpl
from jobs_proto.errors import JobsError
from jobs_proto.job import Limits

log = None

@hookimpl
def jobs_configure(settings):
    global log
    log = Path(settings["log"])

@hookimpl
async def jobs_authorize(identity, action, job):
    if job is None:
        return None
    match job.labels.get("policy"):
        case "hang":
            await trio.sleep_forever()
        case "raise":
            raise RuntimeError("a secret")
        case "theirs" if identity.name == "viewer":
            return Allow("it is theirs too")

@hookimpl
def jobs_limits(identity, spec):
    match spec.env.get("LIMITS"):
        case "raise":
            raise RuntimeError("a secret")
        case "hang":
            time.sleep(1000)
        case "refuse":
            raise JobsError("failed_precondition", "Closed on Sundays.")
        case "tight":
            return Limits(nofile=64, pids=50, output_max_bytes=1 << 20, enforcement="best-effort")

@hookimpl
def jobs_event(event):
    line = [event.kind, event.job_id, event.job and event.job.outcome]
    with log.open("a") as file:
        file.write(json.dumps(line) + "\\n")
"""

DECIDE_S = 1.0


@pytest.fixture
def plugged(make_supervisor, tmp_path):
    directory = tmp_path / "plugins"
    directory.mkdir(mode=0o755)
    (directory / "policy.py").write_text(POLICY)
    (directory / "policy.py").chmod(0o644)
    supervisor = make_supervisor(
        plugins={
            "dir": str(directory),
            "decide_s": DECIDE_S,
            "config": {"policy": {"log": str(tmp_path / "events")}},
        }
    )
    supervisor.events = tmp_path / "events"
    return supervisor


async def test_decisions_of_a_plugin(plugged):
    async with plugged.client() as admin, plugged.client("dev-viewer") as viewer:
        jobs = {
            kind: await admin.run(["true"], labels={"policy": kind})
            for kind in ("raise", "theirs", "hang")
        }
        for kind in ("raise", "hang"):  # it is denied to everybody: nobody sees it
            with pytest.raises(JobsError) as caught:
                await admin.inspect(jobs[kind].id)
            assert caught.value.code == "not_found"
        await viewer.wait(jobs["theirs"].id)
        await viewer.remove(jobs["theirs"].id)
        answer = await admin.call("list", {"all": True})
        assert (answer["jobs"], answer["complete"]) == ([], False)
    assert "a secret" in plugged.said()
    assert f"gave no answer within {DECIDE_S:g} s" in plugged.said()


async def test_limits_of_a_plugin(plugged):
    async with plugged.client() as client:
        job, out = await finish(client, ["sh", "-c", "ulimit -n"], env={"LIMITS": "tight"})
        assert out.stdout == b"64\n"
        assert job.limits.nofile == 64
        assert job.limited_by["nofile"] == "policy"
        assert job.spec.limits.nofile is None
        job, out = await finish(
            client, ["sh", "-c", "ulimit -n"], env={"LIMITS": "tight"}, limits=Limits(nofile=32)
        )
        assert (out.stdout, "nofile" in job.limited_by) == (b"32\n", False)
        for kind, code, words in (
            (
                "raise",
                "failed_precondition",
                "the plugin policy failed when it was asked for its limits",
            ),
            (
                "hang",
                "failed_precondition",
                "the plugin policy gave no answer within 1 s for its limits",
            ),
            ("refuse", "failed_precondition", "Closed on Sundays."),
        ):
            with pytest.raises(JobsError) as caught:
                await client.run(["true"], env={"LIMITS": kind})
            assert caught.value.code == code
            assert words in caught.value.message
        assert len(await client.list(all=True)) == 2


async def test_an_update_does_not_loosen_what_a_plugin_has_set(plugged):
    async with plugged.client() as client:
        job = await client.run(["sleep", "1000"], env={"LIMITS": "tight"})
        assert job.limited_by["output_max_bytes"] == "policy"
        with pytest.raises(JobsError, match="the plugin policy"):
            await client.update(job.id, output_max_bytes=2 << 20)
        job = await client.update(job.id, output_max_bytes=1 << 19)
        assert job.limits.output_max_bytes == 1 << 19
        assert "output_max_bytes" not in job.limited_by


async def test_a_request_that_comes_again_is_not_limited_again(plugged):
    async with plugged.client() as client:
        job = await client.run(["true"], request_id="one")
        again = await client.run(["true"], request_id="one")
        assert again.id == job.id


async def test_events_of_a_job_in_order_after_they_are_on_disk(plugged):
    async with plugged.client() as client:
        job = await client.run(["false"])
        await collect(client, job.id)
        await client.wait(job.id)
        await client.remove(job.id)
        told = []
        with trio.fail_after(60):
            while len(told) < 4:
                if plugged.events.exists():
                    told = [json.loads(line) for line in plugged.events.read_text().splitlines()]
                await trio.sleep(0.01)
    assert told == [
        ["queued", job.id, None],
        ["started", job.id, None],
        ["exited", job.id, "failed"],
        ["removed", job.id, None],
    ]


async def test_jobsctl_plugins(plugged):
    listed = await in_thread(plugged.cli, "plugins")
    rows = [line.split("\t") for line in listed.stdout.decode().splitlines()]
    file = next(row[3] for row in rows if row[2] == "policy")
    assert file.endswith("/policy.py")
    assert ["jobs_authorize", "1", "policy", file] in rows
    assert ["jobs_authorize", "2", "jobs.roles", "built-in"] in rows
    assert ["jobs_identify", "1", "jobs.identity", "built-in"] in rows
    told = json.loads((await in_thread(plugged.cli, "plugins", "--json")).stdout)
    assert [plugin["name"] for plugin in told["plugins"]][-1] == "policy"
    denied = await in_thread(lambda: plugged.cli("plugins", context="dev-viewer"))
    assert denied.returncode != 0
    assert b"may not plugins" in denied.stderr


def test_a_plugin_that_cannot_be_loaded_stops_the_supervisor(make_supervisor, tmp_path):
    directory = tmp_path / "plugins"
    directory.mkdir(mode=0o755)
    (directory / "broken.py").write_text("import nowhere_at_all\n")
    supervisor = make_supervisor(start=False, plugins={"dir": str(directory)})
    with supervisor.spawn() as process:
        assert process.wait(60) == 1
    told = supervisor.log.read_text()
    assert "The plugin broken" in told
    assert "No module named 'nowhere_at_all'" in told
    assert "Traceback" not in told
    (directory / "broken.py").unlink()

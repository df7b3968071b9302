"""A kill ends every process of a job, whatever it does about it: the process table is asked."""

import secrets

import harness
import msgpack
import proctable
import pytest
from harness import finish, in_thread, until_running
from wire import Wire

pytestmark = pytest.mark.v2

STUBBORN = """trap "" TERM; setsid sleep 1000 & echo on; sleep 1000"""

DAEMON = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print("on", flush=True)
        null = os.open("/dev/null", os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        time.sleep(1000)
    os._exit(0)
os.wait()
time.sleep(1000)
"""

CROWD = """
import os, time
for _ in range(200):
    if os.fork() == 0:
        os.setsid()
        time.sleep(1000)
print("on", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def mark():
    """Give a word that only one job's processes bear, in their environment."""
    return f"mark-{secrets.token_hex(8)}"


@pytest.mark.parametrize(
    ("argv", "least", "by"),
    [
        pytest.param(["sh", "-c", STUBBORN], 3, "KILL", id="TERM ignored, child with its session"),
        pytest.param(["python3", "-c", DAEMON], 2, "KILL", id="double-forked daemon"),
        pytest.param(["python3", "-c", CROWD], 201, "TERM", id="two hundred children"),
    ],
)
async def test_nothing_survives_a_kill(shared, mark, argv, least, by):
    async with shared.client() as client:
        job = await until_running(client, await client.run(argv, env={"MARK": mark}))
        assert len(proctable.bearing(mark)) >= least
        killed = await in_thread(shared.cli, "kill", job.id, "--grace", "200ms")
        assert proctable.bearing(mark) == []
        done = await client.inspect(job.id)
    assert (killed.returncode, killed.stdout.decode()) == (0, f"{job.id}\n")
    assert f"job {job.id} is dead (stopped)" in killed.stderr.decode()
    assert (done.outcome, done.exit.signal, done.exit.killed_by) == ("stopped", by, "admin")


async def test_a_signal_right_after_the_start(shared):
    """The start is waited for, not refused as "starting"."""
    async with shared.client() as client:
        job = await client.run(["sleep", "1000"])
        await client.signal(job.id, "KILL")
        done = await client.wait(job.id)
    assert (done.outcome, done.exit.signal) == ("failed", "KILL")


async def test_a_stopped_job_dies(shared, mark):
    """SIGSTOP holds TERM back; KILL it cannot."""
    async with shared.client() as client:
        argv = ["sh", "-c", "sleep 1000 & echo on; sleep 1000"]
        job = await until_running(client, await client.run(argv, env={"MARK": mark}))
        assert len(proctable.bearing(mark)) >= 2
        await client.signal(job.id, "STOP")
        await client.kill(job.id, grace_s=0.2)
        done = await client.wait(job.id)
        assert proctable.bearing(mark) == []
    assert (done.outcome, done.exit.signal) == ("stopped", "KILL")


async def test_a_job_that_obeys_is_not_kept_waiting_for_its_grace_period(shared, mark):
    """TERM is enough: an hour's grace is not waited for, and what it left behind dies with it."""
    script = "trap 'echo bye; exit 6' TERM; setsid sleep 1000 & echo on; wait"
    async with shared.client() as client:
        argv = ["sh", "-c", script]
        job = await until_running(client, await client.run(argv, env={"MARK": mark}))
        await client.kill(job.id, grace_s=3600)
        done = await client.wait(job.id)
        assert proctable.bearing(mark) == []
        output = await harness.collect(client, job.id)
    assert (done.outcome, done.exit.code) == ("stopped", 6)
    assert output.stdout == b"on\nbye\n"


async def test_a_job_ends_with_its_leader(shared, mark):
    """What a job leaves behind by itself is ended too, and holds up neither its end nor output."""
    async with shared.client() as client:
        argv = ["sh", "-c", "setsid sleep 1000 & echo done; exit 4"]
        done, output = await finish(client, argv, env={"MARK": mark})
        assert proctable.bearing(mark) == []
    assert (done.outcome, done.exit.code, output.stdout) == ("failed", 4, b"done\n")


async def test_a_signal_is_only_a_signal(shared):
    script = (
        "trap 'echo usr1' USR1; trap 'echo int; exit 0' INT; echo on; while :; do sleep 0.1; done"
    )
    async with shared.client() as client:
        job = await until_running(client, await client.run(["sh", "-c", script]))
        sent = await in_thread(shared.cli, "signal", job.id, "USR1")
        assert (sent.returncode, sent.stdout) == (0, b"")
        # The shell says something of its own about its `sleep`, which the signal has ended.
        async for item in client.follow(job.id, start=len(b"on\n"), stream="stdout"):
            assert item.data == b"usr1\n"
            break
        await client.signal(job.id, "INT")
        done = await client.wait(job.id)
    assert (done.outcome, done.exit.code, done.exit.killed_by) == ("completed", 0, None)


async def test_killing_twice_hurries_and_killing_the_dead_is_no_error(shared):
    async with shared.client() as client:
        argv = ["sh", "-c", "trap '' TERM; echo on; while :; do sleep 1000; done"]
        job = await until_running(client, await client.run(argv))
        await client.kill(job.id, grace_s=3600)
        await client.kill(job.id, grace_s=0)
        assert (await client.wait(job.id)).exit.signal == "KILL"
        assert (await client.kill(job.id)).phase == "exited"
        with pytest.raises(harness.JobsError) as refusal:
            await client.signal(job.id, "TERM")
    assert refusal.value.code == "failed_precondition"


async def test_kill_all_means_ones_own(supervisor):
    async with supervisor.client() as admin, supervisor.client("dev-alice") as alice:
        hers = [await alice.run(["sleep", "1000"]) for _ in range(3)]
        other = await admin.run(["sleep", "1000"])
        killed = await in_thread(
            lambda: supervisor.cli("kill", "--all", "--grace", "0", context="dev-alice")
        )
        assert set(killed.stdout.decode().split()) == {job.id for job in hers}
        assert [job.id for job in await admin.list()] == [other.id]


@pytest.mark.skipif(harness.program("ps") is None, reason="there is no ps here")
async def test_a_job_sees_its_own_processes_only(shared):
    """init and three of its own, though the host has many."""
    if not shared.has_namespaces:
        pytest.skip("this host gives no namespaces, and the supervisor said so")
    async with shared.client() as client:
        argv = ["sh", "-c", "sleep 1000 & ps -e -o pid= -o args=; kill $!"]
        done, output = await finish(client, argv)
    assert done.outcome == "completed", output.stderr
    lines = [line.split(maxsplit=1) for line in output.stdout.decode().splitlines()]
    assert lines[0][0] == "1"  # init
    assert sorted(args.split()[0] for _pid, args in lines[1:]) == ["ps", "sh", "sleep"]


def test_what_is_removed_as_it_ends_stays_removed(make_supervisor):
    supervisor = make_supervisor(jobs={"max_running": 1})
    with Wire(supervisor) as wire:
        assert wire.call("run", {"spec": {"argv": ["sleep", "1000"]}})[0] is None
        for _ in range(30):
            error, queued = wire.call("run", {"spec": {"argv": ["true"]}})
            assert (error, queued["phase"]) == (None, "queued")
            both = [[0, 1, "kill", {"id": queued["id"]}], [0, 2, "remove", {"id": queued["id"]}]]
            wire.send(b"".join(map(msgpack.packb, both)))
            answers = {ident: error for _, ident, error, _ in (wire.receive(), wire.receive())}
            assert answers[1] is None
            if answers[2] is None:  # else it was looked at before the kill
                error, _ = wire.call("inspect", {"id": queued["id"]})
                assert error["code"] == "not_found"

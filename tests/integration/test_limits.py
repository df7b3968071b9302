"""Limits that hold, measured from outside; the same on hybrid hosts and on cgroup v2."""

import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import harness
import proctable
import pytest
import shims
import trio
from harness import Chunk, collect, finish, program, until_running

from jobs_proto import shim as protocol
from jobs_proto.errors import JobsError

pytestmark = [pytest.mark.root, pytest.mark.v2]

ALLOCATE = "x = bytearray({} << 20); print('survived', flush=True)"
SPIN_S = 5
TRIES = 3
"""A busy host gives a job less than its share; more than that nobody may ever give it."""


@pytest.fixture
def python():
    found = program("python3")
    if found is None:
        pytest.skip("needs python3 on a job's PATH: apt-get install python3")
    return found


@pytest.fixture
def stress_ng():
    found = program("stress-ng")
    if found is None:
        pytest.skip("needs stress-ng: apt-get install stress-ng")
    return found


@pytest.fixture
def scratch():
    """Give a folder on a disk that jobs may write to."""
    parent = os.environ.get("JOBS_TEST_SCRATCH", "/var/lib")
    folder = Path(tempfile.mkdtemp(dir=parent, prefix="jobs-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


async def test_a_job_over_its_memory_is_oom_killed_and_says_so(shared, python):
    async with shared.client() as client:
        neighbour = await client.run(["sh", "-c", "echo here; exec sleep 1000"])
        await until_running(client, neighbour)
        job, collected = await finish(
            client, [python, "-c", ALLOCATE.format(200)], limits=limits(memory_bytes=64 << 20)
        )
        assert job.outcome == "oom_killed"
        assert job.exit.oom
        assert job.exit.signal == "KILL"
        assert job.usage.oom_kills >= 1
        assert job.usage.memory_peak_bytes <= 64 << 20
        assert b"survived" not in collected.stdout
        assert job.output.total == len(collected.stdout) + len(collected.stderr)
        assert (await client.inspect(neighbour.id)).phase == "running"
        await client.kill(neighbour.id, grace_s=0)


async def test_within_its_memory_it_lives(shared, python):
    async with shared.client() as client:
        job, collected = await finish(
            client, [python, "-c", ALLOCATE.format(32)], limits=limits(memory_bytes=64 << 20)
        )
        assert job.outcome == "completed"
        assert collected.stdout == b"survived\n"
        assert not job.exit.oom


async def test_a_child_that_was_oom_killed_is_told_of_too(shared, python):
    script = f'{python} -c "{ALLOCATE.format(200)}"; echo child $?'
    async with shared.client() as client:
        job, collected = await finish(
            client, ["sh", "-c", script], limits=limits(memory_bytes=64 << 20)
        )
        assert collected.stdout == b"child 137\n"
        assert job.outcome == "completed"
        assert job.exit.oom


async def test_half_a_cpu_is_half_a_cpu(shared, python):
    shares = []
    async with shared.client() as client:
        for _ in range(TRIES):
            job, _ = await finish(
                client,
                [python, "-c", "while True: pass"],
                limits=limits(cpus=0.5),
                timeout_s=SPIN_S,
            )
            assert job.outcome == "timed_out"
            shares.append(job.usage.cpu_s / SPIN_S)
            assert shares[-1] <= 0.55
            assert job.usage.cpu_throttled_s > 0
            if shares[-1] >= 0.45:
                return
    pytest.fail(f"0.5 CPU gave {shares}")


async def test_a_job_that_has_written_nothing_is_measured_and_its_shim_sleeps_on(shared, gates):
    gate = gates()
    async with shared.client() as client:
        job = await client.run(["cat", str(gate.path)])
        while (job := await client.inspect(job.id)).phase != "running":
            await trio.lowlevel.checkpoint()
        slept = proctable.sleeps(shared.shim(job))
        job = await client.inspect(job.id)
        assert job.usage.memory_bytes > 0
        assert proctable.sleeps(shared.shim(job)) == slept
        gate.say("something")
        async for item in client.follow(job.id):
            if isinstance(item, Chunk):
                break
        assert (await client.inspect(job.id)).output.stdout == len("something\n")
        assert proctable.sleeps(shared.shim(job)) > slept
        gate.close()
        await client.wait(job.id)


async def test_a_fork_bomb_stays_at_its_limit_and_can_be_killed(shared):
    bomb = "echo ready; b() { b | b & }; b; while :; do sleep 1; done"
    async with shared.client() as client:
        job = await client.run(["bash", "-c", bomb], limits=limits(pids=50))
        await until_running(client, job)
        most = 0
        with trio.fail_after(60):
            while most < 50:
                most = max(most, (await client.inspect(job.id)).usage.pids)
                assert most <= 50
        await client.kill(job.id, grace_s=0)
        with trio.fail_after(60):
            job = await client.wait(job.id)
        assert job.outcome == "stopped"
    assert shared.leftovers() == []


async def test_direct_writes_run_at_their_rate(shared, scratch):
    size = 40 << 20
    command = ["dd", "if=/dev/zero", f"of={scratch}/file", "bs=1M", f"count={size >> 20}"]
    async with shared.client() as client:
        job, collected = await finish(
            client,
            [*command, "oflag=direct"],
            limits=limits(io_write_bps=10 << 20, io_device=str(scratch)),
        )
        assert job.outcome == "completed", collected.stderr
        seconds = duration_s(job)
        assert 8.5 <= size / seconds / (1 << 20) <= 11.5, f"{size} bytes in {seconds} s"
        assert job.usage.io_write_bytes >= size


async def test_direct_reads_run_at_their_rate(shared, scratch):
    size = 20 << 20
    file = scratch / "file"
    file.write_bytes(os.urandom(size))
    command = ["dd", f"if={file}", "of=/dev/null", "bs=1M", "iflag=direct"]
    async with shared.client() as client:
        job, collected = await finish(
            client, command, limits=limits(io_read_bps=5 << 20, io_device=str(scratch))
        )
        assert job.outcome == "completed", collected.stderr
        assert 4.25 <= size / duration_s(job) / (1 << 20) <= 5.75


async def test_cpuset_nofile_and_swap(shared):
    script = "grep Cpus_allowed_list /proc/self/status; ulimit -Sn; ulimit -Hn"
    async with shared.client() as client:
        job, collected = await finish(
            client,
            ["sh", "-c", script],
            limits=limits(cpuset="0", nofile=77, memory_bytes=64 << 20, swap_bytes=0),
        )
        assert collected.stdout.split() == [b"Cpus_allowed_list:", b"0", b"77", b"77"]
        assert job.limits.swap_bytes == 0
        assert job.limits.cpuset == "0"


@pytest.mark.parametrize(
    ("load", "asked"),
    [
        (["--vm", "2", "--vm-bytes", "256M"], {"memory_bytes": 64 << 20, "swap_bytes": 0}),
        (["--cpu", "4"], {"cpus": 0.5}),
        (["--fork", "8"], {"pids": 20}),
        (["--cpu", "2", "--taskset", "0"], {"cpuset": "0"}),
        (["--open", "2"], {"nofile": 64}),
        (["--hdd", "1", "--hdd-bytes", "16M", "--hdd-opts", "direct"], {"io_write_bps": 4 << 20}),
    ],
)
async def test_under_stress(shared, scratch, stress_ng, load, asked):
    if "io_write_bps" in asked:
        asked = {**asked, "io_device": str(scratch)}
    command = [stress_ng, *load, "--timeout", "3s", "--temp-path", str(scratch), "--oomable"]
    async with shared.client() as client:
        job, collected = await finish(client, command, limits=limits(**asked))
        used, seconds = job.usage, duration_s(job)
        assert job.phase == "exited", collected.stderr
        if "memory_bytes" in asked:
            assert used.memory_peak_bytes <= 64 << 20
        if "cpus" in asked:
            assert used.cpu_s <= 0.55 * seconds + 0.1
        if "cpuset" in asked:
            assert used.cpu_s <= 1.05 * seconds
        if "io_write_bps" in asked:
            assert used.io_write_bytes <= 1.15 * (4 << 20) * (seconds + 1)
    assert shared.leftovers() == []


async def test_a_paused_job_does_nothing_until_it_is_resumed(shared, gates):
    gate = gates()
    async with shared.client() as client:
        job = await client.run(["sh", "-c", f"while read x; do echo $x; done < {gate.path}"])
        gate.say("one")
        await until_running(client, job)
        assert (await client.pause(job.id)).phase == "paused"
        before = await client.inspect(job.id)
        gate.say("two")
        after = await client.inspect(job.id)
        assert after.phase == "paused"
        assert after.output.total == before.output.total == len("one\n")
        assert (await client.resume(job.id)).phase == "running"
        gate.say("three")
        gate.close()
        assert (await collect(client, job.id)).stdout == b"one\ntwo\nthree\n"
        with pytest.raises(JobsError, match="cannot pause a job that is exited"):
            await client.pause(job.id)


async def test_a_paused_job_can_be_killed_and_is_found_paused_after_a_restart(make_supervisor):
    supervisor = make_supervisor()
    async with supervisor.client() as client:
        job = await client.run(
            ["sh", "-c", "trap 'echo bye; exit 3' TERM; echo here; sleep 1000 & wait"]
        )
        await until_running(client, job)
        await client.pause(job.id)
        await harness.in_thread(supervisor.restart)
        with trio.fail_after(30):
            while (await client.inspect(job.id)).phase != "paused":
                await trio.lowlevel.checkpoint()
            await client.kill(job.id)
            job = await client.wait(job.id)
        assert job.outcome == "stopped"
        assert job.exit.code == 3  # it was thawed, and had its grace
        assert (await collect(client, job.id)).stdout == b"here\nbye\n"


async def test_after_a_restart_a_job_is_as_paused_as_its_shim_says(make_supervisor):
    supervisor = make_supervisor()
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", "echo ready; sleep 1000"])
        await until_running(client, job)
        for frozen, phase in ((True, "paused"), (False, "running")):
            await harness.in_thread(supervisor.kill)
            # As if the supervisor had been killed after the shim, and before the disk, had it.
            with ExitStack() as stack:
                shim = shims.reattach(supervisor.job_directory(job), stack)
                shim.expect(protocol.HELLO)
                shim.tell(protocol.FREEZE, frozen=frozen)
                assert shim.expect(protocol.FROZEN) == {"frozen": frozen}
            await harness.in_thread(supervisor.start)
            assert (await client.inspect(job.id)).phase == phase


@pytest.mark.parametrize(
    "options",
    [
        ["--memory", "0"],
        ["--memory=-64M"],
        ["--memory", "1000T"],
        ["--cpus", "0"],
        ["--cpus=-1"],
        ["--cpus", "10000"],
        ["--pids", "0"],
        ["--cpuset", "5000"],
        ["--nofile", "0"],
        ["--io-write-bps", "0", "--io-device", "/"],
        ["--io-write-bps", "1M", "--io-device", "/no/such/device"],
        ["--user", "nobody-of-that-name"],
        ["--memory", "lots"],
        ["--limits", "perhaps"],
    ],
)
def test_limits_that_make_no_sense_start_nothing(shared, options):
    before = shared.cli("list", "--all", "--json").stdout
    refused = shared.cli("run", *options, "--", "true")
    assert refused.returncode == 2
    assert refused.stderr.startswith(b"jobsctl: ")
    assert refused.stderr.count(b"\n") == 1
    assert shared.cli("list", "--all", "--json").stdout == before


def test_a_host_without_a_controller_says_which_and_what_to_do(make_supervisor):
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip("a v1 hierarchy can be taken away from one process's view; v2 cannot")
    without_pids = ["unshare", "--mount", "sh", "-c", 'umount /sys/fs/cgroup/pids; exec "$@"', "sh"]
    supervisor = make_supervisor(start=False)
    supervisor.prefix = without_pids
    supervisor.start()
    refused = supervisor.cli("run", "--memory", "64M", "--cpus", "0.5", "--pids", "50", "true")
    assert refused.returncode == 1
    assert b"--pids needs the pids controller" in refused.stderr
    assert b"mount -t cgroup -o pids" in refused.stderr
    assert b"--limits best-effort" in refused.stderr
    accepted = supervisor.cli(
        "run", "-f", "--pids", "50", "--limits", "best-effort", "--", "echo", "x"
    )
    assert accepted.stdout == b"x\n"
    assert b"not enforced: --pids" in accepted.stderr


def limits(**values):
    from jobs_proto.job import Limits

    return Limits(**values)


def duration_s(job):
    from datetime import datetime

    started, finished = map(datetime.fromisoformat, (job.started_at, job.finished_at))
    return (finished - started).total_seconds()

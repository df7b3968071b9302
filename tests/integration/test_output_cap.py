"""`--output-max`: a bounded window on an output that may be endless, and `update`."""

import os
import signal
import time
from functools import partial

import pytest
import trio
from harness import JobsError, collect, until_running

from jobs_proto import files
from jobs_proto.job import Limits
from jobs_rpc import Chunk, End, Gap

CAP = 64 << 20
BLOCK = 4096
WAIT_S = 60.0

# Blocks of 64 kB, each of which begins with its own offset; no other byte is 0.
SIZE = 1 << 16
PATTERN = (bytes(range(1, 256)) * 258)[: SIZE - 8]
WRITER = f"""
import os, sys
pattern = (bytes(range(1, 256)) * 258)[:{SIZE} - 8]
block, at = bytearray({SIZE}), 0
block[8:] = pattern
while at < int(sys.argv[1]):
    block[:8] = at.to_bytes(8, "little")
    data = block
    while data:
        data = data[os.write(1, data):]
    at += {SIZE}
"""
ENDLESS = 1 << 50

ALTERNATELY = """
import os
while True:
    os.write(1, b"o")
    os.write(2, b"e")
"""


def writer(size):
    return ["python3", "-I", "-c", WRITER, str(size)]


def written(start, end):
    """What the writer writes from an offset to another."""
    blocks = range(start // SIZE, -(-end // SIZE))
    data = b"".join((number * SIZE).to_bytes(8, "little") + PATTERN for number in blocks)
    first = start % SIZE
    return data[first : first + end - start]


def on_disk(supervisor, job, name=files.OUTPUT):
    """Give the bytes that a file of a job takes on the disk now."""
    return (supervisor.job_directory(job) / name).stat().st_blocks * 512


async def check(client, job_id, pause=trio.lowlevel.checkpoint):
    """Follow a writer's job, and check whatever comes; give the gaps and the end."""
    gaps, offset = [], 0
    async for item in client.follow(job_id):
        match item:
            case Chunk():
                assert item.offset == offset
                offset += len(item.data)
                assert item.data == written(item.offset, offset)
                await pause()
            case Gap():
                assert item.from_ == offset
                offset = item.to
                gaps.append(item)
            case End():
                assert item.total == offset
                return gaps, item
    raise AssertionError("a follow ends with End or raises")


async def until(client, job, condition):
    """Give the job as soon as something holds of it."""
    with trio.fail_after(WAIT_S):
        while not condition(now := await client.inspect(job.id)):
            await trio.sleep(0.01)
    return now


async def watch_disk(supervisor, job, most, seen):
    while True:
        seen.append(on_disk(supervisor, job))
        assert seen[-1] <= most
        await trio.sleep(0.002)


async def test_of_ten_gigabytes_the_last_64_mb_are_kept_and_no_more_is_ever_on_the_disk(shared):
    total = 10 << 30
    async with shared.client() as client, trio.open_nursery() as nursery:
        job = await client.run(writer(total), limits=Limits(output_max_bytes=CAP))
        await until_running(client, job)
        seen = []
        nursery.start_soon(watch_disk, shared, job, CAP + BLOCK, seen)
        nursery.start_soon(check, client, job.id, partial(trio.sleep, 0.05))
        done = await client.wait(job.id)
        assert done.outcome == "completed"
        nursery.cancel_scope.cancel()
    assert len(seen) > 10
    assert on_disk(shared, job) <= CAP + BLOCK
    assert on_disk(shared, job, files.INDEX) <= CAP
    assert done.output.total == total
    assert total - CAP <= done.output.retained_from <= total - CAP * 63 // 64
    async with shared.client() as client:
        (gap,), end = await check(client, job.id)
    assert (gap.from_, gap.to) == (0, done.output.retained_from)
    assert "--output-max" in gap.reason
    assert end.job.output == done.output


@pytest.mark.parametrize("who", ["shim", "supervisor"])
async def test_followers_see_right_bytes_and_gaps_whoever_is_killed(make_supervisor, who):
    supervisor = make_supervisor()
    ends = []

    async def follow(pause):
        ends.append(await check(client, job.id, pause))

    async with supervisor.client() as client:
        job = await client.run(writer(ENDLESS), limits=Limits(output_max_bytes=1 << 20))
        await until_running(client, job)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow, trio.lowlevel.checkpoint)
            nursery.start_soon(follow, partial(trio.sleep, 0.03))
            before = await until(client, job, lambda now: now.output.retained_from > 50 << 20)
            if who == "shim":
                os.kill(supervisor.shim(job), signal.SIGKILL)
            else:
                await trio.to_thread.run_sync(supervisor.restart)
                after = before.output.retained_from
                await until(client, job, lambda now: now.output.retained_from > 2 * after)
                await client.kill(job.id, grace_s=0)
        done = await client.wait(job.id)
        assert done.outcome == ("lost" if who == "shim" else "stopped")
        assert len(ends) == 2
        (gap,), end = await check(client, job.id)
    out = done.output
    assert before.output.retained_from <= out.retained_from == gap.to
    assert 0 < out.total - out.retained_from <= 1 << 20
    assert out.total == end.total
    assert on_disk(supervisor, job) <= (1 << 20) + BLOCK


async def test_tiny_writes_to_both_streams_for_ever_take_little_index(shared):
    async with shared.client() as client:
        job = await client.run(
            ["python3", "-I", "-c", ALTERNATELY], limits=Limits(output_max_bytes=1 << 16)
        )
        index = shared.job_directory(job) / files.INDEX
        await until(client, job, lambda _now: index.stat().st_size > 2 << 16)
        assert on_disk(shared, job, files.INDEX) <= (1 << 16) + 2 * BLOCK
        await client.kill(job.id, grace_s=0)
        await client.wait(job.id)
        collected = await collect(client, job.id)
    (gap,) = collected.gaps
    out = collected.end.job.output
    assert gap.to == out.retained_from > 0
    assert set(collected.stdout) == set(b"o")
    assert set(collected.stderr) == set(b"e")
    assert len(collected.stdout) + len(collected.stderr) == out.total - gap.to


@pytest.mark.parametrize("who", ["nobody", "shim"])
async def test_the_head_is_kept_and_the_rest_counted(shared, who):
    async with shared.client() as client:
        job = await client.run(
            writer(ENDLESS if who == "shim" else 1 << 24),
            limits=Limits(output_max_bytes=100_000),
            output_policy="keep-head",
        )
        if who == "shim":
            await until(client, job, lambda now: now.output.capped > 1 << 24)
            os.kill(shared.shim(job), signal.SIGKILL)
        done = await client.wait(job.id)
        gaps, _end = await check(client, job.id)
    assert [(gap.from_, gap.to) for gap in gaps] == [(100_000, done.output.total)]
    assert "--output-max" in gaps[0].reason
    assert done.output.total >= 1 << 24
    assert on_disk(shared, job) <= 100_000 + 2 * BLOCK
    if who == "nobody":
        assert done.outcome == "completed"
        assert done.output.capped == (1 << 24) - 100_000
        assert done.output.lost == 0


async def test_a_job_whose_output_is_full_waits_until_the_cap_is_raised(make_supervisor):
    supervisor = make_supervisor()
    async with supervisor.client() as client:
        job = await client.run(
            writer(2 << 20), limits=Limits(output_max_bytes=1 << 20), output_policy="block"
        )
        now = await until(client, job, lambda now: now.output.blocked)
        assert now.output.total == 1 << 20
        shown = supervisor.cli("inspect", job.id).stdout.decode()
        assert "its output is full; jobsctl update --output-max SIZE lets it go on" in shown

        raised = supervisor.cli("update", job.id, "--output-max", "1280K")
        assert (raised.returncode, raised.stdout) == (0, b"")
        now = await until(
            client, job, lambda now: now.output.blocked and now.output.total > 1 << 20
        )
        assert now.output.total == 1280 << 10
        assert now.limits.output_max_bytes == 1280 << 10
        assert now.spec.limits.output_max_bytes == 1 << 20
        assert now.updated_at is not None

        await trio.to_thread.run_sync(supervisor.restart)
        now = await client.inspect(job.id)
        assert (now.output.blocked, now.limits.output_max_bytes) == (True, 1280 << 10)
        await client.update(job.id, output_max_bytes=1 << 30)
        done = await client.wait(job.id)
        assert done.outcome == "completed"
        gaps, _end = await check(client, job.id)
        assert gaps == []
        with pytest.raises(JobsError, match="has ended"):
            await client.update(job.id, timeout_s=3)


async def test_an_update_that_no_shim_has_heard_is_repeated(make_supervisor):
    supervisor = make_supervisor()
    async with supervisor.client() as client:
        job = await client.run(
            writer(2 << 20), limits=Limits(output_max_bytes=1 << 20), output_policy="block"
        )
        await until(client, job, lambda now: now.output.blocked)
        shim = supervisor.shim(job)
        os.kill(shim, signal.SIGSTOP)
        await client.update(job.id, output_max_bytes=1 << 30)
        await trio.to_thread.run_sync(supervisor.kill)
        os.kill(shim, signal.SIGCONT)
        await trio.to_thread.run_sync(supervisor.start)
        assert (await client.wait(job.id)).outcome == "completed"


async def test_a_blocked_job_ends_by_its_deadline_which_an_update_moves(shared):
    async with shared.client() as client:
        job = await client.run(
            writer(ENDLESS),
            limits=Limits(output_max_bytes=5000),
            output_policy="block",
            timeout_s=3600,
        )
        await until(client, job, lambda now: now.output.blocked)
        updated = await client.update(job.id, timeout_s=0.5)
        assert (updated.timeout_s, updated.spec.timeout_s) == (0.5, 3600)
        done = await client.wait(job.id)
        assert done.outcome == "timed_out"
        (gap,), _end = await check(client, job.id)
    assert (gap.from_, gap.to) == (5000, done.output.total)
    assert done.output.capped == done.output.total - 5000


async def test_a_deadline_is_put_off(shared):
    async with shared.client() as client:
        begun = time.monotonic()
        job = await client.run(["sleep", "3"], timeout_s=2.5)
        await client.update(job.id, timeout_s=3600)
        assert (await client.wait(job.id)).outcome == "completed"
        assert time.monotonic() - begun >= 3


async def test_a_job_that_waits_for_a_place_starts_with_its_new_limits(make_supervisor):
    supervisor = make_supervisor(jobs={"max_running": 1})
    async with supervisor.client() as client:
        first = await client.run(["sleep", "1000"])
        second = await client.run(
            writer(2 << 20), output_policy="keep-head", request_id="r", timeout_s=0.001
        )
        updated = await client.update(second.id, output_max_bytes=4096, timeout_s=3600)
        assert (updated.phase, updated.limits.output_max_bytes) == ("queued", 4096)
        await trio.to_thread.run_sync(supervisor.restart)
        await client.kill(first.id, grace_s=0)
        done = await client.wait(second.id)
        assert done.outcome == "completed"
        assert done.output.capped == (2 << 20) - 4096
        again = await client.run(
            writer(2 << 20), output_policy="keep-head", request_id="r", timeout_s=0.001
        )
        assert again.id == second.id


async def test_an_operators_caps_hold(make_supervisor):
    supervisor = make_supervisor(
        jobs={
            "default_limits.output_max_bytes": 4096,
            "max_limits.output_max_bytes": 8192,
        }
    )
    async with supervisor.client() as client:
        job = await client.run(["head", "-c", "10000", "/dev/zero"])
        done = await client.wait(job.id)
        assert done.output.total - done.output.retained_from == 4096
        with pytest.raises(JobsError, match="more than this supervisor allows: 8192"):
            await client.run(["true"], limits=Limits(output_max_bytes=8193))
        asleep = await client.run(["sleep", "1000"])
        with pytest.raises(JobsError, match="more than this supervisor allows: 8192"):
            await client.update(asleep.id, output_max_bytes=8193)


async def test_only_who_owns_a_job_or_is_admin_updates_it(shared):
    async with (
        shared.client() as admin,
        shared.client("dev-alice") as alice,
        shared.client("dev-viewer") as viewer,
    ):
        job = await alice.run(["sleep", "1000"])
        assert (await alice.update(job.id, timeout_s=900)).timeout_s == 900
        assert (await admin.update(job.id, timeout_s=800)).timeout_s == 800
        with pytest.raises(JobsError, match="may not update"):
            await viewer.update(job.id, timeout_s=1)
        others = await admin.run(["sleep", "1000"])
        with pytest.raises(JobsError, match="there is no job"):
            await alice.update(others.id, timeout_s=1)


def test_what_a_follower_is_told_of_a_gap_reads_well(shared):
    run = shared.cli("run", "--output-max", "10", "--", "head", "-c", "5000", "/dev/zero")
    ident = run.stdout.decode().strip()
    assert shared.cli("wait", ident).returncode == 0
    done = shared.cli("follow", ident)
    assert done.returncode == 0
    assert done.stdout == bytes(10)
    assert done.stderr.decode() == (
        "jobsctl: bytes 0 to 4990 of the output are missing: "
        "over --output-max, which keeps the end of the output\n"
    )

"""The state directory's disk is full: what runs goes on, and everybody is told what is the case."""

import os
import signal
import subprocess
from contextlib import suppress

import harness
import proctable
import pytest
import trio
from harness import JobsError, collect, finish, in_thread, until_running

from jobs_rpc import Gap

pytestmark = pytest.mark.root

DISK_BYTES = 8 << 20
BURST = 100_000_000
"""Bytes that a job writes while there is no room: more portions than its index has room for."""

ASK_S = 20
"""How long a request may take; a full disk is no reason to wait."""


class Disk:
    """A small disk below a supervisor's state directory.

    Args:
        state: where; made, and mounted on.
    """

    def __init__(self, state) -> None:
        self._filler = state / "filler"
        self.state = state
        state.mkdir(mode=0o700)
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "full-disk", state]
        subprocess.run(words, check=True)

    def fill(self) -> None:
        with suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while True:  # until there is no room
                file.write(bytes(4096))

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def disks():
    made = []
    yield made
    for disk in made:
        subprocess.run(["umount", "-l", disk.state], check=True)


@pytest.fixture
def disk(disks, make_supervisor):
    """Give the disk of a supervisor; it outlives the supervisor."""
    supervisor = make_supervisor(start=False)
    disks.append(Disk(supervisor.state))
    supervisor.start()
    yield disks[0], supervisor
    assert "Traceback" not in supervisor.log.read_text()


def told(gate, code: int) -> list[str]:
    """Give a job that writes as many bytes as each line of its gate says."""
    loop = f'while read -r n; do head -c "$n" /dev/zero; done < {gate.path}'
    return ["sh", "-c", f"echo here; {loop}; exit {code}"]


async def refused(client) -> None:
    with pytest.raises(JobsError, match="make room in its state directory") as refusal:
        await client.run(["true"])
    assert refusal.value.code == "resource_exhausted"


async def test_what_runs_goes_on_and_what_is_new_is_refused(disk, gates):
    disk, supervisor = disk
    ending, going = gates(), gates()
    followed = []
    async with supervisor.client() as client, trio.open_nursery() as nursery:
        first = await client.run(told(ending, 3))
        second = await client.run(told(going, 4))
        doomed = await client.run(["sh", "-c", "echo here; exec sleep 1000"])
        for job in (first, second, doomed):
            await until_running(client, job)

        async def follow():
            followed.append(await collect(client, first.id))

        nursery.start_soon(follow)
        pid = supervisor.pid
        disk.fill()
        with trio.fail_after(3 * ASK_S):
            await refused(client)
            ending.say(str(BURST))
            going.say(str(BURST))
            ending.close()
            ended = await client.wait(first.id)
            assert (ended.outcome, ended.exit.code) == ("failed", 3)
            total, lost = len("here\n") + BURST, ended.output.lost
            assert ended.output.total == total
            assert 0 < lost <= BURST
            await client.kill(doomed.id, grace_s=0)
            assert (await client.wait(doomed.id)).outcome == "stopped"
            assert {job.id for job in await client.list()} == {second.id}
            await refused(client)
        shown = await in_thread(supervisor.cli, "follow", first.id)
        assert shown.returncode == 3
        assert len(shown.stdout) == total - lost
        assert b"of the output are missing: " in shown.stderr
        assert (supervisor.running, supervisor.pid) == (True, pid)

        disk.free()
        job, output = await finish(client, ["echo", "there is room"])
        assert (job.outcome, output.stdout) == ("completed", b"there is room\n")
        going.say("7")
        going.close()
        assert (await client.wait(second.id)).exit.code == 4
        records = await client.list(all=True)
    (collected,) = followed
    assert len(collected.stdout) == total - lost
    assert sum(gap.to - gap.from_ for gap in collected.gaps) == lost
    await in_thread(supervisor.restart)
    async with supervisor.client() as client:
        assert await client.list(all=True) == records


@pytest.mark.parametrize("limits", [{"timeout_s": 1.0}, {"output_max_bytes": 4096}])
async def test_other_limits_are_refused_and_the_old_ones_hold(disk, gates, limits):
    """Neither the record, nor what is shown, nor the shim knows of a change that was refused."""
    disk, supervisor = disk
    gate = gates()
    async with supervisor.client() as client:
        job = await client.run(told(gate, 0))
        before = await until_running(client, job)
        disk.fill()
        with trio.fail_after(ASK_S):
            with pytest.raises(JobsError, match="make room in its state directory") as refusal:
                await client.update(job.id, **limits)
            assert refusal.value.code == "resource_exhausted"
            shown = await client.inspect(job.id)
        disk.free()
        assert (shown.limits, shown.timeout_s) == (before.limits, before.timeout_s)
        assert shown.updated_at is None
        gate.say("100000")
        still = await client.wait(job.id, timeout_s=2)  # beyond the deadline that it was not given
        assert still.phase == "running"
        gate.close()
        ended = await client.wait(job.id)
        assert (ended.outcome, ended.output.retained_from) == ("completed", 0)
        assert ended.updated_at is None
    await in_thread(supervisor.restart)
    async with supervisor.client() as client:
        assert await client.inspect(job.id) == ended


async def test_a_supervisor_starts_on_a_full_disk(disk, gates):
    """It was killed when the disk was full; it finds its jobs, and what ended meanwhile."""
    disk, supervisor = disk
    ending, going = gates(), gates()
    async with supervisor.client() as client:
        first = await client.run(told(ending, 3))
        second = await client.run(told(going, 4))
        doomed = await client.run(["sh", "-c", "echo here; exec sleep 1000"])
        for job in (first, second, doomed):
            await until_running(client, job)
        running = await client.inspect(second.id)
        shim = supervisor.shim(first)
        disk.fill()
        await in_thread(supervisor.kill)
        ending.close()
        assert await in_thread(proctable.wait_gone, shim, harness.SHIM_END_S)
        await in_thread(supervisor.start)
        with trio.fail_after(3 * ASK_S):
            assert (await client.wait(first.id)).exit.code == 3
            assert (await client.inspect(second.id)).pid == running.pid
            await client.kill(doomed.id, grace_s=0)
            assert (await client.wait(doomed.id)).outcome == "stopped"
            await refused(client)
        disk.free()
        assert (await finish(client, ["true"]))[0].outcome == "completed"
        going.close()
        assert (await client.wait(second.id)).exit.code == 4


async def test_a_shim_that_is_killed_on_a_full_disk_takes_nothing_back(disk, gates):
    """What a follower was told is missing is part of the output, whoever asks later."""
    disk, supervisor = disk
    gate = gates()
    async with supervisor.client() as client:
        job = await client.run(told(gate, 0))
        await until_running(client, job)
        disk.fill()
        gate.say(str(BURST))
        with trio.fail_after(3 * ASK_S):
            followed = [part async for part in killed_at_a_gap(client, supervisor, job, disk)]
        ends = [part.to for part in followed if isinstance(part, Gap)]
        record = await client.wait(job.id)
        assert record.outcome == "lost"
        assert record.output.total >= max(ends) > len("here\n")
        assert record.output.lost > 0
    await in_thread(supervisor.restart)
    async with supervisor.client() as client:
        again = await collect(client, job.id)
        assert max(gap.to for gap in again.gaps) == record.output.total


async def killed_at_a_gap(client, supervisor, job, disk):
    """Follow a job whose shim dies when something is missing; that it is lost needs room."""
    killed = False
    async for part in client.follow(job.id):
        yield part
        if isinstance(part, Gap) and not killed:
            killed = True
            os.kill(supervisor.shim(job), signal.SIGKILL)
            disk.free()


async def test_what_is_removed_makes_room(disk):
    """Though its record cannot be deleted before there is some."""
    disk, supervisor = disk
    async with supervisor.client() as client:
        job, _output = await finish(client, ["head", "-c", "2000000", "/dev/zero"])
        await in_thread(disk.fill)
        await refused(client)
        with trio.fail_after(ASK_S):
            await client.remove(job.id)
        await client.run(["true"])

"""A supervisor that comes back, and shims that do not answer it, or not in its language."""

import os
import signal

import harness
import proctable
import pytest
from harness import JobsError, in_thread, until_running, until_said

from jobs_supervisor import reattach

FOUND = "all jobs found again"


async def test_each_way_to_be_found_again_is_counted(supervisor):
    async with supervisor.client() as client:
        kept = [
            await until_running(client, await client.run(["sh", "-c", "echo; sleep 1000"]))
            for _ in range(4)
        ]
        ended, lost, *_running = kept
        shims = [supervisor.shim(job) for job in (ended, lost)]
        await in_thread(supervisor.kill)
        os.kill(ended.pid, signal.SIGKILL)
        os.kill(shims[1], signal.SIGKILL)
        for pid in shims:
            assert await in_thread(proctable.wait_gone, pid, harness.SHIM_END_S)
        await in_thread(supervisor.start)
        line = await until_said(supervisor, FOUND)
        for what in ("reattached=2", "finished=1", "lost=1"):
            assert what in line
        assert (await client.inspect(lost.id)).outcome == "lost"


async def test_a_shim_that_is_stopped_holds_up_nobody_and_decides_nothing(supervisor):
    async with supervisor.client() as client:
        silent, other = [
            await until_running(client, await client.run(["sh", "-c", "echo; sleep 1000"]))
            for _ in range(2)
        ]
        shim = supervisor.shim(silent)
        os.kill(shim, signal.SIGSTOP)
        try:
            await in_thread(supervisor.restart)
            assert (await client.inspect(other.id)).notes == other.notes
            line = await until_said(supervisor, FOUND)
            assert "reattached=1" in line
            assert "unanswered=1" in line
            seen = await client.inspect(silent.id)
            assert (seen.phase, seen.notes[-1]) == ("running", reattach.SILENT)
            with pytest.raises(JobsError, match="does not answer"):
                await client.signal(silent.id, "USR1")
            assert proctable.look_at(silent.pid).alive
        finally:
            os.kill(shim, signal.SIGCONT)
        await until_said(supervisor, "has answered")
        assert (await client.inspect(silent.id)).notes == silent.notes
        await client.kill(silent.id, grace_s=0)
        assert (await client.wait(silent.id)).outcome == "stopped"

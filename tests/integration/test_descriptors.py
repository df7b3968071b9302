"""No process has open what is another's: jobs of each other, of their shims, of the supervisor."""

import os
import resource
import signal

import harness
import proctable
import pytest
import trio
from harness import until_running

JOBS = 4
DEADLINE_S = 60

pytestmark = (
    pytest.mark.root
)  # shims and init are not dumpable: only root may look at what they have


async def test_descriptors_do_not_leak(supervisor):
    async with supervisor.client() as client:
        jobs = [
            await until_running(client, await client.run(["sh", "-c", "echo on; sleep 1000"]))
            for _ in range(JOBS)
        ]
        of_supervisor = proctable.channels(supervisor.pid)
        of_forkserver = proctable.channels(supervisor.forkserver())
        shims = [supervisor.shim(job) for job in jobs]
        inits = [supervisor.init(job) for job in jobs]
        of_leaders = [proctable.channels(job.pid) for job in jobs]
        of_shims = [proctable.channels(pid) for pid in shims]
        of_inits = [proctable.channels(pid) for pid in inits]

        for job, channels in zip(jobs, of_leaders, strict=True):
            files = proctable.open_files(job.pid)
            assert files.keys() == {0, 1, 2}
            assert files[0] == "/dev/null"
            assert channels == {files[1], files[2]}
            assert all(name.startswith("pipe:") for name in channels)
            (child,) = proctable.children(job.pid)  # its `sleep`
            assert proctable.open_files(child.pid).keys() == {0, 1, 2}
        for number in range(JOBS):
            own = of_leaders[number] | of_shims[number] | of_inits[number]
            assert own.isdisjoint(of_supervisor)
            assert own.isdisjoint(of_forkserver)
            assert of_leaders[number] < of_shims[number]  # the reading ends of its pipes
            assert of_leaders[number].isdisjoint(of_inits[number])
            for other in range(number):
                theirs = of_leaders[other] | of_shims[other] | of_inits[other]
                assert own.isdisjoint(theirs)


async def test_shims_and_inits_hold_files_of_their_own_job_only(supervisor):
    async with supervisor.client() as client:
        jobs = [
            await until_running(client, await client.run(["sh", "-c", "echo on; sleep 1000"]))
            for _ in range(JOBS)
        ]
        for job in jobs:
            directory = str(supervisor.job_directory(job))
            for pid in (supervisor.shim(job), supervisor.init(job), job.pid):
                paths = [name for name in proctable.open_files(pid).values() if name[0] == "/"]
                ours = [name for name in paths if name.startswith(str(supervisor.directory))]
                assert all(name.startswith(directory) for name in ours)
                if pid != supervisor.shim(job):
                    assert ours == []


async def test_what_a_new_supervisor_starts_has_nothing_of_the_old_ones(supervisor):
    """The same after a restart, when shims are met by way of their sockets."""
    async with supervisor.client() as client:
        old = await until_running(client, await client.run(["sh", "-c", "echo on; sleep 1000"]))
        await harness.in_thread(supervisor.restart)
        new = await until_running(client, await client.run(["sh", "-c", "echo on; sleep 1000"]))
        channels = [
            proctable.channels(job.pid)
            | proctable.channels(supervisor.shim(job))
            | proctable.channels(supervisor.init(job))
            for job in (old, new)
        ]
        assert channels[0].isdisjoint(channels[1])
        assert proctable.channels(supervisor.pid).isdisjoint(channels[0] | channels[1])


async def test_a_fork_server_without_descriptors_is_asked_again(supervisor):
    async with supervisor.client() as client:
        await client.wait((await client.run(["true"])).id)
        forkserver = supervisor.forkserver()
        os.kill(await supervisor.spare(), signal.SIGKILL)
        before = resource.prlimit(forkserver, resource.RLIMIT_NOFILE)
        most = max(proctable.open_files(forkserver)) + 1
        resource.prlimit(forkserver, resource.RLIMIT_NOFILE, (most, before[1]))
        slept = proctable.sleeps(forkserver)
        job = await client.run(["true"])
        with trio.fail_after(DEADLINE_S):
            while proctable.sleeps(forkserver) == slept:  # until it was asked, and waits again
                assert (await client.inspect(job.id)).phase == "starting"
        resource.prlimit(forkserver, resource.RLIMIT_NOFILE, before)
        ended = await client.wait(job.id)
        assert ended.outcome == "completed"
        assert supervisor.forkserver() == forkserver
        assert len(proctable.open_files(forkserver)) == most

"""Many jobs at once, and many one after the other: all right, and nothing piles up."""

import os
import signal

import harness
import proctable
import trio
from harness import Chunk, collect, finish, until_running

AT_ONCE = 200
TIMES = 1000
ABREAST = 16
"""Short jobs that are under way at the same time."""

IDLE_S = 30.0
"""More than trio leaves a thread that has nothing to do (10 s)."""

MANY_S = 90.0
"""How long either of them may take here, with the rest of the machine busy."""


async def test_two_hundred_jobs_at_once(supervisor, gates):
    """All run at the same time, each says who it is on both streams and ends in its own way."""
    gate = gates()
    script = "echo out $1; echo err $1 >&2; read -r go; exit $(($1 % 100))"
    jobs = {}

    async def one(client, number, running):
        command = ["sh", "-c", f"exec < {gate.path}; {script}", "sh", str(number)]
        job = await client.run(command, name=f"job-{number}")
        await until_running(client, job)
        running.append(number)
        output = await collect(client, job.id)
        jobs[number] = (await client.wait(job.id), output)

    with trio.fail_after(MANY_S):
        async with supervisor.client() as client, trio.open_nursery() as nursery:
            running = []
            for number in range(AT_ONCE):
                nursery.start_soon(one, client, number, running)
            while len(running) < AT_ONCE:
                assert not jobs
                await trio.sleep(0.02)
            assert len(await client.list()) == AT_ONCE
            gate.close()
    for number, (job, output) in jobs.items():
        assert (job.name, job.exit.code) == (f"job-{number}", number % 100)
        assert output.stdout == f"out {number}\n".encode()
        assert output.stderr == f"err {number}\n".encode()
    assert len({job.id for job, _ in jobs.values()}) == AT_ONCE


class Holdings:
    """What a process has, which must not grow with the jobs that it has had."""

    def __init__(self, pid: int) -> None:
        self.files = sorted(proctable.open_files(pid).values())
        self.threads = proctable.threads(pid)
        self.children = [process.pid for process in proctable.children(pid)]


async def run_many(client, times: int) -> None:
    """Run that many short jobs to their end, some of them abreast."""
    limit = trio.CapacityLimiter(ABREAST)

    async def one():
        async with limit:
            job = await client.run(["true"])
            assert (await client.wait(job.id)).outcome == "completed"

    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(one)


async def test_nothing_piles_up_after_a_thousand_jobs(supervisor):
    with trio.fail_after(MANY_S):
        async with supervisor.client() as client:
            # Threads for the disk come with the first jobs, and go when they are idle for long.
            await run_many(client, ABREAST)
            await finish(client, ["echo", "followed"])
            forkserver = supervisor.forkserver()
            before, before_fork = Holdings(supervisor.pid), Holdings(forkserver)
            await run_many(client, TIMES)
            assert await client.list() == []
            spare = await supervisor.spare()
            with trio.fail_after(IDLE_S):
                while proctable.threads(supervisor.pid) > before.threads + 1:
                    await trio.sleep(0.1)
            after, after_fork = Holdings(supervisor.pid), Holdings(forkserver)
    assert after.children == before.children == [forkserver]
    assert len(after.files) == len(before.files)
    assert (after_fork.files, after_fork.threads) == (before_fork.files, 1)
    assert after_fork.children == [spare]


async def test_followers_that_go_leave_nothing_behind(supervisor):
    """Fifty who follow a silent job and hang up: each one's descriptors are given back."""
    async with supervisor.client() as client:
        job = await until_running(client, await client.run(["sh", "-c", "echo on; sleep 1000"]))
        await supervisor.spare(running=1)
        before = Holdings(supervisor.pid)
        for _ in range(50):
            following = client.follow(job.id)
            async for _item in following:
                break
            await following.aclose()
        with trio.fail_after(harness.SHIM_END_S):
            while len(Holdings(supervisor.pid).files) > len(before.files):
                await client.hello()
        await client.kill(job.id, grace_s=0)
        await client.wait(job.id)


FOLLOWERS = 64
KEPT_KB = 12 * 1024
"""What a supervisor may keep of them; without giving anything back it is some 40 MB."""


async def test_what_a_crowd_of_followers_has_used_is_given_back(supervisor, gates):
    gate = gates()
    script = f"echo on; read -r go < {gate.path}; head -c 8000000 /dev/zero"
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", script])

        async def follow(task_status):
            async for item in client.follow(job.id):
                if isinstance(item, Chunk) and item.offset == 0:
                    task_status.started()

        async with trio.open_nursery() as nursery:
            await nursery.start(follow)
            before = proctable.pss_kb(supervisor.pid)
            for _ in range(FOLLOWERS):
                await nursery.start(follow)
            gate.say("go")
        with trio.fail_after(harness.SHIM_END_S):
            while len(proctable.channels(supervisor.pid)) > FOLLOWERS // 2:
                await client.hello()
        assert proctable.pss_kb(supervisor.pid) < before + KEPT_KB


BURST = 400
"""Launches that a fork server's socket has no room for."""


async def test_launches_wait_their_turn_while_the_fork_server_is_busy(supervisor):
    forkserver = supervisor.forkserver()
    async with supervisor.client() as client:
        os.kill(forkserver, signal.SIGSTOP)
        try:
            jobs = [await client.run(["true"]) for _ in range(BURST)]
        finally:
            os.kill(forkserver, signal.SIGCONT)
        for job in jobs:
            assert (await client.wait(job.id)).outcome == "completed"
    assert "task failed" not in supervisor.log.read_text()

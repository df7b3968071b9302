"""The supervisor is killed in the middle of everything; nobody who has patience loses anything."""

import os
import signal

import harness
import proctable
import pytest
import trio
from harness import Gate, collect, in_thread, until_running

JOBS = 20
ENDING = 6
"""How many of them end while no supervisor is there."""

CLI_FOLLOWERS = 3


class Talker:
    """A job that says on both streams what its gate tells it, and ends with a code of its own."""

    def __init__(self, number: int, gate: Gate) -> None:
        self.code = number % 7
        loop = f"while read -r word; do echo out $word; echo err $word >&2; done < {gate.path}"
        self.argv = ["sh", "-c", f"{loop}; exit {self.code}"]
        self._gate = gate
        self._said: list[str] = []
        self.job = None
        self.followed = None
        self.waited = None
        self.heard = trio.Event()

    def say(self, word: str) -> None:
        self._said.append(word)
        self._gate.say(word)

    def end(self) -> None:
        self._gate.close()

    @property
    def expected(self) -> tuple[bytes, bytes]:
        return tuple(
            "".join(f"{name} {word}\n" for word in self._said).encode() for name in ("out", "err")
        )

    async def start(self, client, nursery) -> None:
        """Run, be followed and waited for, and say the first word."""
        self.job = await client.run(self.argv)
        nursery.start_soon(self._follow, client)
        nursery.start_soon(self._wait, client)
        self.say("before")
        await self.heard.wait()
        self.job = await client.inspect(self.job.id)

    async def _follow(self, client) -> None:
        self.followed = await collect(client, self.job.id, on_chunk=lambda _: self.heard.set())

    async def _wait(self, client) -> None:
        self.waited = await client.wait(self.job.id)

    async def check_ended(self, client) -> None:
        """It ended while nobody looked."""
        job = await client.wait(self.job.id)
        assert job.outcome == ("failed" if self.code else "completed")
        assert (job.exit.code, job.exit.error, job.exit.killed_by) == (self.code, None, None)
        assert (job.pid, job.started_at) == (self.job.pid, self.job.started_at)
        out, err = self.expected
        assert (job.output.stdout, job.output.stderr) == (len(out), len(err))

    async def check_running(self, client) -> None:
        """Nothing has happened to it."""
        job = await client.inspect(self.job.id)
        assert (job.phase, job.pid) == ("running", self.job.pid)
        assert proctable.look_at(job.pid).comm == "sh"

    def check_followed(self) -> None:
        """Its follower and its waiter had everything."""
        assert self.followed[:3] == (*self.expected, [])
        assert self.followed.end.exit.code == self.waited.exit.code == self.code


class Line:
    """`jobsctl follow` on a talker."""

    def __init__(self, supervisor, talker: Talker) -> None:
        self._talker = talker
        self._process = supervisor.cli_process("follow", talker.job.id)
        self._first = self._process.stdout.read(1)  # it follows by now

    def check(self) -> None:
        """It ended as its job did, with all of its output."""
        out, err = self._process.communicate(timeout=harness.CLI_S)
        assert (self._first + out, err) == self._talker.expected
        assert self._process.returncode == self._talker.code


@pytest.mark.v2
async def test_kill_9_with_twenty_jobs_and_their_followers(supervisor, gates):
    talkers = [Talker(number, gates()) for number in range(JOBS)]
    ending, staying = talkers[:ENDING], talkers[ENDING:]
    async with supervisor.client() as client, trio.open_nursery() as nursery:
        for talker in talkers:
            await talker.start(client, nursery)
        lines = [
            await in_thread(Line, supervisor, talker)
            for talker in talkers[:: JOBS // CLI_FOLLOWERS]
        ]
        shims = [supervisor.shim(talker.job) for talker in ending]

        await in_thread(supervisor.kill)
        for talker in talkers:
            talker.say("while it is away")
        for talker in ending:
            talker.end()
        for pid in shims:
            assert await in_thread(proctable.wait_gone, pid, harness.SHIM_END_S)
        await in_thread(supervisor.start)

        for talker in ending:
            await talker.check_ended(client)
        assert {job.id for job in await client.list()} == {talker.job.id for talker in staying}
        for talker in staying:
            await talker.check_running(client)
            talker.say("after")
            talker.end()
    for talker in talkers:
        talker.check_followed()
    for line in lines:
        await in_thread(line.check)


async def test_killed_again_and_again_under_a_stream_of_output(supervisor, gates):
    """Not one byte of a job that never stops writing is lost or doubled at its follower."""
    kills, gate = 4, gates()
    script = f"seq 1 200000; for i in 1 2 3 4; do read -r go; seq 1 50000; done < {gate.path}"
    result = []
    async with supervisor.client() as client, trio.open_nursery() as nursery:
        job = await client.run(["sh", "-c", script])

        async def follow():
            result.append(await collect(client, job.id))

        nursery.start_soon(follow)
        await until_running(client, job)
        for _ in range(kills):
            gate.say("go")
            await in_thread(supervisor.restart)
    parts = [200_000, 50_000, 50_000, 50_000, 50_000]
    expected = "".join(f"{n}\n" for part in parts for n in range(1, part + 1)).encode()
    assert result[0].stdout == expected
    assert result[0].end.exit.code == 0


async def test_a_drain_leaves_jobs_running_and_followers_come_back(supervisor, gates):
    talker = Talker(0, gates())
    async with supervisor.client() as client, trio.open_nursery() as nursery:
        await talker.start(client, nursery)
        line = await in_thread(Line, supervisor, talker)
        assert await in_thread(supervisor.stop) == 0
        assert proctable.look_at(talker.job.pid).comm == "sh"
        talker.say("while it is away")
        await in_thread(supervisor.start)
        await talker.check_running(client)
        talker.say("after")
        talker.end()
    talker.check_followed()
    await in_thread(line.check)


# -- deadlines and kills, which are the shim's --------------------------------------------------


async def test_a_timeout(shared):
    ended = await in_thread(shared.cli, "run", "-f", "--timeout", "1s", "--", "sleep", "1000")
    assert ended.returncode == 124
    assert b"jobsctl: the job timed out after 1s" in ended.stderr
    async with shared.client() as client:
        (job,) = await client.list(all=True, limit=1)
    assert (job.outcome, job.exit.timed_out, job.exit.signal) == ("timed_out", True, "TERM")


async def test_a_timeout_while_no_supervisor_runs(supervisor):
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", "echo on; exec sleep 1000"], timeout_s=1.5)
        await until_running(client, job)
        shim = supervisor.shim(job)
        await in_thread(supervisor.kill)
        assert await in_thread(proctable.wait_gone, shim, harness.SHIM_END_S)
        assert not supervisor.running
        await in_thread(supervisor.start)
        done = await client.wait(job.id)
    assert (done.outcome, done.exit.timed_out) == ("timed_out", True)
    waited = await in_thread(supervisor.cli, "wait", job.id)
    assert waited.returncode == 124


@pytest.mark.v2
async def test_the_grace_period_ends_while_no_supervisor_runs(supervisor):
    """TERM is ignored; KILL comes after the grace period, and from the shim."""
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", "trap '' TERM; echo on; while :; do sleep 1000; done"])
        await until_running(client, job)
        shim = supervisor.shim(job)
        stopping = await client.kill(job.id, grace_s=1.5)
        assert stopping.phase == "stopping"
        await in_thread(supervisor.kill)
        assert await in_thread(proctable.wait_gone, shim, harness.SHIM_END_S)
        await in_thread(supervisor.start)
        done = await client.wait(job.id)
    assert (done.outcome, done.exit.signal, done.exit.killed_by) == ("stopped", "KILL", "admin")


# -- the queue and request_id -------------------------------------------------------------------


async def test_the_queue_survives(make_supervisor, gates):
    supervisor = make_supervisor(jobs={"max_running": 2})
    first, second = gates(), gates()
    async with supervisor.client() as client:
        running = [
            await client.run(["sh", "-c", f"echo on; read -r go < {gate.path}"])
            for gate in (first, second)
        ]
        for job in running:
            await until_running(client, job)
        queued = await client.run(["echo", "at last"])
        doomed = await client.run(["echo", "never"])
        assert [(await client.inspect(job.id)).phase for job in (queued, doomed)] == ["queued"] * 2
        killed = await in_thread(supervisor.cli, "kill", doomed.id)
        assert killed.returncode == 0
        assert killed.stdout.decode().split() == [doomed.id]

        await in_thread(supervisor.restart)
        assert (await client.inspect(queued.id)).phase == "queued"
        assert {job.id for job in await client.list()} == {queued.id, *(j.id for j in running)}
        first.say("go")
        output = await collect(client, queued.id)
        assert output.stdout == b"at last\n"
        second.say("go")
        assert [(await client.wait(job.id)).outcome for job in running] == ["completed"] * 2
        never = await client.inspect(doomed.id)
    assert (never.outcome, never.exit.killed_by, never.started_at) == ("stopped", "admin", None)
    assert never.pid is None


async def test_a_full_queue_refuses(make_supervisor, gates):
    supervisor = make_supervisor(jobs={"max_running": 1, "max_queued": 1})
    gate = gates()
    async with supervisor.client() as client:
        running = await client.run(["sh", "-c", f"read -r go < {gate.path}"])
        queued = await client.run(["true"])
        with pytest.raises(harness.JobsError) as refusal:
            await client.run(["true"])
        assert refusal.value.code == "resource_exhausted"
        assert "max_queued" in refusal.value.message
        gate.say("go")
        for job in (running, queued):
            assert (await client.wait(job.id)).outcome == "completed"
        await client.run(["true"])


async def test_a_request_id_gives_one_job(supervisor):
    async with supervisor.client() as client:
        first = await client.run(["echo", "once"], request_id="r-1")
        again = await client.run(["echo", "once"], request_id="r-1")
        assert again.id == first.id
        await client.wait(first.id)
        await in_thread(supervisor.restart)
        later = await client.run(["echo", "once"], request_id="r-1")
        assert (later.id, later.outcome) == (first.id, "completed")
        with pytest.raises(harness.JobsError) as refusal:
            await client.run(["echo", "twice"], request_id="r-1")
        assert refusal.value.code == "already_exists"
        assert first.id in refusal.value.message
        assert len(await client.list(all=True)) == 1
    async with supervisor.client("dev-alice") as alice:
        other = await alice.run(["echo", "once"], request_id="r-1")
        assert other.id != first.id


async def test_many_at_once_with_one_request_id(shared):
    ids = set()
    async with shared.client() as client, trio.open_nursery() as nursery:

        async def run():
            ids.add((await client.run(["true"], request_id="r-many")).id)

        for _ in range(20):
            nursery.start_soon(run)
    assert len(ids) == 1


# -- parts that are killed ----------------------------------------------------------------------


async def test_the_fork_server_is_killed(supervisor, gates):
    gate = gates()
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", f"echo on; read -r go < {gate.path}; exit 5"])
        before = await until_running(client, job)
        forkserver = supervisor.forkserver()
        os.kill(forkserver, signal.SIGKILL)
        after, output = await harness.finish(client, ["echo", "still serving"])
        assert (after.outcome, output.stdout) == ("completed", b"still serving\n")
        assert supervisor.forkserver() != forkserver
        assert (await client.inspect(job.id)).pid == before.pid
        gate.say("go")
        assert (await client.wait(job.id)).exit.code == 5


async def test_the_shim_that_waits_for_a_job_is_killed(supervisor):
    async with supervisor.client() as client:
        await harness.finish(client, ["true"])
        os.kill(await supervisor.spare(), signal.SIGKILL)
        job, _output = await harness.finish(client, ["true"])
    assert job.outcome == "completed"


async def test_the_shim_that_waits_for_a_job_goes_with_its_supervisor(supervisor):
    async with supervisor.client() as client:
        await harness.finish(client, ["true"])
        spare = await supervisor.spare()
    family = [spare, *(each.pid for each in proctable.descendants(spare))]
    assert len(family) == 3  # init, and a launcher
    supervisor.kill()
    for pid in family:
        assert await in_thread(proctable.wait_gone, pid, harness.SHIM_END_S)


@pytest.mark.v2
async def test_a_shim_is_killed(supervisor):
    mark = f"mark-{os.urandom(8).hex()}"
    script = f"setsid sleep 1000 {mark} & echo so far; sleep 1000"
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", script.replace(f" {mark}", "")], env={"MARK": mark})
        await until_running(client, job)
        pids = proctable.bearing(mark)
        assert len(pids) >= 3
        os.kill(supervisor.shim(job), signal.SIGKILL)
        done = await client.wait(job.id)
        for pid in pids:
            assert await in_thread(proctable.wait_gone, pid, harness.SHIM_END_S)
        output = await collect(client, job.id)
    assert done.outcome == "lost"
    assert "shim" in done.exit.error
    assert output.stdout == b"so far\n"
    waited = await in_thread(supervisor.cli, "wait", job.id)
    assert waited.returncode == 125
    assert b"the job was lost: its shim was killed" in waited.stderr


async def test_a_shim_is_killed_while_no_supervisor_runs(supervisor):
    mark = f"mark-{os.urandom(8).hex()}"
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", "echo so far; sleep 1000"], env={"MARK": mark})
        await until_running(client, job)
        pids = proctable.bearing(mark)
        shim = supervisor.shim(job)
        await in_thread(supervisor.kill)
        os.kill(shim, signal.SIGKILL)
        for pid in pids:
            assert await in_thread(proctable.wait_gone, pid, harness.SHIM_END_S)
        await in_thread(supervisor.start)
        done = await client.wait(job.id)
        output = await collect(client, job.id)
    assert (done.outcome, output.stdout) == ("lost", b"so far\n")


async def test_init_is_killed(supervisor):
    mark = f"mark-{os.urandom(8).hex()}"
    async with supervisor.client() as client:
        job = await client.run(["sh", "-c", "echo so far; sleep 1000"], env={"MARK": mark})
        await until_running(client, job)
        os.kill(supervisor.init(job), signal.SIGKILL)
        done = await client.wait(job.id)
        assert proctable.bearing(mark) == []
        output = await collect(client, job.id)
    assert done.phase == "exited"
    assert (done.outcome, done.exit.signal) == ("failed", "KILL")
    assert output.stdout == b"so far\n"


def test_jobs_outlive_a_host_that_stays_without_supervisor(make_supervisor):
    """A supervisor that was never started again leaves what `inspect` needs on the disk."""
    supervisor = make_supervisor()
    ended = supervisor.cli("run", "-f", "--", "sh", "-c", "echo kept; exit 9")
    assert (ended.returncode, ended.stdout) == (9, b"kept\n")
    supervisor.restart()
    (job,) = harness.json.loads(supervisor.cli("list", "--all", "--json").stdout)
    assert (job["outcome"], job["exit"]["code"], job["output"]["total"]) == ("failed", 9, 5)
    assert supervisor.cli("logs", job["id"]).stdout == b"kept\n"

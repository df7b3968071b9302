"""Every step of the set-up fails, at random, in hundreds of jobs: nothing is left over of any."""

import copy
import errno
import os
import random
from pathlib import Path

import proctable
import pytest
import trio
import trio.testing

from jobs_proto import files
from jobs_proto.isolation import Isolation
from jobs_proto.job import Spec
from jobs_proto.methods import Run
from jobs_proto.phases import Outcome
from jobs_supervisor import cgroups, isolation
from jobs_supervisor.config import Settings
from jobs_supervisor.forkserver import ForkServer
from jobs_supervisor.host import describe
from jobs_supervisor.jobs import Jobs
from jobs_supervisor.quotas import Quotas
from jobs_supervisor.store import Store
from jobs_supervisor.terms import Terms

JOBS = 500
AT_ONCE = 16
DEADLINE_S = 140
SEED = random.SystemRandom().randrange(2**32)
NOWHERE = "/no/such/directory"
SPEC = Spec(argv=("true",), isolation=Isolation(secrets=("a",), tmpfs=("/mnt",)))

pytestmark = [pytest.mark.root, pytest.mark.v2]


class FailingForkServer(ForkServer):
    """The fork server, given plans in which one more step, at a random place, cannot be done."""

    def __init__(self, chance):
        super().__init__()
        self.chance = chance
        self.failed_at = set()

    async def launch(self, directory, plan):
        raw = copy.deepcopy(plan)
        places = [
            (part, index)
            for part in ("shim", "ahead", "leader")
            for index in range(len(raw[part]) + (part != "leader"))
        ]
        part, index = self.chance.choice([*places, ("cgroup", 0)])
        if part == "cgroup":
            directories = raw["cgroup"]["directories"]
            self.chance.choice(directories)[2].append(["no.such.file", "1"])
        else:
            raw[part].insert(index, ["chdir", NOWHERE])
        self.failed_at.add((part, index))
        return await super().launch(directory, raw)


async def test_nothing_is_left_of_jobs_that_failed_at_any_step(tmp_path):
    print(f"seed {SEED}")  # noqa: T201  to try it again
    mounts = Path("/proc/self/mountinfo").read_text()
    tree = cgroups.survey(f"jobs-test-{os.getpid()}")
    forkserver = FailingForkServer(random.Random(SEED))
    store = Store(tmp_path / "jobs.sqlite")
    with trio.fail_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(store.run)
            nursery.start_soon(forkserver.run, tree.shims)
            await forkserver.ready()
            settings = Settings(state_dir=tmp_path)
            host = describe(forkserver.mode, forkserver.why, tree)
            walls = isolation.survey(host.mode, settings, tmp_path / "supervisor.toml")
            jobs = Jobs(
                settings,
                store=store,
                forkserver=forkserver,
                terms=Terms(settings.jobs, host, walls),
                quotas=Quotas(settings.quotas, store),
                nursery=nursery,
            )
            await jobs.start([])
            await run_one(jobs)  # what is opened once and kept, is open by now
            before = await open_files_at_rest(forkserver)
            limiter = trio.CapacityLimiter(AT_ONCE)
            async with trio.open_nursery() as running:
                for _ in range(JOBS):
                    running.start_soon(run_limited, jobs, limiter)
            assert await open_files_at_rest(forkserver) == before
            nursery.cancel_scope.cancel()
    store.close()
    check_directories(tmp_path / "jobs")
    assert list(tmp_path.rglob("secrets")) == []
    for directory in tree.directories():
        assert [each.name for each in directory.iterdir() if each.is_dir()] == []
        directory.rmdir()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert {part for part, _ in forkserver.failed_at} == {"shim", "ahead", "leader", "cgroup"}


async def run_limited(jobs, limiter):
    async with limiter:
        await run_one(jobs)


async def no_limits():
    return []  # as supervisors without plugins impose


async def run_one(jobs):
    request = Run(spec=SPEC, secrets={"a": b"never seen"})
    job = await jobs.admission.submit("tester", request, no_limits)
    (live,) = jobs.register.matching(job.id)
    await live.until_exited()
    assert live.job.outcome is Outcome.START_FAILED, live.job
    assert os.strerror(errno.ENOENT) in live.job.exit.error or "no such" in live.job.exit.error


async def open_files_at_rest(forkserver):
    """Count the fork server's and our own open files, when all shims but a spare one have ended.

    That may have ended as well, by the step of the last job that cannot be done ahead either.
    """
    while len(proctable.children(forkserver.pid)) > 1 or forkserver.spares._spare is None:
        await trio.sleep(0.01)
    await trio.testing.wait_all_tasks_blocked(0.05)
    return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (forkserver.pid, os.getpid())]


def check_directories(directory):
    """Each job's directory holds its record and its empty output, and nothing else.

    It is empty if the job's cgroups could not be had: then no shim was told of it.
    """
    whole = {files.LOCK, files.IDENTITY, files.OUTPUT, files.INDEX, files.EXIT}
    made = list(directory.iterdir())
    assert len(made) == JOBS + 1
    for each in made:
        found = {file.name for file in each.iterdir()}
        assert found in (whole, set())
        assert not found or (each / files.OUTPUT).stat().st_size == 0

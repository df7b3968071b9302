"""Our units as they are installed, on a real systemd: what becomes of jobs when it acts on them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
import pytest
import trio

from jobs_certs import init, issue
from jobs_proto.job import Limits
from jobs_rpc import Client
from jobs_rpc.config import load_settings

UNITS = Path(__file__).parents[2] / "contrib/systemd"
SUPERVISOR, SHIMS = "jobs-supervisor.service", "jobs-shims.service"
CGROUP = Path("/sys/fs/cgroup/system.slice", SHIMS)
WORDS = ("before", "restarted 1", "restarted 2", "restarted 3", "killed")
LIMITS = Limits(memory_bytes=64 << 20, cpus=0.5, pids=20)
CODE = 7
DEADLINE_S = 600


def systemctl(*words: str) -> str:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}{journal()}"
    return done.stdout


def journal() -> str:
    words = ["journalctl", "--no-pager", "-u", SUPERVISOR, "-u", SHIMS]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def job_cgroups() -> list[Path]:
    return list(CGROUP.glob("jobs-*/*-*-*"))


def main_pid() -> int:
    return int(systemctl("show", "--property=MainPID", "--value", SUPERVISOR))


@pytest.fixture(scope="module")
def installed():
    """Give the settings of a client, of a supervisor that was installed as the README says."""
    jobs = Path("/etc/jobs")
    jobs.mkdir()
    init(jobs / "ca", name="test")
    issue(jobs / "ca", "localhost", role="server")
    issue(jobs / "ca", "admin", role="admin")
    for source, target in (("ca", "ca"), ("localhost", "server")):
        for file in (jobs / "ca").glob(f"{source}.*"):
            shutil.copy(file, jobs / file.name.replace(source, target))
    (jobs / "supervisor.toml").touch()
    Path("/opt/jobs").symlink_to(sys.prefix)
    for unit in (SUPERVISOR, SHIMS):
        shutil.copy(UNITS / unit, "/etc/systemd/system")
    systemctl("daemon-reload")
    systemctl("start", SUPERVISOR)
    yield load_settings(
        server="localhost",
        ca=str(jobs / "ca/ca.crt"),
        cert=str(jobs / "ca/admin.crt"),
        key=str(jobs / "ca/admin.key"),
    )
    systemctl("stop", SHIMS)  # which stops what requires it


@pytest.fixture
def gate():
    with tempfile.TemporaryDirectory(dir="/run") as folder:  # jobs have a /tmp of their own
        Path(folder).chmod(0o755)
        made = harness.Gate(Path(folder, "gate"))
        yield made
        made.close()


async def limits_hold(client: Client) -> None:
    """A new job is born within its limits, and cannot leave them."""
    program = "x = bytearray(200 << 20); print('survived')"
    job, output = await harness.finish(client, ["python3", "-c", program], limits=LIMITS)
    assert (job.outcome, output.stdout) == ("oom_killed", b"")


async def killed_and_back() -> None:
    """SIGKILL for the supervisor alone; systemd starts another."""
    before = main_pid()
    os.kill(before, signal.SIGKILL)
    while (await harness.in_thread(main_pid)) in (0, before):
        await trio.lowlevel.checkpoint()
    await harness.in_thread(systemctl, "start", SUPERVISOR)  # returns when it is ready


async def test_a_job_outlives_three_restarts_and_a_crash_of_the_supervisor(installed, gate):
    script = f"while read -r word; do echo $word; done < {gate.path}; exit {CODE}"
    followed, waited = [], []
    with trio.fail_after(DEADLINE_S):
        async with Client(installed) as client, trio.open_nursery() as nursery:
            job = await client.run(["sh", "-c", script], limits=LIMITS)

            async def follow():
                followed.append(await harness.collect(client, job.id))

            async def wait():
                waited.append(await client.wait(job.id))

            nursery.start_soon(follow)
            nursery.start_soon(wait)
            gate.say(WORDS[0])
            before = await harness.until_running(client, job)
            (cgroup,) = CGROUP.glob(f"jobs-*/{job.id}")
            supervisors = {main_pid()}
            for word in WORDS[1:-1]:
                await harness.in_thread(systemctl, "restart", SUPERVISOR)
                supervisors.add(main_pid())
                gate.say(word)
            await limits_hold(client)
            await killed_and_back()
            supervisors.add(main_pid())
            gate.say(WORDS[-1])
            await harness.in_thread(systemctl, "daemon-reload")
            now = await client.inspect(job.id)
            assert (now.phase, now.pid, now.started_at) == (
                "running",
                before.pid,
                before.started_at,
            )
            assert (cgroup / "memory.max").read_text() == f"{LIMITS.memory_bytes}\n"
            assert (cgroup / "cpu.max").read_text() == "50000 100000\n"
            assert (cgroup / "pids.max").read_text() == f"{LIMITS.pids}\n"
            assert str(now.pid) in (cgroup / "cgroup.procs").read_text().split()
            await limits_hold(client)
            gate.close()
    assert len(supervisors) == len(WORDS)
    assert followed[0].stdout.decode().splitlines() == list(WORDS)
    assert (followed[0].stderr, followed[0].gaps) == (b"", [])
    assert followed[0].end.exit.code == waited[0].exit.code == CODE
    assert "Traceback" not in journal()


async def test_the_supervisor_stops_alone_and_the_shims_with_every_job(installed):
    """As at the end of the host: what heeds TERM has its end told, what does not is lost."""
    with trio.fail_after(DEADLINE_S):
        async with Client(installed) as client:
            polite = await client.run(["sh", "-c", "echo here; exec sleep 1000"])
            deaf = await client.run(
                ["sh", "-c", "trap '' TERM; echo here; while :; do sleep 1; done"]
            )
            for job in (polite, deaf):
                await harness.until_running(client, job)
            await harness.in_thread(systemctl, "stop", SUPERVISOR)
            assert [bool((d / "cgroup.procs").read_text()) for d in job_cgroups()] == [True] * 2
            await harness.in_thread(systemctl, "stop", SHIMS)
            assert not CGROUP.exists()
            await harness.in_thread(systemctl, "start", SUPERVISOR)
            ended = [await client.wait(job.id) for job in (polite, deaf)]
            assert [(job.outcome, job.exit.signal) for job in ended] == [
                ("failed", "TERM"),
                ("lost", None),
            ]
            await limits_hold(client)
        await harness.in_thread(systemctl, "stop", SUPERVISOR)  # and with it who waits for a job
    assert job_cgroups() == []

"""A supervisor of one schedule, everything that is done to it, and what it may not leave behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import proctable
import trio
import workload
from damage import Damage
from failpoints import Failpoints, setting
from proxy import Proxy
from schedule import CLOCK, DESCRIPTORS, DISK, Schedule

from jobs_proto import files
from jobs_rpc import Client
from jobs_rpc.config import load_settings

FAKETIME = Path("/usr/lib", os.uname().machine + "-linux-gnu", "faketime/libfaketime.so.1")
"""Debian's libfaketime: the supervisor's idea of the time is another one than the host's."""

DISK_BYTES = 8 << 20
"""Of the disk that is filled."""

DESCRIPTORS_AT_MOST = 48
"""Open files of the supervisor that runs out of them."""

GONE_S = 20.0
"""How long what has ended may take to go: as long as the kernel may need."""

FAILPOINTS = "scratch/failpoints"
"""In a world's folder."""

STATE_FILES = {"jobs", "trash", "audit.log", "supervisor.lock"}
JOB_FILES = {files.LOCK, files.IDENTITY, files.OUTPUT, files.INDEX, files.EXIT, files.FROM}


class World:
    """One schedule's supervisor, and what happens to it.

    Args:
        schedule: its.
        folder: private; `scratch` in it is the jobs'.
        certs: for the supervisor and its clients.

    Attributes:
        faults: what was seen to be wrong.
        damage: what goes wrong with it.
        starts: of the supervisor.
        stopping: it is not to be started again.
    """

    def __init__(self, *, schedule: Schedule, folder: Path, certs: Path) -> None:
        self.schedule = schedule
        self.folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir(mode=0o755)
        self.faults: list[str] = []
        self.starts = 0
        self.stopping = False
        self.failpoints = Failpoints(folder / FAILPOINTS)
        self.supervisor = harness.Supervisor(
            self.folder / "supervisor",
            jobs=self.schedule.jobs,
            quotas=self.schedule.quotas,
        )
        shutil.copytree(certs, self.supervisor.certs)
        self.proxy = Proxy(self.supervisor.port)
        self.clock = self.folder / "clock"
        self.damage = Damage(self.supervisor, self.failpoints, self.proxy, self.clock)
        settings = [self.failpoints.setting]
        if self.schedule.host == CLOCK and FAKETIME.exists():
            self.clock.write_text("+0\n")
            settings += [
                f"LD_PRELOAD={FAKETIME}",
                f"FAKETIME_TIMESTAMP_FILE={self.clock}",
                "FAKETIME_NO_CACHE=1",
                "FAKETIME_DONT_FAKE_MONOTONIC=1",
                "NO_FAKE_STAT=1",
            ]
        self.supervisor.prefix = ["env", *settings]
        if self.schedule.host == DESCRIPTORS:
            self.supervisor.prefix += ["prlimit", f"--nofile={DESCRIPTORS_AT_MOST}"]
        if self.schedule.host == DISK:
            self.supervisor.state.mkdir(mode=0o700)
            subprocess.run(
                [
                    "mount",
                    "-t",
                    "tmpfs",
                    "-o",
                    f"size={DISK_BYTES}",
                    "faults",
                    self.supervisor.state,
                ],
                check=True,
            )
        evidence = self.scratch / workload.EVIDENCE
        evidence.touch()
        evidence.chmod(0o666)
        self.gate = harness.Gate(self.scratch / workload.GATE)

    def client(self, context: str) -> Client:
        """Make a client whose connections go through what can be cut."""
        settings = load_settings(
            config=str(self.supervisor.directory / "config.toml"),
            context=context,
            server=f"127.0.0.1:{self.proxy.port}",
        )
        return Client(settings)

    # -- the supervisor, kept running ----------------------------------------------------------

    async def keep(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the supervisor, and again whenever it was killed."""
        while not self.stopping:
            await self._start()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            process = self.supervisor.process
            assert process is not None
            status = await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
            self._ended(status)
            await trio.sleep(self.damage.down_for_s)
            self.damage.down_for_s = 0.0

    async def _start(self) -> None:
        while True:
            self.starts += 1
            try:
                await trio.to_thread.run_sync(self.supervisor.start)
            except AssertionError as error:  # it ended; a failpoint may have been reached at once
                if "ended with -9" not in str(error):
                    raise
                continue
            return

    async def retain(self, keep_jobs: int) -> None:
        """Have the supervisor forget all jobs that have ended but the newest, from its start on."""
        with (self.supervisor.directory / "supervisor.toml").open("a") as file:
            file.write(f"[retention]\nkeep_jobs = {keep_jobs}\n")
        await self.damage.kill_supervisor(for_s=0.0)

    def _ended(self, status: int) -> None:
        if status != -signal.SIGKILL and not self.stopping:
            self.faults.append(f"the supervisor ended with {status}")

    def heal(self) -> None:
        """Let nothing more go wrong, but where failpoints are still armed."""
        self.damage.heal()
        for _ in self.schedule.parts:
            self.gate.say("go")

    # -- the end -------------------------------------------------------------------------------

    def executed(self) -> list[tuple[str, str, int]]:
        """Give the jobs' evidence."""
        rows = (self.scratch / workload.EVIDENCE).read_text().splitlines()
        return [(key, job, int(pid)) for key, job, pid in map(str.split, rows)]

    def left(self, listed: set[str]) -> list[str]:
        """Give what is left over of jobs that have all ended; wait for what is just going.

        Args:
            listed: the jobs that may have files.
        """
        end = time.monotonic() + GONE_S
        while (found := self._left(listed)) and time.monotonic() < end:
            time.sleep(0.05)
        return found

    def _left(self, listed: set[str]) -> list[str]:
        state = self.supervisor.state
        ours = {self.supervisor.pid, *self._with_what_waits()}
        marks = {self.failpoints.setting.encode()}
        marks |= {f"JOBS_JOB_ID={path.name}".encode() for path in (state / "jobs").iterdir()}
        pids = set(proctable.with_environment(marks)) - ours
        found = [f"process {pid}: {proctable.look_at(pid)}" for pid in pids]
        found += [f"cgroup {path}" for path in self.supervisor.job_cgroups()]
        for path in state.iterdir():
            if path.name not in STATE_FILES and not path.name.startswith("jobs.sqlite"):
                found.append(f"in the state directory: {path.name}: {os.listdir(path)}")
        found += [f"in the trash: {path.name}" for path in (state / "trash").iterdir()]
        found += self.secrets_told()
        for directory in (state / "jobs").iterdir():
            if directory.name not in listed:
                found.append(f"files of {directory.name}, which is not listed")
            for name in set(os.listdir(directory)) - JOB_FILES:
                found.append(f"in the directory of {directory.name}: {name}")
                if name == files.SHIM_ERROR:
                    found.append((directory / name).read_text())
        return found

    def _with_what_waits(self) -> set[int]:
        """Give the fork server, and one shim that waits for a job, with its init and launcher."""
        found = {process.pid for process in proctable.children(self.supervisor.pid)}
        waiting = [shim for pid in found for shim in self._waiting_below(pid)]
        for pid in waiting[:1]:
            found |= {pid, *(process.pid for process in proctable.descendants(pid))}
        return found

    def _waiting_below(self, forkserver: int) -> Iterator[int]:
        """Give its shims that have opened nothing: those of jobs have, removed ones' too."""
        state = str(self.supervisor.state)
        for shim in proctable.children(forkserver):
            with contextlib.suppress(*proctable.GONE):
                if not any(
                    what.startswith(state) for what in proctable.open_files(shim.pid).values()
                ):
                    yield shim.pid

    def secrets_told(self) -> list[str]:
        """Give where the jobs' secrets can still be read."""
        works = [part.work for part in self.schedule.parts]
        secrets = [secret for work in works for secret in work.secrets.values()]
        files_ = [path for path in self.supervisor.directory.rglob("*") if path.is_file()]
        return [
            f"a secret in {path}"
            for path in files_
            if secrets and any(secret in _read(path) for secret in secrets)
        ]

    def end(self) -> None:
        """End it all, whatever became of it."""
        self.stopping = True
        self.gate.close()
        if self.supervisor.running:
            self.supervisor.stop()
        sweep(self.folder)
        log = self.supervisor.said()
        if "Traceback" in log:
            self.faults.append(f"there are tracebacks in the supervisor's log:\n{log}")
        self.faults += [f"cgroup {path} is left" for path in self.supervisor.cgroups()]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""  # it went meanwhile


def sweep(folder: Path) -> None:
    """End what a world still has: its processes, a job found wanting with its shim; its disk."""
    for pid in proctable.with_environment({setting(folder / FAILPOINTS).encode()}):
        os.kill(pid, signal.SIGKILL)
    state = folder / "supervisor/state"
    if state.is_mount():
        subprocess.run(["umount", "-l", state], check=True)

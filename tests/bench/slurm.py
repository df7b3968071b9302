"""Slurm as a peer: a cluster of one node, with daemons, key and ports of its own."""

import contextlib
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import proctable
from peers import PEER_S, TRUE, Peer, run

CONFIG = """
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=bench Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE
"""


class Slurm(Peer):
    """srun, with processes tracked in /proc: no cgroups, no isolation."""

    name = "srun"
    package = "slurm-wlm"
    programs = ("srun", "slurmctld", "slurmd", "munged")
    monitors = True

    @contextlib.contextmanager
    def started(self, directory: Path) -> Iterator[None]:
        """Have munged, slurmctld and slurmd, until a first job has run."""
        self._directory = directory
        self._write_files()
        folder = str(directory)
        munge = ["munged", "--foreground", "--force", "--key-file", f"{folder}/key"]
        munge += [f"--{kind}-file={folder}/munge.{kind}" for kind in ("pid", "log", "seed")]
        daemons = ([*munge, "--socket", f"{folder}/munge"], ["slurmctld", "-D"], ["slurmd", "-D"])
        with contextlib.ExitStack() as stack:
            for argv in daemons:
                stack.enter_context(self._daemon(argv))
            self._await_first()
            yield

    def _write_files(self) -> None:
        folder = self._directory
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                directory=folder,
                host=socket.gethostname(),
                controller=harness.free_port(),
                node=harness.free_port(),
                cpus=len(os.sched_getaffinity(0)),
            )
        )

    @contextlib.contextmanager
    def _daemon(self, argv: list[str]) -> Iterator[None]:
        environment = {**os.environ, **self.environment()}
        with (self._directory / f"{argv[0]}.out").open("wb") as log:
            process = subprocess.Popen(
                argv, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(PEER_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _await_first(self) -> None:
        deadline = time.monotonic() + PEER_S
        while True:
            try:
                run(["srun", "--immediate=5", "-N1", TRUE], **self.environment())
            except ChildProcessError:
                if time.monotonic() > deadline:
                    raise
                select.select([], [], [], 0.1)
            else:
                return

    def environment(self) -> dict[str, str]:
        """Name the settings."""
        return {"SLURM_CONF": f"{self._directory}/slurm.conf"}

    def argv(self, ident: str) -> list[str]:
        """Give the command."""
        return ["srun", "-N1", f"--job-name={ident}", TRUE]

    @contextlib.contextmanager
    def sleeper(self, ident: str) -> Iterator[list[int]]:
        """Have a job that sleeps; give its slurmstepd, without the srun that waits for it."""
        environment = {**os.environ, **self.environment()}
        argv = ["srun", "-N1", f"--job-name={ident}", "sleep", "1000000"]
        known = set(_steps())
        with subprocess.Popen(
            argv, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            try:
                yield self._await_step(known)
            finally:
                run(["scancel", f"--name={ident}", "--signal=KILL"], **self.environment())
                process.wait(PEER_S)

    @staticmethod
    def _await_step(known: set[int]) -> list[int]:
        """Wait for a step whose job is there, too."""
        deadline = time.monotonic() + PEER_S
        while time.monotonic() < deadline:
            fresh = [pid for pid in _steps() if pid not in known]
            if any(child.comm == "sleep" for pid in fresh for child in proctable.children(pid)):
                return fresh
            select.select([], [], [], 0.02)
        raise TimeoutError("slurmstepd did not start the job")


def _steps() -> list[int]:
    return [each.pid for each in proctable.processes() if each.comm.startswith("slurmstepd")]

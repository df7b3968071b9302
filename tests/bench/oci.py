"""Peers that run OCI bundles: runc; conmon with runc; containerd with a shim for each container."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import proctable
from peers import CPUS, MEMORY, PEER_S, PIDS, TRUE, Peer, run

PERIOD_US = 100_000
TAIL = 4 << 20
"""Of a log, in which what came on stderr may stand before the last pipeful of stdout."""

BUSYBOX = "busybox"
APPLETS = ("true", "sleep", "dd", "sh")
SLEEP = ["/bin/sleep", "1000000"]


class Traces:
    """What containers leave on the host, and its removal.

    Args:
        name: of a cgroup below our own in each hierarchy, for those of a peer's containers.
        directory: that the peer's processes are started with.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.cgroup = f"jobs-bench-{os.getpid()}-{name}"
        self._directory = directory

    def remove(self) -> None:
        """Kill what is in the cgroups, and the peer's own processes; remove the cgroups."""
        pids = set(proctable.bearing(f"{self._directory}/"))
        for folder in self._folders():
            pids |= set(map(int, (folder / "cgroup.procs").read_text().split()))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            proctable.wait_gone(pid, PEER_S)
        for folder in self._folders():
            folder.rmdir()

    def _folders(self) -> list[Path]:
        """Give every cgroup, those below others first."""
        bases = [base / self.cgroup for base in harness.own_cgroups()]
        return [Path(path) for base in bases for path, _, _ in os.walk(base, topdown=False)]


def make_rootfs(directory: Path) -> Path:
    """Make a root directory of one busybox."""
    programs = directory / "rootfs/bin"
    programs.mkdir(parents=True)
    source = shutil.which(BUSYBOX)
    assert source is not None
    shutil.copy(source, programs / BUSYBOX)
    for applet in APPLETS:
        (programs / applet).symlink_to(BUSYBOX)
    for folder in ("proc", "dev", "sys", "usr"):
        (directory / "rootfs" / folder).mkdir()
    for folder in ("lib", "lib64"):
        (directory / "rootfs" / folder).symlink_to(f"usr/{folder}")
    return directory / "rootfs"


def make_bundle(directory: Path, argv: list[str], cgroup: str) -> Path:
    """Make a bundle beside a `rootfs`, with runc's own defaults and our limits.

    Args:
        directory: holds `rootfs`.
        argv: what it runs.
        cgroup: its path below our own cgroup; runc takes what is not absolute to be that.
    """
    bundle = directory / cgroup.replace("/", "-")
    bundle.mkdir()
    subprocess.run(["runc", "spec", "--bundle", bundle], check=True, timeout=PEER_S)
    path = bundle / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    config["process"].update(terminal=False, args=argv)
    config["root"] = {"path": str(directory / "rootfs"), "readonly": True}
    # Only what writes needs more than busybox: the same dd as ours.
    host = {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]}
    config["mounts"].append(host)
    config["linux"]["cgroupsPath"] = cgroup
    config["linux"]["resources"].update(
        memory={"limit": MEMORY},
        cpu={"quota": CPUS * PERIOD_US, "period": PERIOD_US},
        pids={"limit": PIDS},
    )
    path.write_text(json.dumps(config))
    return bundle


class Runc(Peer):
    """runc alone: it goes when the container does, and nobody holds its output or its end."""

    name = "runc"
    package = "runc"
    programs: tuple[str, ...] = ("runc", BUSYBOX)

    @contextlib.contextmanager
    def started(self, directory: Path) -> Iterator[None]:
        """Make the bundle."""
        traces = Traces(self.name, directory)
        make_rootfs(directory)
        self._directory, self._cgroup = directory, traces.cgroup
        self._true = self._bundle("true", [TRUE])
        try:
            yield
        finally:
            traces.remove()

    def _bundle(self, name: str, argv: list[str]) -> Path:
        return make_bundle(self._directory, argv, f"{self._cgroup}/{name}")

    def _runc(self, *words: str) -> list[str]:
        return ["runc", "--root", str(self._directory / "runc"), *words]

    def argv(self, ident: str) -> list[str]:
        """Give the command."""
        return self._runc("run", "--bundle", str(self._true), ident)


class Conmon(Runc):
    """conmon with runc, as Podman and CRI-O have it: a monitor for each container, and its log."""

    name = "conmon"
    package = "conmon"
    programs = ("conmon", *Runc.programs)
    monitors = True

    def launch(self, ident: str) -> None:
        """Create, start, and wait for the monitor's end, which comes after the exit file."""
        monitor = self.start(ident, self._true)
        self._await(monitor)
        self._delete(ident)

    def start(self, ident: str, bundle: Path) -> int:
        """Start a container; give its monitor's pid."""
        folder, pid_file = str(self._directory), self._directory / f"{ident}.pid"
        argv = [
            *("conmon", "-c", ident, "-u", ident, "-n", ident, "-r", shutil.which("runc") or ""),
            *("--runtime-arg", "--root", "--runtime-arg", f"{folder}/runc"),
            *("-b", str(bundle), "-P", str(pid_file), "-p", f"{pid_file}.of-container"),
            *(
                "--exit-dir",
                folder,
                "--socket-dir-path",
                folder,
                "-l",
                f"k8s-file:{self.log(ident)}",
            ),
        ]
        # It forks and goes on creating the container; a line in this pipe says that it has.
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_inheritable(writing, True)  # noqa: FBT003  the interface of os
        with os.fdopen(reading) as told:
            try:
                run(argv, _OCI_SYNCPIPE=str(writing))
            finally:
                os.close(writing)
            said = told.readline()
        if json.loads(said or "{}").get("pid", -1) <= 0:
            raise ChildProcessError(f"conmon did not create the container: {said!r}")
        run(self._runc("start", ident))
        return int(pid_file.read_text())

    def log(self, ident: str) -> Path:
        """Give the path of a container's log."""
        return self._directory / f"{ident}.log"

    @staticmethod
    def _await(pid: int) -> None:
        if not proctable.wait_gone(pid, PEER_S):
            raise TimeoutError(f"conmon {pid} did not end within {PEER_S:g} s")

    def _delete(self, ident: str) -> None:
        run(self._runc("delete", "--force", ident))

    @contextlib.contextmanager
    def sleeper(self, ident: str) -> Iterator[list[int]]:
        """Have a container that sleeps; give its conmon."""
        monitor = self.start(ident, self._bundle(ident, SLEEP))
        try:
            yield [monitor]
        finally:
            run(self._runc("kill", ident, "KILL"))
            self._await(monitor)
            self._delete(ident)

    def write(self, ident: str, argv: list[str]) -> str:
        """Run a container that writes to its end; give the end of its log."""
        self._await(self.start(ident, self._bundle(ident, argv)))
        self._delete(ident)
        with self.log(ident).open("rb") as log:
            log.seek(-min(TAIL, log.seek(0, os.SEEK_END)), os.SEEK_END)
            said = log.read().decode(errors="replace")
        self.log(ident).unlink()
        return said


CONTAINERD_CONFIG = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = [{disabled}]
[grpc]
address = "{directory}/socket"
[ttrpc]
address = "{directory}/socket.ttrpc"
"""

DISABLED = (
    "grpc.v1.cri",
    "snapshotter.v1.aufs",
    "snapshotter.v1.btrfs",
    "snapshotter.v1.devmapper",
    "snapshotter.v1.zfs",
    "internal.v1.opt",
    "internal.v1.restart",
    "tracing.processor.v1.otlp",
)


class Containerd(Peer):
    """ctr run: a containerd of its own, and a shim for each container."""

    name = "ctr"
    package = "containerd"
    programs = ("containerd", "ctr", "runc", BUSYBOX)
    monitors = True

    @contextlib.contextmanager
    def started(self, directory: Path) -> Iterator[None]:
        """Have a containerd that knows of no other's containers."""
        traces = Traces(self.name, directory)
        self._directory, self._cgroup = directory, traces.cgroup
        self._rootfs = make_rootfs(directory)
        config = directory / "config.toml"
        disabled = ", ".join(f'"io.containerd.{each}"' for each in DISABLED)
        config.write_text(CONTAINERD_CONFIG.format(directory=directory, disabled=disabled))
        with (directory / "log").open("wb") as log:
            daemon = subprocess.Popen(
                ["containerd", "--config", config], stdout=log, stderr=log, start_new_session=True
            )
        try:
            self._await_ready(daemon)
            yield
        finally:
            daemon.terminate()
            daemon.wait(PEER_S)
            traces.remove()

    def _await_ready(self, daemon: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + PEER_S
        while True:
            try:
                run(self._ctr("version"))
            except ChildProcessError:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    said = (self._directory / "log").read_text()[-500:]
                    raise ChildProcessError(f"containerd does not serve: {said}") from None
                select.select([], [], [], 0.05)
            else:
                return

    def _ctr(self, *words: str) -> list[str]:
        return ["ctr", "--address", f"{self._directory}/socket", *words]

    def _run(self, ident: str, *options: str) -> list[str]:
        limits = ("--memory-limit", str(MEMORY), "--cpus", str(CPUS))  # it has none for pids
        cgroup = ("--cgroup", f"{self._cgroup}/{ident}")
        return self._ctr("run", *options, *limits, *cgroup, "--rootfs", str(self._rootfs), ident)

    def argv(self, ident: str) -> list[str]:
        """Give the command."""
        return [*self._run(ident, "--rm"), TRUE]

    @contextlib.contextmanager
    def sleeper(self, ident: str) -> Iterator[list[int]]:
        """Have a container that sleeps; give its shim."""
        run([*self._run(ident, "--detach", "--null-io"), *SLEEP])
        try:
            yield [
                process.pid
                for process in proctable.processes()
                if process.comm.startswith("containerd-shim") and _names(process.pid, ident)
            ]
        finally:
            run(self._ctr("task", "kill", "--signal", "KILL", ident))
            run(self._ctr("task", "delete", "--force", ident))
            run(self._ctr("container", "delete", ident))


def _names(pid: int, ident: str) -> bool:
    return ident.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")

"""A real fork server and its shims, driven over its socket pair as a supervisor does it."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jobs_proto
import jobs_shim
from jobs_proto import files
from jobs_proto import shim as protocol

WAIT_S = 30.0
"""How long anything may take that should take milliseconds, on a machine that is busy."""

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x20000, 0x4000000, 0x8000000, 0x20000000
MS_REC, MS_PRIVATE, MS_SAFE = 0x4000, 0x40000, 0xE
NOBODY = 65534
PATH = "/usr/local/bin:/usr/bin:/bin"

_ROOTS = [str(Path(package.__file__).parents[1]) for package in (jobs_proto, jobs_shim)]
_MAIN = f"import sys; sys.path[:0] = {_ROOTS}; import jobs_shim.__main__ as m; m.main()"


def v2_parent() -> Path:
    """Give this process's own cgroup in the v2 tree, on a hybrid or a unified host."""
    unified = Path("/sys/fs/cgroup/unified")
    root = unified if (unified / "cgroup.procs").exists() else Path("/sys/fs/cgroup")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line for line in lines if line.startswith("0::"))
    return root / own.removeprefix("0::").strip("/")


def children(pid: int) -> list[int]:
    """Give the children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descriptors(pid: int) -> dict[int, str]:
    """Give a process's open descriptors and what they are."""
    folder = Path(f"/proc/{pid}/fd")
    return {int(entry.name): str(entry.readlink()) for entry in folder.iterdir()}


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pid: int) -> bool:
    """Wait until a process has ended; False if it does not in time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], WAIT_S)[0])
    finally:
        os.close(fd)


def _ignore(_name: str, _packet: bytes) -> None:
    pass


class Job:
    """One launch, from the supervisor's side.

    Attributes:
        directory: the job's.
        cgroup: its v2 cgroup, or None.
        connection: to its shim.
        keep: is told each packet, and who has sent it.
    """

    def __init__(
        self,
        directory: Path,
        cgroup: Path | None,
        connection: socket.socket,
        keep: Callable[[str, bytes], None] = _ignore,
    ) -> None:
        self.keep = keep
        self.directory = directory
        self.cgroup = cgroup
        self.connection = connection
        connection.settimeout(WAIT_S)

    def tell(self, kind: str, **body: object) -> None:
        """Send the shim a packet."""
        self.connection.send(protocol.pack(kind, body))

    def hear(self) -> tuple[str, dict]:
        """Give the next packet; ("", {}) at the end."""
        packet = self.connection.recv(protocol.MAX_PACKET)
        if not packet:
            return "", {}
        self.keep("shim", packet)
        return protocol.unpack(packet)

    def expect(self, kind: str) -> dict:
        """Give the body of the next packet, which must be of this kind."""
        got, body = self.hear()
        assert got == kind, (got, body, self.shim_error())
        return body

    def end(self) -> dict:
        """Wait for the exit record; then for the shim's end, and that it left what it should."""
        while True:
            kind, body = self.hear()
            assert kind, f"the shim ended without an exit record: {self.shim_error()}"
            if kind == protocol.EXITED:
                break
        assert self.hear() == ("", {})
        assert files.decode((self.directory / files.EXIT).read_bytes()) == body
        assert not (self.directory / files.SOCKET).exists()
        assert not self.shim_error()
        assert self.cgroup is None or not self.cgroup.exists()
        return body

    def end_on_disk(self) -> dict:
        """Wait for the shim's end, whatever it could tell us; give its exit record."""
        with contextlib.suppress(ConnectionResetError):  # it has not read all that we told it
            while self.hear()[0]:
                pass
        assert not self.shim_error()
        record = files.decode((self.directory / files.EXIT).read_bytes())
        assert isinstance(record, dict)
        return record

    def kill(self, number: int = 9, grace_s: float = 0.0) -> None:
        """Ask for the job's end."""
        self.tell(protocol.KILL, signal=number, grace_s=grace_s, by="tester")

    @property
    def output(self) -> bytes:
        """All of its output."""
        return (self.directory / files.OUTPUT).read_bytes()

    @property
    def chunks(self) -> list[tuple[int, int, int, int]]:
        """The index: (end offset, time in ns, kind, 0) each; a full disk may have cut the last."""
        index = (self.directory / files.INDEX).read_bytes()
        whole = len(index) // files.CHUNK.size * files.CHUNK.size
        return list(files.CHUNK.iter_unpack(index[:whole]))

    @property
    def shim(self) -> int:
        """The shim's pid, by the job's identity."""
        record = files.decode((self.directory / files.IDENTITY).read_bytes())
        assert isinstance(record, dict)
        return record["pid"]

    def shim_error(self) -> str:
        """Give the traceback that a failing shim leaves."""
        path = self.directory / files.SHIM_ERROR
        return path.read_text() if path.exists() else ""

    def reattach(self, reattached: contextlib.ExitStack) -> "Job":
        """Connect as a supervisor does that has come back."""
        return reattach(self.directory, reattached, self.cgroup)


def reattach(directory: Path, reattached: contextlib.ExitStack, cgroup: Path | None = None) -> Job:
    """Connect to the shim of a job as a supervisor does that has come back."""
    connection = reattached.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    fd = os.open(directory, os.O_PATH)
    connection.connect(f"/proc/self/fd/{fd}/{files.SOCKET}")
    os.close(fd)
    return Job(directory, cgroup, connection)


class ForkServer:
    """A fork server; its jobs have namespaces and a cgroup if `isolated`, which needs root.

    `within` is a command that executes another one, to have it somewhere else.
    """

    def __init__(self, folder: Path, *, isolated: bool, keep=_ignore, within=()) -> None:
        self.folder = folder
        self.keep = keep
        self.isolated = isolated
        self.jobs: list[Job] = []
        self.cgroup = v2_parent() / f"jobs-test-{os.getpid()}" if isolated else None
        self.connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(WAIT_S)
        with theirs:
            self.process = subprocess.Popen(
                [*within, sys.executable, "-I", "-X", "utf8", "-c", _MAIN],
                stdin=theirs,
                env={"LD_BIND_NOW": "1", "TMPDIR": str(folder)},
            )
        packet = self.connection.recv(protocol.MAX_PACKET)
        keep("forkserver", packet)
        kind, self.hello = protocol.unpack(packet)
        assert kind == protocol.HELLO

    def launch(self, argv, *, directory=None, **changes) -> Job:
        """Have a job launched.

        Args:
            argv: the command; None: no exec step, but the steps in `leader`.
            directory: the job's; a new one if None.
            changes: keys of the plan that differ; `cwd`, `before`: of the leader's steps.
        """
        if directory is None:
            directory = self.folder / f"job-{len(self.jobs)}"
            directory.mkdir(0o700)
        cgroup = self.cgroup / directory.name if self.cgroup else None
        plan = self._plan(argv, cgroup, **changes)
        shim = self.fork(changes.get("shim"), self._ahead(changes), cgroup, soon=True)
        with contextlib.ExitStack() as opened:
            fds = [_memory(plan, opened), _directory(directory, opened)]
            self._say(shim, fds, protocol.LAUNCH, {"dir": str(directory)})
        job = Job(directory, cgroup, shim, self.keep)
        self.jobs.append(job)
        return job

    def fork(self, enter=None, ahead=(), cgroup=None, *, soon=False) -> socket.socket:
        """Have a shim forked that waits for a job; give our end of the connection to it."""
        if enter is None:
            enter = [["unshare", CLONE_NEWPID]] if self.isolated else []
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its, contextlib.ExitStack() as opened:
            given = [_memory(list(ahead), opened)]
            if cgroup is not None:
                cgroup.mkdir(parents=True, exist_ok=True)
                given.append(_directory(cgroup, opened))
            self._say(ours, given, protocol.PREPARE, {"soon": soon})
            fds = [its.fileno(), given[-1]]  # a memfd is no birthplace
            self._say(self.connection, fds, protocol.FORK, {"enter": enter})
        return ours

    def _say(self, connection, fds, kind, body):
        packet = protocol.pack(kind, body)
        self.keep("supervisor", packet)
        socket.send_fds(connection, [packet], fds)

    def _ahead(self, changes):
        mounts = [
            ["unshare", CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS],
            ["mount", "none", "/", "", MS_REC | MS_PRIVATE, ""],
            ["mount", "proc", "/proc", "proc", MS_SAFE, ""],
        ]
        return changes.get("ahead", mounts if self.isolated else [])

    def _plan(self, argv, place, *, plan=None, cwd="/", before=(), env=None, **changes):
        if plan is not None:
            return plan
        directories = [["unified", str(place), []]]
        return {
            "job": "a-job",
            "boot": files.boot_id(),
            "cgroup": {"unified": False, "directories": directories} if place else None,
            "own_pids": self.isolated,
            "timeout_s": None,
            "grace_s": 5.0,
            "leader": [
                *([["user", NOBODY, NOBODY, [NOBODY]]] if self.isolated else []),
                *before,
                ["chdir", cwd],
                ["exec", list(argv or ()), {"PATH": PATH, **(env or {})}],
            ],
            **changes,
        }

    def close(self) -> None:
        """End the server and whatever jobs still run; look for what they left."""
        for job in self.jobs:
            with contextlib.suppress(OSError):
                job.kill()
        for job in self.jobs:
            with contextlib.suppress(OSError):
                while job.hear()[0]:
                    pass
            job.connection.close()
        self.connection.close()
        assert self.process.wait(WAIT_S) == 0
        if self.cgroup is not None and self.cgroup.exists():
            left = [entry for entry in self.cgroup.iterdir() if entry.is_dir()]
            for entry in left:
                (entry / "cgroup.kill").write_text("1")
                _remove(entry)
            _remove(self.cgroup)


def _memory(content, opened) -> int:
    fd = os.memfd_create("content")
    opened.callback(os.close, fd)
    os.write(fd, content if isinstance(content, bytes) else files.encode(content))
    return fd


def _directory(path, opened) -> int:
    """Open a directory; one that is not there as one that has been removed since."""
    missing = not path.exists()
    if missing:
        path.mkdir()
    fd = os.open(path, os.O_PATH)
    opened.callback(os.close, fd)
    if missing:
        path.rmdir()
    return fd


def _remove(cgroup: Path) -> None:
    end = time.monotonic() + WAIT_S
    with (cgroup / "cgroup.events").open("rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while b"populated 0" not in os.pread(events.fileno(), 512, 0):
            assert time.monotonic() < end
            poll.poll(1000)
    cgroup.rmdir()

"""A real supervisor, as an operator would start it, and what tests do to it and with it."""

import contextlib
import hashlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import proctable
import trio

from jobs_proto import files
from jobs_proto.errors import JobsError  # noqa: F401  tests take it from here
from jobs_proto.job import Job
from jobs_rpc import Chunk, Client, End, Gap
from jobs_supervisor.cgroups import own_places

START_S = 60.0
"""How long a supervisor may take from exec to serving, on a busy machine."""

STOP_S = 30.0
"""How long it may take to drain."""

CLI_S = 120.0
"""How long one `jobsctl` may take."""

SHIM_END_S = 30.0
"""How long a shim may go on after its job has ended."""

JOB_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""`JobSettings.path`, where jobs find programs."""

LOG_TAIL = 20_000

SCRIPTS = Path(sysconfig.get_path("scripts"))


def program(name: str) -> str | None:
    """Find a program where a job would."""
    return shutil.which(name, path=JOB_PATH)


def free_port() -> int:
    """Give a port that nobody has, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(15_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class Supervisor:
    """`jobs-supervisor --dev` in a folder of its own, which outlives any number of its processes.

    Args:
        directory: the folder.
        server: settings of `[server]`, besides what --dev would write.
        jobs: settings of `[jobs]`, likewise.
        plugins: settings of `[plugins]`; a `config` in it is a table of tables.
        scripts: where its programs are; those of this environment, if not given.
        quotas: settings of `[quotas]`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        server: dict | None = None,
        jobs: dict | None = None,
        plugins: dict | None = None,
        scripts: Path = SCRIPTS,
        quotas: dict | None = None,
    ):
        directory.mkdir(parents=True)
        self.directory = directory
        self.state = directory / "state"
        self.certs = directory / "certs"
        self.log = directory / "supervisor.log"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.prefix: list[str] = []  # a command that starts it, in another namespace perhaps
        self._clients: list[subprocess.Popen[bytes]] = []
        self.scripts = scripts
        self._write_settings(server or {}, jobs or {}, plugins or {}, quotas or {})

    def _write_settings(self, server: dict, jobs: dict, plugins: dict, quotas: dict) -> None:
        config = {f"plugins.config.{k}": v for k, v in plugins.get("config", {}).items()}
        tables = {
            "server": {
                "listen": f"127.0.0.1:{self.port}",
                "ca": str(self.certs / "ca.crt"),
                "cert": str(self.certs / "server.crt"),
                "key": str(self.certs / "server.key"),
                **server,
            },
            "jobs": {"isolation": "best-effort", **jobs},
            "plugins": {k: v for k, v in plugins.items() if k != "config"},
            **config,
            "quotas": quotas,
        }
        lines = [f"state_dir = {json.dumps(str(self.state))}"]
        for table, values in tables.items():
            lines += [f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
        (self.directory / "supervisor.toml").write_text("\n".join(lines) + "\n")

    # -- the process -------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, again too; return when it serves."""
        process = self.spawn()
        try:
            line = _first_line(process)
        except TimeoutError:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()  # it says nothing more there
        if line != f"export JOBS_CONFIG={self.directory / 'config.toml'}\n":
            raise AssertionError(f"it ended with {process.wait()}, saying {line!r}: {self.said()}")
        self.process = process

    def spawn(self) -> subprocess.Popen:
        """Start the process, and wait for nothing."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*self.prefix, self.scripts / "jobs-supervisor", "--dev", "--dir", self.directory],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL; return when it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; give its exit status once it has drained."""
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        """SIGKILL, and another one in the same folder."""
        self.kill()
        self.start()

    def _end(self, number: int) -> int:
        assert self.process is not None
        with self.process as process:
            process.send_signal(number)
            return process.wait(STOP_S)

    def said(self) -> str:
        """Give the end of its log."""
        return self.log.read_text(errors="replace")[-LOG_TAIL:]

    # -- its clients -------------------------------------------------------------------------

    def client(self, context: str = "dev") -> Client:
        """Make a client; of `dev-alice` or `dev-viewer` if named."""
        return Client.from_config(config=str(self.directory / "config.toml"), context=context)

    def cli(self, *words: str, context: str = "dev") -> subprocess.CompletedProcess:
        """Run the installed `jobsctl` to its end."""
        with self.cli_process(*words, context=context) as process:
            try:
                out, err = process.communicate(timeout=CLI_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def cli_process(self, *words: str, context: str = "dev", **options) -> subprocess.Popen:
        """Start the installed `jobsctl`."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0, **options}
        environment = {
            "PATH": os.environ["PATH"],
            "JOBS_CONFIG": str(self.directory / "config.toml"),
            "JOBS_CONTEXT": context,
            "JOBS_DEBUG": "1",
        }
        process = subprocess.Popen(
            [self.scripts / "jobsctl", *words], stdin=subprocess.DEVNULL, env=environment, **options
        )
        self._clients.append(process)
        return process

    def end_clients(self) -> None:
        """End what a failed test has left of them."""
        for process in self._clients:
            with process:
                process.kill()

    # -- what it leaves on the host ----------------------------------------------------------

    @property
    def has_namespaces(self) -> bool:
        """Whether this host gives jobs any; the supervisor's log says so if it does not."""
        return "no namespaces" not in self.log.read_text()

    def decisions(self) -> list[dict]:
        """Give the decisions of the audit log."""
        return [line for line in self.audit() if line["event"] == "decision"]

    def audit(self) -> list[dict]:
        """Give the audit log."""
        return [json.loads(line) for line in (self.state / "audit.log").read_text().splitlines()]

    def forkserver(self) -> int:
        """Give the pid of its fork server, the one child that it has."""
        (child,) = proctable.children(self.pid)
        return child.pid

    def shims(self) -> dict[int, bool]:
        """Give the shims that it had forked and that live, and whether each has, or had, a job."""
        known = set(filter(None, map(_shim_of, (self.state / "jobs").glob("*"))))
        children = proctable.children(self.forkserver())
        return {child.pid: (child.pid, child.start) in known for child in children}

    async def spare(self, running: int = 0) -> int:
        """Give the pid of the shim that waits for a job, when no others live than these."""
        with trio.fail_after(SHIM_END_S):
            while sorted((shims := self.shims()).values()) != [False] + [True] * running:
                await trio.sleep(0.01)
        return min(shims, key=lambda pid: shims[pid])

    def job_directory(self, job: Job) -> Path:
        return self.state / "jobs" / job.id

    def shim(self, job: Job) -> int:
        """Give the pid of a job's shim."""
        return _shim_of(self.job_directory(job))[0]

    def init(self, job: Job) -> int:
        """Give the pid of a running job's init, as the host numbers it."""
        (child,) = proctable.children(self.shim(job))
        return child.pid

    def cgroups(self) -> list[Path]:
        """Give the directory, in each hierarchy, below which its jobs' cgroups are."""
        name = f"jobs-{hashlib.sha256(os.fsencode(self.state)).hexdigest()[:12]}"
        return [path / name for path in own_cgroups() if (path / name).exists()]

    def job_cgroups(self) -> list[Path]:
        """Give the cgroups of jobs that are there now, but for the one that waits for the next."""
        waiting = self.waiting_for() if self.running else None
        found = [job for base in self.cgroups() for job in base.iterdir() if job.is_dir()]
        return [path for path in found if path.name != waiting]

    def waiting_for(self, *, prepared: bool = False) -> str | None:
        """Give the id of the job that a launcher waits for, as its cgroup says; None: none does.

        If it is to be prepared, it has all that it can have before the job.
        """
        for process in proctable.descendants(self.forkserver()):
            if process.comm == "jobs-launcher":
                with contextlib.suppress(*proctable.GONE):
                    about = Path(f"/proc/{process.pid}")
                    lines = (about / "cgroup").read_text().splitlines()
                    name = next(line for line in lines if line.startswith("0::")).rpartition("/")[2]
                    last = "Seccomp:\t2" in (about / "status").read_text()
                    if (last or not prepared) and not (self.state / "jobs" / name).exists():
                        return name
        return None

    async def prepared(self) -> None:
        """Wait until what can be done ahead of the next job is done."""
        with trio.fail_after(SHIM_END_S):
            while self.waiting_for(prepared=True) is None:
                await trio.sleep(0.01)

    def leftovers(self) -> list[str]:
        """Give what lives on of jobs that have all ended: shims, inits, processes, cgroups."""
        directories = list((self.state / "jobs").glob("*"))
        shims = dict(filter(None, map(_shim_of, directories)))
        for pid, start in shims.items():
            _wait_gone_since(pid, start)
        found = [
            f"{each.comm} {each.pid}"
            for each in proctable.processes()
            if shims.get(each.pid) == each.start
            or (each.session in shims and each.pid not in shims)
        ]
        ids = {f"JOBS_JOB_ID={directory.name}".encode() for directory in directories}
        found += [f"process {pid} of a job" for pid in proctable.with_environment(ids)]
        end = time.monotonic() + SHIM_END_S
        while (cgroups := self.job_cgroups()) and time.monotonic() < end:
            time.sleep(0.01)  # of a shim that was not needed
        return found + [f"cgroup {directory}" for directory in cgroups]

    def end(self) -> list[str]:
        """Kill all jobs and stop; give what is left over then."""
        if not self.running:
            self.start()
        killed = self.cli("kill", "--all", "--grace", "0")
        alices = self.cli("kill", "--all", "--grace", "0", context="dev-alice")
        faults = [c.stderr.decode() for c in (killed, alices) if c.returncode]
        faults += self.leftovers()
        if status := self.stop():
            faults.append(f"it ended with {status}")
        return faults + [f"cgroup {directory}" for directory in self.cgroups()]


def own_cgroups() -> set[Path]:
    """Give our own cgroup in each hierarchy: below them, and nowhere else, we may make others."""
    mounts, membership = (
        Path(f"/proc/self/{name}").read_text() for name in ("mountinfo", "cgroup")
    )
    return set(own_places(mounts, membership).values())


def _first_line(process: subprocess.Popen) -> str:
    """Read a process's first line of output; what there is, if it ends before."""
    assert process.stdout is not None
    fd, line = process.stdout.fileno(), b""
    end = time.monotonic() + START_S
    while not line.endswith(b"\n"):
        if not select.select([fd], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError(f"it did not serve within {START_S:g} s")
        if not (part := os.read(fd, 1)):
            break
        line += part
    return line.decode()


def _shim_of(directory: Path) -> tuple[int, int] | None:
    """Give the pid and the start time of a job's shim; None: it never had one."""
    try:
        identity = files.decode((directory / files.IDENTITY).read_bytes())
    except FileNotFoundError:
        return None
    return identity["pid"], identity["start"]


def _wait_gone_since(pid: int, start: int) -> None:
    """Wait for the end of a process, if the pid is not another's by now."""
    process = proctable.look_at(pid)
    if process is not None and process.start == start:
        proctable.wait_gone(pid, SHIM_END_S)


class Gate:
    """A FIFO that a job reads lines from: it goes on when the test says so, and only then."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        path.chmod(0o666)  # whatever the umask: the job is another user's
        self.path = path
        self._fd = os.open(path, os.O_RDWR)  # both ends: neither side waits to open it

    def say(self, line: str) -> None:
        """Let the job read one line."""
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        """Let the job read the end of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Collected(NamedTuple):
    """What a follow gave, from its start to its end."""

    stdout: bytes
    stderr: bytes
    gaps: list[Gap]
    end: End


async def collect(client: Client, job_id: str, *, on_chunk=None, **options) -> Collected:
    """Follow a job to its end."""
    parts: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    gaps = []
    async for item in client.follow(job_id, **options):
        match item:
            case Chunk():
                parts[item.stream].append(item.data)
                if on_chunk is not None:
                    on_chunk(item)
            case Gap():
                gaps.append(item)
            case End():
                return Collected(b"".join(parts["stdout"]), b"".join(parts["stderr"]), gaps, item)
    raise AssertionError("a follow ends with End or raises")


async def finish(client: Client, argv: list[str], **options) -> tuple[Job, Collected]:
    """Run a job to its end and give it with all its output."""
    job = await client.run(argv, **options)
    collected = await collect(client, job.id)
    return await client.wait(job.id), collected


async def until_running(client: Client, job: Job) -> Job:
    """Wait until a job's leader executes, which its first output shows; give the job."""
    async for item in client.follow(job.id):
        if isinstance(item, Chunk):
            break
        assert not isinstance(item, End), f"it ended without output: {item.job}"
    # The report of the start may still be on the way when the output is there already.
    while (job := await client.inspect(job.id)).phase == "starting":
        await trio.lowlevel.checkpoint()
    return job


async def in_thread(function, *arguments):
    """Call what blocks while followers and waiters go on."""
    return await trio.to_thread.run_sync(function, *arguments)


async def until_said(supervisor, words: str) -> str:
    """Wait until the supervisor has logged a line with these words since it was last started."""
    with trio.fail_after(START_S):
        while True:
            log = supervisor.log.read_text().rpartition(" serving ")[2]
            for line in log.splitlines():
                if words in line:
                    return line
            await trio.sleep(0.05)

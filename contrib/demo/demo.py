#!/usr/bin/env python3
"""Show what Jobs does, on this machine, in half a minute; leave nothing behind.

    make demo        or, where it is installed:  python contrib/demo/demo.py

Every command is printed before it is run, and what it shows is checked: the exit status is 0 only
if all was as it should be. Needs the standard library and the installed programs only.
"""
# ruff: noqa: T201, S607  printing is what it is for; its programs are found by PATH, as a user's

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PATIENCE_S = 30.0
"""How long anything that must happen may take before the demonstration has failed."""

STEP_S = 0.05
COUNTED = "i=1; while [ $i -le 30 ]; do seq ${i}0000 ${i}9999; sleep 0.15; i=$((i+1)); done"
"""What the followed job runs: 300 000 numbers, in portions."""

BOLD, DIM, PLAIN = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "", "")


class FailedError(Exception):
    """Something was not as it should be."""


def heading(text: str) -> None:
    """Say what comes next."""
    print(f"\n{BOLD}── {text}{PLAIN}", flush=True)


def say(text: str) -> None:
    """Comment on what was seen."""
    print(f"{DIM}   {text}{PLAIN}", flush=True)


def check(true: object, text: str) -> None:
    """State a fact that was found, or fail.

    Raises:
        FailedError: it is not so.
    """
    if not true:
        raise FailedError(f"this should be so, and is not: {text}")
    print(f"{DIM}   ✓ {text}{PLAIN}", flush=True)


def until(true: Callable[[], object], text: str) -> None:
    """Wait until a function of no arguments gives something true.

    Raises:
        FailedError: it did not within `PATIENCE_S`.
    """
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise FailedError(f"waited {PATIENCE_S:g} s in vain: {text}")
        time.sleep(STEP_S)


def show(command: list[str], background: str = "") -> None:
    """Print a command as one would type it."""
    print(f"{BOLD}$ {shlex.join(command)}{background}{PLAIN}", flush=True)


def run(*command: str, status: int = 0, quiet: bool = False) -> None:
    """Run a command for all to see, and check its exit status.

    Raises:
        FailedError: it exits otherwise.
    """
    show(list(command))
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL if quiet else None
    ) as process:
        got = process.wait(timeout=PATIENCE_S)
    if got != status:
        raise FailedError(f"it exited with {got}, and should have with {status}")
    if status:
        say(f"exit status {status}")


def ask(*command: str) -> str:
    """Run a command for its output, for all to see.

    Raises:
        FailedError: it exits with another status than 0.
    """
    show(list(command))
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False, timeout=PATIENCE_S
    )
    if done.returncode:
        raise FailedError(f"it exited with {done.returncode}")
    return done.stdout.decode().strip()


def inspect(job: str) -> dict[str, object]:
    """Give the job's object."""
    raw = subprocess.run(
        ["jobsctl", "inspect", "--json", job], capture_output=True, check=True, timeout=PATIENCE_S
    )
    found: dict[str, object] = json.loads(raw.stdout)
    return found


def processes(word: str) -> list[int]:
    """Give the pids of this host's processes that have `word` among their arguments."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with suppress(OSError):
                arguments = (directory / "cmdline").read_bytes().split(b"\0")
                if word.encode() in arguments:
                    found.append(int(directory.name))
    return found


class Supervisor:
    """A development supervisor in a folder of its own.

    Args:
        directory: the folder.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "log"
        self._ready = directory / "ready"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it serves.

        Raises:
            FailedError: it does not.
        """
        self._ready.unlink(missing_ok=True)
        command = ["jobs-supervisor", "--dev", "--dir", str(self._directory)]
        show(command, " &")
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--ready-file", str(self._ready)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demonstration: it stops what it started
            )
        self.process = process
        until(lambda: self._ready.exists() or process.poll() is not None, "the supervisor serves")
        if process.poll() is not None:
            raise FailedError(f"the supervisor does not start:\n{self._log.read_text()}")

    def warnings(self) -> list[str]:
        """Give what it said that this host does not give."""
        lines = self._log.read_text().splitlines()
        return [line.partition("]")[2].strip() for line in lines if "[warning" in line]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Signal it and wait for its end."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(timeout=PATIENCE_S)
            self.process = None


@contextmanager
def stage() -> Iterator[Supervisor]:
    """Give a supervisor in a temporary folder; in the end, end it, its jobs and the folder."""
    programs = Path(sys.executable).parent
    os.environ["PATH"] = f"{programs}:{os.environ.get('PATH', os.defpath)}"
    for name in ("JOBS_CONTEXT", "JOBS_SERVER", "JOBS_CA", "JOBS_CERT", "JOBS_KEY"):
        os.environ.pop(name, None)
    directory = Path(tempfile.mkdtemp(prefix="jobs-demo-"))
    os.environ["JOBS_CONFIG"] = str(directory / "config.toml")
    supervisor = Supervisor(directory)
    try:
        yield supervisor
    finally:
        heading("The end: stop the jobs that are left, and the supervisor")
        try:
            if supervisor.process is None:
                supervisor.start()  # jobs outlive it: only a supervisor knows them
            run("jobsctl", "kill", "--all", "--grace", "2s")
            run("jobsctl", "--context", "dev-alice", "kill", "--all", "--grace", "2s")
        finally:
            say("and the supervisor, with SIGTERM: it drains and ends")
            supervisor.stop()
            shutil.rmtree(directory)


def main() -> None:
    """Show everything."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with stage() as supervisor:
            heading("A supervisor for trying things out: CA, certificates and jobs in one folder")
            begin(supervisor)
            heading("Run a job and watch it live; its exit status is ours")
            run_jobs()
            heading("Kill a job that refuses, with everything that it has started")
            kill_a_stubborn_one()
            heading("Kill the supervisor with SIGKILL while a job is being followed")
            outlive(supervisor)
            heading("Who may do what: the certificate says who you are")
            have_roles()
            heading("A wall-clock limit, and all that is known of a job")
            time_out()
    except KeyboardInterrupt:
        sys.exit(130)
    except FailedError as error:
        sys.exit(f"\nthe demonstration failed: {error}")
    print("\nAll was as it should be, and nothing of it is left.")


def begin(supervisor: Supervisor) -> None:
    """Start the supervisor, and say what this host does not give."""
    supervisor.start()
    missing = supervisor.warnings()
    for sentence in missing:
        say(f"without: {sentence}")
    if not missing:
        say("this host gives namespaces and cgroups: jobs are isolated, and run as nobody")
    print(f"{BOLD}$ export JOBS_CONFIG={os.environ['JOBS_CONFIG']}{PLAIN}")
    run("jobsctl", "whoami")


def run_jobs() -> None:
    """One that works, one that fails, one that is not there."""
    run(
        "jobsctl", "run", "-f", "--", "sh", "-c", "for i in 1 2 3; do echo line $i; sleep 0.4; done"
    )
    run("jobsctl", "run", "-f", "--", "sh", "-c", "echo this goes wrong >&2; exit 3", status=3)
    run("jobsctl", "run", "-f", "no-such-program", status=127)


def kill_a_stubborn_one() -> None:
    """It ignores TERM, and its children have run away: into sessions of their own, and orphaned."""
    word = f"{100_000 + os.getpid()}"  # the argument of each sleep, to find them by
    script = f"trap '' TERM; setsid sleep {word} & (sleep {word} &); while :; do sleep {word}; done"
    job = ask("jobsctl", "run", "--", "sh", "-c", script)
    print(job)
    until(lambda: len(processes(word)) == 3, "the job has its three children")
    say(f"it runs `sleep {word}` three times on this host: processes {processes(word)}")
    run("jobsctl", "kill", "--grace", "1s", job)
    check(processes(word) == [], "not one of them is left")


def outlive(supervisor: Supervisor) -> None:
    """Kill the supervisor; the job goes on, and so does who follows it."""
    expected = subprocess.run(
        ["sh", "-c", COUNTED.replace("sleep 0.15; ", "")], capture_output=True, check=True
    ).stdout
    run("jobsctl", "run", "--name", "counter", "--", "sh", "-c", COUNTED, quiet=True)
    with tempfile.TemporaryFile() as followed:
        show(["jobsctl", "follow", "counter"], " > followed &")
        with subprocess.Popen(["jobsctl", "follow", "counter"], stdout=followed) as follower:
            try:
                until(lambda: size(followed) > len(expected) // 10, "the follower has something")
                kill_the_supervisor(supervisor, followed)
                supervisor.start()
                show(["wait"])
                status = follower.wait(timeout=PATIENCE_S)
            finally:
                follower.kill()  # no effect on one that has ended
        followed.seek(0)
        got = followed.read()
    check(status == 0, "the follower went on by itself, to the job's end, and exited as it did")
    digest = hashlib.sha256(expected).hexdigest()[:16]
    check(got == expected, f"it has the job's {len(expected)} bytes, each once (sha256 {digest}…)")
    stored = subprocess.run(["jobsctl", "logs", "counter"], stdout=subprocess.PIPE, check=True)
    check(stored.stdout == expected, "and `jobsctl logs counter` gives the same")


def size(file: IO[bytes]) -> int:
    """Give how many bytes a file has now, whoever wrote them."""
    return os.fstat(file.fileno()).st_size


def kill_the_supervisor(supervisor: Supervisor, followed: IO[bytes]) -> None:
    """End it by force; see that the job does not notice."""
    pid = inspect("counter")["pid"]
    assert supervisor.process is not None
    show(["kill", "-KILL", str(supervisor.process.pid)])
    supervisor.stop(signal.SIGKILL)
    check(Path(f"/proc/{pid}").exists(), f"the supervisor is dead, and the job (pid {pid}) runs")
    say(f"the follower has {size(followed)} bytes so far, and waits")
    time.sleep(0.5)  # so that the job writes something that nobody takes


def have_roles() -> None:
    """A viewer sees all and changes nothing; an operator has her own."""
    run("jobsctl", "--context", "dev-viewer", "list", "--all", "--limit", "2")
    run("jobsctl", "--context", "dev-viewer", "run", "true", status=1)
    hers = ask("jobsctl", "--context", "dev-alice", "run", "--name", "hers", "sleep", "1000")
    print(hers)
    listed = ask("jobsctl", "--context", "dev-alice", "list", "--all")
    print(listed)
    only = [line.split("\t")[0] for line in listed.splitlines()] == [hers[:12]]
    check(only, "alice, an operator, sees her own job only")
    run("jobsctl", "--context", "dev-alice", "kill", "counter", status=1)
    say("for her, admin's job does not even exist")


def time_out() -> None:
    """The shim keeps the time, whether or not a supervisor runs."""
    run("jobsctl", "run", "-f", "--name", "slow", "--timeout", "1s", "sleep", "1000", status=124)
    run("jobsctl", "inspect", "slow")
    check(inspect("slow")["outcome"] == "timed_out", "its outcome is timed_out")


if __name__ == "__main__":
    main()

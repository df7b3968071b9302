"""What people would use otherwise, each as bare as it can be had; and how one is asked for.

A peer is started before it is measured (those with daemons of their own), and ended with all that
is its. Its cgroups are below ours: what we may not touch, it does not touch either.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

TRUE = "/bin/true"
CPUS, MEMORY, PIDS = 2, 256 << 20, 100
"""The limits of every job that can have them, ours too."""

PEER_S = 60.0
"""How long one thing that a peer does may take."""


def run(argv: list[str], **environment: str) -> None:
    """Run a program to its end, at the least cost that there is: posix_spawn(3), waitpid(2).

    Raises:
        ChildProcessError: it failed.
    """
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    pid = os.posix_spawnp(argv[0], argv, {**os.environ, **environment}, file_actions=quiet)
    _, status = os.waitpid(pid, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        raise ChildProcessError(f"{' '.join(argv)} ended with {code}")


class Peer:
    """One of them.

    Attributes:
        name: in tables.
        package: of Debian, that it is in.
        programs: that it needs.
        monitors: whether it has a process for each job, which `sleeper` gives.
    """

    name: str
    package: str
    programs: tuple[str, ...] = ()
    monitors = False

    def absent(self) -> str | None:
        """Say why it cannot be measured here; None: it can."""
        missing = [program for program in self.programs if shutil.which(program) is None]
        return f"not installed: {', '.join(missing)} ({self.package})" if missing else None

    @property
    def version(self) -> str:
        """The package's version; empty where there is no dpkg."""
        if shutil.which("dpkg-query") is None:
            return ""
        argv = ["dpkg-query", "-W", "-f", "${Version}", self.package]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    @contextlib.contextmanager
    def started(self, _directory: Path) -> Iterator[None]:
        """Have it ready, with all its files in a directory of its own; end it after that."""
        yield

    def argv(self, ident: str) -> list[str]:
        """Give the command that runs `TRUE` and ends with it.

        Args:
            ident: a name that no other job of it has.
        """
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Give the variables that it needs."""
        return {}

    def launch(self, ident: str) -> None:
        """Run `TRUE` to its end."""
        run(self.argv(ident), **self.environment())

    @contextlib.contextmanager
    def sleeper(self, ident: str) -> Iterator[list[int]]:
        """Have a job that sleeps; give the pids of what is there for it alone, but for its own."""
        raise NotImplementedError


class Bare(Peer):
    """fork and exec, and no more."""

    name = "fork + exec"
    package = "coreutils"
    programs = (TRUE,)

    def argv(self, ident: str) -> list[str]:
        """Give the command; there is nothing to name."""
        del ident
        return [TRUE]


class Bubblewrap(Peer):
    """bwrap, with the namespaces and the private directories that our jobs have."""

    name = "bwrap"
    package = "bubblewrap"
    programs = ("bwrap",)

    def argv(self, ident: str) -> list[str]:
        """Give the command; there is nothing to name."""
        del ident
        namespaces = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        mounts = ["--dev-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
        private = ["--tmpfs", "/tmp", "--tmpfs", "/var/tmp"]  # of the job's mount namespace
        return ["bwrap", *mounts, *private, *namespaces, "--die-with-parent", TRUE]


class TaskSpooler(Peer):
    """tsp: a queue of one user's, with no isolation."""

    name = "tsp"
    package = "task-spooler"
    programs = ("tsp",)

    @contextlib.contextmanager
    def started(self, directory: Path) -> Iterator[None]:
        """Have its server, on a socket of its own; its logs are in the same place."""
        self._directory = directory
        run(["tsp", "-S", "32"], **self.environment())
        try:
            yield
        finally:
            run(["tsp", "-K"], **self.environment())

    def environment(self) -> dict[str, str]:
        """Give the socket, and the place of the logs."""
        folder = str(self._directory)
        return {"TS_SOCKET": f"{folder}/socket", "TMPDIR": folder, "TS_MAXFINISHED": "1"}

    def argv(self, ident: str) -> list[str]:
        """Give the command; there is nothing to name."""
        del ident
        return ["tsp", "-nf", TRUE]

"""The job's cgroup, as the shim needs it: made, attached to, killed, proved empty, removed.

The supervisor knows the host's hierarchies and writes directories and values into the plan; here
is only what must work without a supervisor. `track` is a cgroup v2 directory, on a hybrid host too:
its `cgroup.kill` and `cgroup.events` are what ends a job and proves it (cgroup-v2.rst).
"""

import os
import select
import time

from jobs_shim import syscalls

KILL_DEADLINE_S = 30.0
"""How long the kernel may take to end killed processes; one in uninterruptible sleep can outlast it."""


class Cgroup:
    """The directories of one job in each hierarchy.

    Args:
        track: the directory in the v2 tree; None where the host gives none.
    """

    __slots__ = ("fd", "track")

    def __init__(self, track: str | None) -> None:
        self.track = track
        self.fd = -1

    def create(self) -> None:
        """Make the directory, and open it: the leader's mount namespace may not show its path."""
        if self.track is not None:
            os.makedirs(self.track, exist_ok=True)
            self.fd = os.open(self.track, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def fork(self) -> tuple[int, bool]:
        """Fork; gives the pid (0 in the child), and whether the child was born in the cgroup.

        Where that is refused, by a seccomp filter without clone3(2) for example, it has to
        `attach`; what else is wrong comes out there.
        """
        if self.track is None:
            return os.fork(), True
        try:
            return syscalls.clone_into(self.fd), True
        except OSError:
            return os.fork(), False

    def attach(self) -> None:
        """Move this process into the cgroup: cgroups(7), `cgroup.procs`."""
        try:
            fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
            os.write(fd, b"0")
            os.close(fd)
        except OSError as error:
            error.filename = self.track
            raise

    def kill(self) -> bool:
        """Send SIGKILL to every process at once; False if there is no cgroup to do it by."""
        if self.track is None:
            return False
        try:
            fd = os.open(f"{self.track}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        os.write(fd, b"1")
        os.close(fd)
        return True

    def wait_empty(self, deadline_s: float = KILL_DEADLINE_S) -> bool:
        """Wait until `cgroup.events` says `populated 0`; False if it does not within the deadline."""
        if self.track is None:
            return True
        try:
            fd = os.open(f"{self.track}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        end = time.monotonic() + deadline_s
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        try:
            while b"populated 0" not in os.pread(fd, 512, 0):
                left = end - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(left * 1000)
        finally:
            os.close(fd)
        return True

    def remove(self) -> None:
        """Remove the directories; they must be empty."""
        if self.track is not None:
            try:
                os.rmdir(self.track)
            except FileNotFoundError:
                pass

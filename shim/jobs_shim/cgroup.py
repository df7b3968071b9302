"""The job's cgroup, as the shim needs it: made, killed, proved empty, removed.

The supervisor knows the host's hierarchies and writes directories and values into the plan; here
is only what must work without a supervisor. `track` is a cgroup v2 directory, on a hybrid host too:
its `cgroup.kill` and `cgroup.events` are what ends a job and proves it (cgroup-v2.rst).
"""

import os
import select
import time

KILL_DEADLINE_S = 30.0
"""How long the kernel may take to end killed processes; one in uninterruptible sleep can outlast it."""


class Cgroup:
    """The directories of one job in each hierarchy.

    Args:
        track: the directory in the v2 tree; None where the host gives none.
    """

    __slots__ = ("track",)

    def __init__(self, track: str | None) -> None:
        self.track = track

    def create(self) -> None:
        """Make the directory and those above it; one left over from nobody is taken as it is."""
        if self.track is None:
            return
        try:
            os.mkdir(self.track)
        except FileNotFoundError:
            os.makedirs(self.track, exist_ok=True)
        except FileExistsError:
            pass

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
        try:
            return _wait_unpopulated(fd, deadline_s)
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Remove the directory; it must be empty."""
        if self.track is not None:
            try:
                os.rmdir(self.track)
            except FileNotFoundError:
                pass


def _wait_unpopulated(events: int, deadline_s: float) -> bool:
    if b"populated 0" in os.pread(events, 512, 0):
        return True
    end = time.monotonic() + deadline_s
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    while b"populated 0" not in os.pread(events, 512, 0):
        left = end - time.monotonic()
        if left <= 0:
            return False
        poll.poll(left * 1000)
    return True

"""The job's cgroups, as its shim needs them: from a birth in them to the proof that all are empty.

The supervisor knows the host's hierarchies, makes the directories and writes their limits into the
plan (`jobs_supervisor.cgroups`); here is only what must work without a supervisor. The first
directory is always a cgroup v2, on a hybrid host too: its `cgroup.kill` and `cgroup.events` are
what ends a job and proves it (cgroup-v2.rst). The others are v1 hierarchies with their limits and
counters.
"""

import os
import select
import time

_WRITE = os.O_WRONLY | os.O_CLOEXEC

KILL_DEADLINE_S = 30.0
"""How long the kernel may take to end killed processes; one that waits for a disk takes longer."""


class Cgroup:
    """The directories of one job.

    Args:
        plan: `{unified, directories: [[hierarchy, path, [[file, value]…]]…]}`, the v2 one first;
            None where the host has none.
    """

    __slots__ = ("directories", "track", "unified")

    def __init__(self, plan: dict[str, object] | None) -> None:
        self.directories = plan["directories"] if plan else []
        self.unified = bool(plan and plan["unified"])
        self.track = self.directories[0][1] if self.directories else None  # type: ignore[index]

    # -- reading -----------------------------------------------------------------------------

    def usage(self) -> dict[str, object]:
        """Give what the job uses, by the names of `jobs_proto.job.Usage`; what is known of it."""
        if self.unified:
            return self._usage_v2()
        return self._usage_v1({name: path for name, path, _ in self.directories})  # type: ignore[attr-defined]

    def _usage_v2(self) -> dict[str, object]:
        track = self.track
        cpu = table(f"{track}/cpu.stat")
        used = {"cpu_s": cpu.get("usage_usec", 0) / 1e6}
        used["cpu_throttled_s"] = cpu.get("throttled_usec", 0) / 1e6
        used["memory_bytes"] = number(f"{track}/memory.current")
        used["memory_peak_bytes"] = number(f"{track}/memory.peak") or used["memory_bytes"]
        used["oom_kills"] = table(f"{track}/memory.events").get("oom_kill", 0)
        used["pids"] = number(f"{track}/pids.current")
        words = read(f"{track}/io.stat").split()
        for name, key in (("io_read_bytes", "rbytes="), ("io_write_bytes", "wbytes=")):
            used[name] = sum(int(word[len(key) :]) for word in words if word.startswith(key))
        return used  # type: ignore[return-value]

    def _usage_v1(self, paths: dict[str, str]) -> dict[str, object]:
        used: dict[str, object] = {}
        if "cpuacct" in paths:
            used["cpu_s"] = number(f"{paths['cpuacct']}/cpuacct.usage") / 1e9
            stat = table(f"{paths['cpu']}/cpu.stat")
            used["cpu_throttled_s"] = stat.get("throttled_time", 0) / 1e9
        if "memory" in paths:
            memory = paths["memory"]
            used["memory_bytes"] = number(f"{memory}/memory.usage_in_bytes")
            used["memory_peak_bytes"] = number(f"{memory}/memory.max_usage_in_bytes")
            used["oom_kills"] = table(f"{memory}/memory.oom_control").get("oom_kill", 0)
        if "pids" in paths:
            used["pids"] = number(f"{paths['pids']}/pids.current")
        if "blkio" in paths:
            lines = read(f"{paths['blkio']}/blkio.throttle.io_service_bytes").split("\n")
            for name, key in (("io_read_bytes", "Read"), ("io_write_bytes", "Write")):
                used[name] = sum(int(w[2]) for w in map(str.split, lines) if w[1:2] == [key])
        return used

    # -- freezing, killing, removing ---------------------------------------------------------

    def freeze(self, *, frozen: bool) -> bool:
        """Stop every process of the job, or let them go on; False if there is no cgroup for it."""
        return self._write("cgroup.freeze", "1" if frozen else "0")

    def kill(self) -> bool:
        """Send SIGKILL to every process at once; False if there is no cgroup to do it by."""
        return self._write("cgroup.kill", "1")

    def _write(self, name: str, value: str) -> bool:
        if self.track is None:
            return False
        try:
            write(f"{self.track}/{name}", value)
        except OSError:
            return False  # there is none, or not with this file
        return True

    def wait_empty(self, deadline_s: float = KILL_DEADLINE_S) -> bool:
        """Wait until `cgroup.events` says `populated 0`; False if it does not in time."""
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
        """Remove the directories, with those that the job has made in them; all must be empty."""
        for _, path, _ in self.directories:  # type: ignore[attr-defined]
            try:
                os.rmdir(path)
            except FileNotFoundError:
                continue
            except OSError:
                remove_tree(path)


def remove_tree(path: str) -> None:
    """Remove a cgroup from its leaves up; what will not go, being in use by somebody, stays."""
    for directory, _, _ in os.walk(path, topdown=False):
        try:
            os.rmdir(directory)
        except OSError:
            continue


def enter(directories: list[int]) -> None:
    """Move this process, which has one thread, into each cgroup that it was not born in.

    A thread that moves itself alone, by a v1 hierarchy's `tasks`, need not wait for the lock that
    stops every fork and exit of the host (cgroup_procs_write_start in the kernel).

    Args:
        directories: descriptors of the directories, the v2 one first, or none.
    """
    if not directories:
        return
    v2, *others = directories
    own = read("/proc/self/cgroup").rstrip().rpartition("0::")[2]
    if not _path_of(v2).endswith(own):
        write("cgroup.procs", "0", v2)
    for fd in others:
        write("tasks", "0", fd)


def write(path: str, value: str, directory: int | None = None) -> None:
    """Write a control file at once; `path` may start at a directory's descriptor."""
    try:
        fd = os.open(path, _WRITE, dir_fd=directory)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        error.filename = path if directory is None else f"{_path_of(directory)}/{path}"
        raise


def _path_of(directory: int) -> str:
    return os.readlink(f"/proc/self/fd/{directory}")


def read(path: str) -> str:
    """Read a control file; one that this kernel does not have is empty."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return os.read(fd, 65536).decode()
    finally:
        os.close(fd)


def number(path: str) -> int:
    """Read a control file that holds one number; 0 if there is none."""
    return int(read(path) or 0)


def table(path: str) -> dict[str, int]:
    """Read a flat-keyed control file: `key value` on each line."""
    rows = map(str.split, read(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}

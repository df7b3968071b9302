"""What goes wrong on purpose: processes die or stand still, the host gives less than it should."""

import os
import resource
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import harness
import proctable
import trio
from failpoints import Failpoints
from history import Kill
from proxy import Proxy

from jobs_proto import files

GONE = ProcessLookupError
"""Who was to be hurt has ended meanwhile: somebody else was quicker."""


class Damage:
    """All that is done to one supervisor, its fork server, shims, inits, connections and host.

    Args:
        supervisor: it.
        failpoints: of all its processes.
        proxy: all its connections.
        clock: what libfaketime reads; not there: its clock is the host's.

    Attributes:
        kills: of all processes that were killed, but for those at failpoints.
        done: the rest, as people call it, and how often.
        down_for_s: seconds that the supervisor is to be down, having been killed.
    """

    def __init__(
        self, supervisor: harness.Supervisor, failpoints: Failpoints, proxy: Proxy, clock: Path
    ) -> None:
        self._supervisor = supervisor
        self._failpoints = failpoints
        self._proxy = proxy
        self._clock = clock
        self.kills: list[Kill] = []
        self.done: Counter[str] = Counter()
        self.down_for_s = 0.0

    async def do(self, what: str, options: dict[str, object]) -> None:
        """Do one of the below."""
        await getattr(self, what)(**options)

    # -- processes -----------------------------------------------------------------------------

    async def kill_supervisor(self, for_s: float) -> None:
        """Kill it; it is started again `for_s` seconds later."""
        if self._supervisor.running:
            self.down_for_s = for_s
            self._kill(self._supervisor.pid, Kill("supervisor"))

    async def kill_forkserver(self) -> None:
        """Kill it; the supervisor starts another."""
        for pid in self._forkserver():
            self._kill(pid, Kill("forkserver"))

    async def kill_shim(self, which: float) -> None:
        """Kill one of those that live."""
        if shims := self.shims():
            job, pid = shims[int(which * len(shims))]
            self._kill(pid, Kill("shim", job=job))

    async def kill_init(self, which: float) -> None:
        """Kill one of those that live."""
        inits = [(job, each.pid) for job, pid in self.shims() for each in proctable.children(pid)]
        if inits:
            job, pid = inits[int(which * len(inits))]
            self._kill(pid, Kill("init", job=job))

    async def stop(self, role: str, which: float, for_s: float) -> None:
        """Have a process stand still for a while, as on a host that is short of everything."""
        pids = {
            "supervisor": lambda: [self._supervisor.pid] if self._supervisor.running else [],
            "forkserver": self._forkserver,
            "shim": lambda: [pid for _job, pid in self.shims()],
        }[role]()
        if not pids:
            return
        pid = pids[int(which * len(pids))]
        with suppress(GONE):
            os.kill(pid, signal.SIGSTOP)
            self.done[f"{role} stopped"] += 1
            try:
                await trio.sleep(for_s)
            finally:
                os.kill(pid, signal.SIGCONT)

    async def arm(self, name: str) -> None:
        """Have who comes by a failpoint die."""
        self._failpoints.arm(name)

    def _kill(self, pid: int, kill: Kill) -> None:
        with suppress(GONE):
            os.kill(pid, signal.SIGKILL)
            self.kills.append(kill)

    def _forkserver(self) -> list[int]:
        """Give its pid, if there is one; the supervisor has no other child."""
        if not self._supervisor.running:
            return []
        return [child.pid for child in proctable.children(self._supervisor.pid)]

    def shims(self) -> list[tuple[str, int]]:
        """Give the jobs that have a living shim, and its pid."""
        found = []
        for directory in sorted((self._supervisor.state / "jobs").glob("*")):
            shim = harness._shim_of(directory)
            if shim is None or (directory / files.EXIT).exists():
                continue
            process = proctable.look_at(shim[0])
            if process is not None and process.start == shim[1] and process.alive:
                found.append((directory.name, shim[0]))
        return found

    # -- connections and host ------------------------------------------------------------------

    async def cut(self) -> None:
        """Cut every connection that there is."""
        self.done["connections cut"] += self._proxy.cut()

    async def fill_disk(self, for_s: float) -> None:
        """Leave no room on the disk of the state directory."""
        filler = self._supervisor.state / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:  # until there is no room
            while True:
                file.write(bytes(4096))
        self.done["disk filled"] += 1
        await trio.sleep(for_s)
        filler.unlink(missing_ok=True)

    async def set_clock_back(self, by_s: int) -> None:
        """Have the supervisor see an earlier time than before."""
        if self._clock.exists():
            self._clock.write_text(f"{int(self._clock.read_text()) - by_s:+d}\n")
            self.done["clock set back"] += 1

    async def take_descriptors(self, spare: int, for_s: float) -> None:
        """Leave the supervisor and its fork server no more than `spare` further open files."""
        if not self._supervisor.running:
            return
        for pid in (self._supervisor.pid, *self._forkserver()):
            with suppress(GONE, FileNotFoundError):
                limit = len(os.listdir(f"/proc/{pid}/fd")) + spare
                self._limit(pid, lambda hard, limit=limit: min(limit, hard))
        self.done["descriptors taken"] += 1
        await trio.sleep(for_s)
        self.give_descriptors()

    def give_descriptors(self) -> None:
        """Let them open as many as their hard limit says."""
        if self._supervisor.running:
            for pid in (self._supervisor.pid, *self._forkserver()):
                with suppress(GONE):
                    self._limit(pid, lambda hard: hard)

    def _limit(self, pid: int, soft: Callable[[int], int]) -> None:
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft(hard), hard))

    # -- the end -------------------------------------------------------------------------------

    def heal(self) -> None:
        """Give the host back what was taken from it."""
        (self._supervisor.state / "filler").unlink(missing_ok=True)
        self.give_descriptors()

    def all_kills(self) -> list[Kill]:
        """Give every kill, those at failpoints too."""
        struck = self._failpoints.struck()
        return self.kills + [Kill(role_at(point), point, job) for point, job in struck]


def role_at(point: str) -> str:
    """Give who comes by a failpoint."""
    first = point.partition(".")[0]
    return first if first in ("forkserver", "shim", "launcher", "init") else "supervisor"

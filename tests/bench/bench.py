"""One run of the bench: its supervisor, its peers, and what is found."""

import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import harness
from attrs import define, field
from peers import CPUS, MEMORY, PIDS, TRUE, Peer
from results import Results
from scale import Scale

from jobs_proto.errors import JobsError
from jobs_proto.job import Job, Limits
from jobs_rpc import Client

LIMITS = Limits(cpus=CPUS, memory_bytes=MEMORY, pids=PIDS)
"""Of every job of ours; isolation is the default one, and full."""

FAULTS = (OSError, JobsError, subprocess.SubprocessError, ValueError, AssertionError)
"""What one contestant may suffer, and the others are measured all the same."""

Sample = Callable[[], Awaitable[float]]


@define(eq=False)
class Bench:
    """One run.

    Attributes:
        directory: for all its files.
        scale: how much is measured.
        supervisor: ours, serving.
        client: of it.
        peers: those that are here, started, by name.
        results: what was found so far.
    """

    directory: Path
    scale: Scale
    supervisor: harness.Supervisor
    client: Client
    peers: dict[str, Peer]
    results: Results
    _numbers: Iterator[int] = field(factory=itertools.count)

    def ident(self) -> str:
        """Give a name that nothing else of this run has."""
        return f"bench-{next(self._numbers)}"

    async def run(self, argv: list[str], client: Client | None = None) -> Job:
        """Start a job of ours."""
        return await (client or self.client).run(argv, limits=LIMITS)

    async def complete(self, argv: list[str], client: Client | None = None) -> Job:
        """Run a job of ours to its end, which must be a good one."""
        client = client or self.client
        job = await client.wait((await self.run(argv, client)).id)
        assert job.outcome == "completed", f"{argv[0]} ended {job.outcome}: {job.exit}"
        return job

    async def launch_ms(self) -> float:
        """Time one of `TRUE`; return when our side is at rest again, and disturbs nobody else's."""
        watch = Stopwatch()
        await self.complete([TRUE])
        taken = watch.ms
        await self.supervisor.prepared()
        return taken

    @contextlib.asynccontextmanager
    async def sleepers(self, count: int) -> AsyncIterator[list[Job]]:
        """Have so many jobs that sleep; their ends are proved."""
        jobs = [await self.run(["sleep", "1000000"]) for _ in range(count)]
        try:
            for job in jobs:
                await until_started(self.client, job)
            yield jobs
        finally:
            await self.kill(jobs)

    async def kill(self, jobs: list[Job]) -> None:
        """Kill jobs, and wait for their ends."""
        for job in jobs:
            await self.client.kill(job.id, grace_s=0)
        for job in jobs:
            await self.client.wait(job.id)

    async def alternate(
        self, figure: str, contestants: Mapping[str, Sample], rounds: int, *, warm_ups: int = 1
    ) -> None:
        """Sample contestants in turn, so that what befalls the machine befalls all of them.

        Each second round is in reverse, so that none always comes after the same other. One that
        fails is out, and said so. Warm-ups, which come first, are not counted.
        """
        left = dict(contestants)
        for number in range(-warm_ups, rounds):
            for name in list(left) if number % 2 else list(reversed(left)):
                try:
                    value = await left[name]()
                except FAULTS as error:
                    self.results.faults.append(f"{figure}, {name}: {error!r}")
                    del left[name]
                else:
                    if number >= 0:
                        self.results.add(figure, name, [value])


async def until_started(client: Client, job: Job) -> Job:
    """Wait until a job's leader executes; there is nothing that would say so but asking."""
    while (job := await client.inspect(job.id)).phase in ("queued", "starting"):
        pass
    assert job.phase == "running", f"it is {job.phase}: {job.exit}"
    return job


class Stopwatch:
    """Counts from its making."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def s(self) -> float:
        """Seconds since then."""
        return time.perf_counter() - self._start

    @property
    def ms(self) -> float:
        """Milliseconds since then."""
        return self.s * 1e3


@contextlib.contextmanager
def started(peers: list[Peer], directory: Path, results: Results) -> Iterator[dict[str, Peer]]:
    """Start the peers that are here, say of the others why they are not, and end them."""
    with contextlib.ExitStack() as stack:
        found = {}
        for peer in peers:
            why = peer.absent()
            if why is None:
                folder = directory / f"peer-{peer.name.replace(' ', '')}"
                folder.mkdir()
                try:
                    stack.enter_context(peer.started(folder))
                except FAULTS as error:
                    why = f"does not start: {error}"
            if why is None:
                found[peer.name] = peer
            else:
                results.missing[peer.name] = why
        yield found


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)

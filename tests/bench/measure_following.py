"""The time from a job's writing to a follower's reading; and what a hundred followers cost a job.

The job is a program that writes at a pace and puts the time into what it writes. Its clock and ours
are the same one, CLOCK_MONOTONIC: a job has no time namespace. It begins when every follower has
its first block, so that nobody's handshake is counted.
"""

import contextlib
import tempfile
import time
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import harness
import trio
from bench import Bench

from jobs_proto import files
from jobs_proto.job import Job
from jobs_rpc import Chunk, End

WRITER = """
import os, sys, time
gate, size, count, interval = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
def write():
    left = memoryview((b"%020d" % time.monotonic_ns()).ljust(size))
    while left:
        left = left[os.write(1, left):]
write()
open(gate).readline()
start = time.monotonic()
for number in range(1, count + 1):
    time.sleep(max(0.0, start + number * interval - time.monotonic()))
    write()
print(time.monotonic() - start, file=sys.stderr)
"""
STAMP = 20
"""Bytes at a block's beginning that are its time, in ns."""

INTERVAL_S = 0.01
PACED_BLOCK = 100_000
"""With the interval, 10 MB/s."""

LINE = 32

FIRST_S = 60.0
"""How long it may take until all followers have something."""

Arrival = tuple[int, int]
"""The offset up to which bytes have come, and the time, in ns."""


async def latency(bench: Bench) -> None:
    """One follower of single lines, on a machine that does nothing else."""
    played = await _play(bench, LINE, bench.scale.lines, followers=1)
    bench.results.add("latency", "jobs", played.lags())


async def followers(bench: Bench) -> None:
    """A job that writes 10 MB/s, with many followers; and the same with none, in turn."""
    blocks = round(bench.scale.paced_s / INTERVAL_S)
    for _ in range(bench.scale.bulk_rounds):
        alone = await _play(bench, PACED_BLOCK, blocks, followers=0)
        bench.results.add("followers-write", "unfollowed", [alone.rate])
        played = await _play(bench, PACED_BLOCK, blocks, followers=bench.scale.followers)
        bench.results.add("followers-write", "jobs", [played.rate])
        bench.results.add("followers-complete", "jobs", [played.complete])
        bench.results.add("followers-lag", "jobs", played.lags())


class _Played:
    """What came of one such job.

    Args:
        output: the job's, as it is on the disk.
        size: bytes of a block.
        count: blocks, besides the first one.
        arrivals: of each follower.
    """

    def __init__(self, output: bytes, size: int, count: int, arrivals: list[list[Arrival]]) -> None:
        self._arrivals = arrivals
        self._ends = [(number + 1) * size for number in range(1, count + 1)]
        self._written = [int(output[end - size : end - size + STAMP]) for end in self._ends]
        self._whole = len(output)
        self.rate = count * size / float(output[self._ends[-1] :]) / 1e6

    @property
    def complete(self) -> float:
        """Per cent of the followers that have got everything."""
        whole = sum(bool(each) and each[-1][0] == self._whole for each in self._arrivals)
        return 100 * whole / len(self._arrivals)

    def lags(self) -> list[float]:
        """Give, for each follower and block, the ms from its writing until all of it has come."""
        return [
            (arrivals[bisect_left(arrivals, (end,))][1] - written) / 1e6
            for arrivals in self._arrivals
            for end, written in zip(self._ends, self._written, strict=True)
        ]


async def _play(bench: Bench, size: int, count: int, *, followers: int) -> _Played:
    arrivals: list[list[Arrival]] = [[] for _ in range(followers)]
    with _gate() as gate:
        numbers = [str(number) for number in (size, count, INTERVAL_S)]
        job = await bench.run(["python3", "-c", WRITER, str(gate.path), *numbers])
        async with trio.open_nursery() as nursery:
            with trio.fail_after(FIRST_S):
                for each in arrivals:
                    await nursery.start(_follow, bench, job, size, each)
            gate.say("go")
        job = await bench.client.wait(job.id)
    assert job.outcome == "completed", f"the writer ended {job.outcome}: {job.exit}"
    output = (bench.supervisor.job_directory(job) / files.OUTPUT).read_bytes()
    await bench.client.remove(job.id)
    return _Played(output, size, count, arrivals)


@contextlib.contextmanager
def _gate() -> Iterator[harness.Gate]:
    """Have a gate where a job sees it."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        Path(folder).chmod(0o755)
        gate = harness.Gate(Path(folder) / "gate")
        try:
            yield gate
        finally:
            gate.close()


async def _follow(
    bench: Bench, job: Job, size: int, arrivals: list[Arrival], task_status: trio.TaskStatus[None]
) -> None:
    """Follow to the end; started when the first block is there."""
    waiting = True
    async for item in bench.client.follow(job.id):
        match item:
            case Chunk():
                arrivals.append((item.offset + len(item.data), time.monotonic_ns()))
                if waiting and arrivals[-1][0] >= size:
                    waiting = False
                    task_status.started()
            case End():
                assert not waiting, f"it ended {item.job.outcome} before it began"

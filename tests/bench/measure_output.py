"""Much output: a job that writes it as fast as it can, and one follower of what is written."""

import fcntl
import os
import re
import subprocess
from collections.abc import Callable
from functools import partial

import oci
from bench import Bench, Sample, Stopwatch
from tls_source import Source

from jobs_rpc import Chunk, End
from jobs_shim.forked import PIPE_SIZE

MEGABYTE = 10**6
SPLICE_BYTES = 1 << 20


DD = "/usr/bin/dd"
LINE = 80
"""Bytes of a line."""


def _zeros(megabytes: int) -> list[str]:
    """Give a command that writes so much, and says on stderr how long that took it."""
    return [DD, "if=/dev/zero", f"bs={MEGABYTE}", f"count={megabytes}"]


def _lines(megabytes: int) -> list[str]:
    """Give one that writes lines, as programs do; a log of lines has to look for their ends."""
    copy = f"{DD} bs={MEGABYTE} count={megabytes} iflag=fullblock"
    return ["/bin/sh", "-c", f"/usr/bin/yes {'x' * (LINE - 1)} | {copy}"]


def _rate(said: str, megabytes: int) -> float:
    """Read what dd said; give MB/s."""
    found = re.findall(r"copied, ([0-9.e-]+) s", said)
    assert found, f"dd did not say how long it took: {said[-200:]!r}"
    return megabytes / max(float(found[-1]), 1e-6)


async def write(bench: Bench) -> None:
    """As the writer sees it: how fast the other end of its pipe takes what it has."""
    await _write(bench, "write", _zeros, bench.scale.output_mb)
    await _write(bench, "write-lines", _lines, bench.scale.output_mb // 4)


async def _write(
    bench: Bench, figure: str, writer: Callable[[int], list[str]], megabytes: int
) -> None:
    argv = writer(megabytes)

    async def ours() -> float:
        job = await bench.complete(argv)
        said = b""
        async for item in bench.client.follow(job.id, stream="stderr", wait=False):
            said += item.data if isinstance(item, Chunk) else b""
        await bench.client.remove(job.id)
        return _rate(said.decode(), megabytes)

    async def splice() -> float:
        return _rate(_splice(bench, argv), megabytes)

    async def conmon(peer: oci.Conmon) -> float:
        return _rate(peer.write(bench.ident(), argv), megabytes)

    contestants: dict[str, Sample] = {"jobs": ours, "splice alone": splice}
    if isinstance(peer := bench.peers.get("conmon"), oci.Conmon):
        contestants["conmon"] = partial(conmon, peer)
    await bench.alternate(figure, contestants, bench.scale.bulk_rounds)


def _splice(bench: Bench, argv: list[str]) -> str:
    """Move what the same command writes into a file, and do nothing else; give what it says."""
    path = bench.directory / "spliced"
    reading, writing = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)  # as ours
    with (
        path.open("wb") as file,
        subprocess.Popen(argv, stdout=writing, stderr=subprocess.PIPE) as process,
    ):
        os.close(writing)
        while os.splice(reading, file.fileno(), SPLICE_BYTES):
            pass
        os.close(reading)
        said = process.communicate()[1].decode()
    path.unlink()
    return said


async def follow(bench: Bench) -> None:
    """From its beginning; against the same TLS stream from a process that does nothing else."""
    megabytes = bench.scale.output_mb
    job = await bench.complete(["head", "-c", str(megabytes * MEGABYTE), "/dev/zero"])

    async def ours() -> float:
        watch, count = Stopwatch(), 0
        async for item in bench.client.follow(job.id):
            match item:
                case Chunk():
                    count += len(item.data)
                case End():
                    assert count == item.total == megabytes * MEGABYTE, f"{count} bytes came"
        return megabytes / watch.s

    with Source.started(bench.supervisor) as source:

        async def alone() -> float:
            return megabytes / await source.take(megabytes * MEGABYTE)

        await bench.alternate("follow", {"jobs": ours, "TLS alone": alone}, bench.scale.bulk_rounds)
    await bench.client.remove(job.id)

"""A gigabyte, followed over connections that are cut all the time: every byte once, in order."""

import hashlib
import random

import harness
import pytest
import trio
from harness import in_thread
from proxy import Proxy

from jobs_rpc import Chunk, Client, End
from jobs_rpc.config import load_settings

SEED = 20260802
BLOCK = 65_521  # prime: no boundary of ours is one of theirs
BLOCKS = 16_400
TOTAL = BLOCKS * BLOCK
PORTIONS = 20
"""The job writes a portion when somebody has seen the end of the last one."""

CUTS = 50
PORTION = BLOCKS // PORTIONS * BLOCK

JOB = f"""
import random, sys
block = random.Random({SEED}).randbytes({BLOCK - 8})
with open(sys.argv[1]) as gate:
    for number in range({BLOCKS}):
        if number % {BLOCKS // PORTIONS} == 0:
            gate.readline()
        sys.stdout.buffer.write(number.to_bytes(8, "big") + block)
sys.exit(9)
"""


def expected() -> str:
    """Give the SHA-256 of what the job is to write: each block is another one."""
    digest, block = hashlib.sha256(), random.Random(SEED).randbytes(BLOCK - 8)
    for number in range(BLOCKS):
        digest.update(number.to_bytes(8, "big") + block)
    return digest.hexdigest()


class Cutter(Proxy):
    """A proxy that cuts each connection after a random number of bytes.

    Every fifth one so early that the handshake or the answer is cut, the others within the output.
    """

    def __init__(self, port: int, seed: int) -> None:
        dice = random.Random(seed)
        super().__init__(port, lambda: dice.randrange(1, dice.choice([5000] + [30_000_000] * 4)))


async def follow(client: Client, job_id: str, gate=None) -> tuple[str, End]:
    """Follow to the end, opening the gate for each portion; give the SHA-256 of all bytes."""
    digest, seen = hashlib.sha256(), 0
    async for item in client.follow(job_id):
        match item:
            case Chunk(offset=offset, data=data):
                assert offset == seen
                digest.update(data)
                if gate is not None and offset // PORTION < (offset + len(data)) // PORTION:
                    gate.say("go")
                seen += len(data)
            case End():
                return digest.hexdigest(), item
            case _:
                raise AssertionError(item)
    raise AssertionError("a follow ends with End or raises")


def hash_output(process) -> tuple[str, int]:
    """Read a process's standard output to its end; give its SHA-256 and the exit status."""
    digest = hashlib.file_digest(process.stdout, "sha256").hexdigest()
    return digest, process.wait(harness.CLI_S)


async def test_cut_fifty_times_under_a_gigabyte(supervisor, gates):
    python = harness.program("python3")
    if python is None:
        pytest.skip("needs python3 on a job's PATH: apt-get install python3")
    gate, found = gates(), {}
    cutters = {name: Cutter(supervisor.port, seed) for seed, name in enumerate(("rpc", "cli"))}
    async with trio.open_nursery() as proxies, supervisor.client() as direct:
        for cutter in cutters.values():
            await proxies.start(cutter.run)
        job = await direct.run([python, "-c", JOB, str(gate.path)])
        ports = {name: f"127.0.0.1:{cutter.port}" for name, cutter in cutters.items()}
        config = str(supervisor.directory / "config.toml")
        line = supervisor.cli_process("--server", ports["cli"], "follow", job.id, bufsize=-1)
        settings = load_settings(config=config, context="dev", server=ports["rpc"])

        async with Client(settings) as cut, trio.open_nursery() as nursery:

            async def hash_line():
                found["cli"] = await in_thread(hash_output, line)

            nursery.start_soon(hash_line)
            gate.say("go")
            digest, end = await follow(cut, job.id, gate)
            found["rpc"] = (digest, end.exit.code)
        digest, end = await follow(direct, job.id)
        found["afterwards"] = (digest, end.exit.code)
        proxies.cancel_scope.cancel()
    print({name: cutter.cuts for name, cutter in cutters.items()})  # noqa: T201  shown by -rP
    assert end.total == TOTAL
    wanted = (await in_thread(expected), 9)
    assert found == dict.fromkeys(("rpc", "cli", "afterwards"), wanted)
    assert {name: cutter.cuts >= CUTS for name, cutter in cutters.items()} == {
        "rpc": True,
        "cli": True,
    }, [cutter.cuts for cutter in cutters.values()]

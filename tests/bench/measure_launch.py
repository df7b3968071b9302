"""`run`, and the end known to who asked: one at a time, and from many at once."""

import shlex
from functools import partial

import trio
from bench import Bench, Sample, Stopwatch
from peers import TRUE, Peer, run

IN_SHELLS = ("bwrap", "ctr")
"""Peers that can be asked from many shells at once."""

IDENT = "IDENT"


async def launch(bench: Bench) -> None:
    """One after the other."""

    async def theirs(peer: Peer) -> float:
        ident = bench.ident()
        watch = Stopwatch()
        peer.launch(ident)
        return watch.ms

    contestants: dict[str, Sample] = {"jobs": bench.launch_ms}
    contestants |= {name: partial(theirs, peer) for name, peer in bench.peers.items()}
    scale = bench.scale
    await bench.alternate("launch", contestants, scale.rounds, warm_ups=scale.warm_ups)


async def throughput(bench: Bench) -> None:
    """From clients of ours, each with a connection; from shells, each with a loop."""
    shells, each = bench.scale.shells, bench.scale.per_shell

    async def ours() -> float:
        async with trio.open_nursery() as clients:
            ready = [await clients.start(_client, bench, each) for _ in range(shells)]
            watch = Stopwatch()
            async with trio.open_nursery() as runs:
                for go, done in ready:
                    go.set()
                    runs.start_soon(done.wait)
            return shells * each / watch.s

    async def theirs(peer: Peer) -> float:
        command = shlex.join(peer.argv(IDENT)).replace(IDENT, f"{bench.ident()}-$1-$i")
        loop = f"i=0; while [ $i -lt {each} ]; do {command} || exit; i=$((i+1)); done"
        all_loops = f"for n in $(seq {shells}); do sh -c {shlex.quote(loop)} sh $n & done; wait"
        watch = Stopwatch()
        run(["sh", "-c", all_loops], **peer.environment())
        return shells * each / watch.s

    contestants: dict[str, Sample] = {"jobs": ours}
    contestants |= {n: partial(theirs, p) for n, p in bench.peers.items() if n in IN_SHELLS}
    await bench.alternate("throughput", contestants, bench.scale.bulk_rounds)


async def _client(
    bench: Bench, times: int, task_status: trio.TaskStatus[tuple[trio.Event, trio.Event]]
) -> None:
    """Connect; told to go, run jobs one after the other."""
    go, done = trio.Event(), trio.Event()
    async with bench.supervisor.client() as client:
        await client.hello()
        task_status.started((go, done))
        await go.wait()
        for _ in range(times):
            await bench.complete([TRUE], client)
        done.set()

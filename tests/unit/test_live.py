"""A job in memory: who waits for its output is told of it, whoever else gives up waiting."""

import socket

import trio
import trio.testing

from jobs_proto import shim as protocol
from jobs_proto.job import Job, Spec
from jobs_supervisor.link import ShimLink
from jobs_supervisor.live import LiveJob
from jobs_supervisor.store import Record

JOB = Job(id="id", owner="o", spec=Spec(argv=("true",)), created_at="2026-01-01T00:00:00.000000Z")


async def test_news_are_asked_for_again_if_who_asked_is_cancelled():
    ours, shims = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(0)
    with ours, shims:
        filled = 0
        while True:  # until a send has to wait
            try:
                ours.send(b"filler")
            except BlockingIOError:
                break
            filled += 1
        live = LiveJob(Record(job=JOB))
        live.attach(ShimLink(trio.socket.from_stdlib_socket(ours)))
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                first = trio.CancelScope()
                nursery.start_soon(_wait, live, first)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(_wait, live, trio.CancelScope())
                await trio.testing.wait_all_tasks_blocked()
                first.cancel()
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(filled):
                    shims.recv(protocol.MAX_PACKET)
                await trio.testing.wait_all_tasks_blocked()
                shims.settimeout(0)
                kind, body = protocol.unpack(shims.recv(protocol.MAX_PACKET))
                live.grown(1)
    assert (kind, body["offset"]) == (protocol.WATCH, 0)


async def _wait(live, scope):
    with scope:
        await live.more_than(0)

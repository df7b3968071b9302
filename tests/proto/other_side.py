"""What the other side of a client's connection says and does, as steps of a script."""

import pytest
import trio
from attrs import evolve

from jobs_proto.connection import Request, chunk_head
from jobs_proto.errors import JobsError
from jobs_proto.job import Exit, Job, Output, Spec, timestamp
from jobs_proto.phases import Outcome, Phase
from jobs_proto.wire import unstructure
from jobs_rpc import Chunk

ID = "8f14e45f-ceea-467f-8b5a-1b2d3c4e5f60"
RUNNING = Job(
    id=ID, owner="alice", phase=Phase.RUNNING, spec=Spec(argv=("x",)), created_at=timestamp(0)
)
EXITED = evolve(
    RUNNING,
    phase=Phase.EXITED,
    outcome=Outcome.COMPLETED,
    exit=Exit(code=0),
    output=Output(total=10, stdout=10),
)
TIME = timestamp(0)


async def asked(channel, method=None):
    """Take the next request; closes the script's connection when there is none."""
    message = await channel.receive()
    if message is None:
        raise trio.BrokenResourceError("the client has gone")
    assert isinstance(message, Request)
    assert method in (None, message.method)
    return message


async def answer(channel, request, result=None, error=None):
    await channel.send(channel.connection.respond(request.id, error, result))


async def cut(channel):
    """Take the line away: the client sees its end without a goodbye."""
    channel.stream.socket.shutdown(trio.socket.SHUT_RDWR)


async def chunk(channel, offset, data, stream="stdout"):
    await channel.send(chunk_head(offset, stream, TIME, len(data)), data)


async def notify(channel, method, **params):
    await channel.send(channel.connection.notify(method, params))


async def end(channel, total, job=EXITED):
    exited = job.exit and unstructure(job.exit)
    await notify(channel, "end", total=total, exit=exited, job=unstructure(job))
    await channel.receive()


async def begin(channel, *, start=0, ident=ID):
    """Answer a follow that must begin at `start`."""
    request = await asked(channel, "follow")
    assert request.params["start"] == start
    await answer(channel, request, {"id": ident, "start": start})
    return request


def replying(**results):
    """Make a script that answers each method with its result, for ever."""

    async def script(channel):
        while True:
            request = await asked(channel)
            await answer(channel, request, results[request.method])

    return script


async def silent(channel):
    await channel.receive()
    await trio.sleep_forever()


async def collect(following):
    return [item async for item in following]


def output(items):
    return b"".join(item.data for item in items if isinstance(item, Chunk))


async def refusal(operation, *args, **kwargs):
    with pytest.raises(JobsError) as caught:
        await operation(*args, **kwargs)
    return caught.value

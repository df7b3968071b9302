"""Messages on a stream: whole, one after the other, whoever sends them and however they are cut."""

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from jobs_proto.connection import Connection, Notification, chunk_head, pack
from jobs_proto.errors import ProtocolError
from jobs_rpc.channel import Channel


def channels():
    ours, theirs = memory_stream_pair()
    return Channel(ours, Connection()), Channel(theirs, Connection()), ours


async def test_messages_that_come_together_are_given_one_by_one():
    here, there, _ = channels()
    await here.send(pack([2, "a", {}]) + pack([2, "b", {}]))
    await here.aclose()
    assert await there.receive() == Notification("a", {})
    assert await there.receive() == Notification("b", {})
    assert await there.receive() is None
    await there.aclose()


@pytest.mark.parametrize("size", [0, 5, 300_000])
async def test_a_message_in_parts_is_one_message(size):
    here, there, _ = channels()
    data = bytes(size)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.send, chunk_head(7, "stderr", "T", size), memoryview(data))
        message = await there.receive()
    assert message.params == {"offset": 7, "stream": "stderr", "time": "T", "data": data}
    assert not here.torn


async def test_senders_do_not_mix():
    here, there, _ = channels()
    async with trio.open_nursery() as nursery:
        for name in "abc":
            head = chunk_head(0, name, "T", 20_000)
            nursery.start_soon(here.send, head, name.encode() * 20_000)
        for _ in "abc":
            message = await there.receive()
            assert set(message.params["data"]) == set(message.params["stream"].encode())


async def test_an_end_within_a_message_is_no_end():
    here, there, stream = channels()
    await stream.send_all(pack([2, "a", {}])[:-1])
    await here.aclose()
    with pytest.raises(trio.BrokenResourceError, match="mid-message"):
        await there.receive()


async def test_a_torn_message_is_the_last():
    here, _, stream = channels()

    async def never():
        await trio.sleep_forever()

    stream.send_stream.send_all_hook = never
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.send, b"x")
            await wait_all_tasks_blocked()
            scope.cancel()
    assert here.torn
    with pytest.raises(trio.BrokenResourceError, match="torn"):
        await here.send(b"y")


async def test_what_breaks_the_protocol_is_final():
    here, there, _ = channels()
    await here.send(pack([2, "a", {}]) + b"\xc1")
    assert await there.receive() == Notification("a", {})
    for _ in range(2):
        with pytest.raises(ProtocolError):
            await there.receive()

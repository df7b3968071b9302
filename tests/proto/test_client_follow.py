"""A follow by the client: every byte once, in order, to the end, however often the line breaks."""

import pytest
import trio
from other_side import (
    EXITED,
    ID,
    RUNNING,
    TIME,
    answer,
    asked,
    begin,
    chunk,
    collect,
    cut,
    end,
    notify,
    output,
    refusal,
)
from trio.testing import wait_all_tasks_blocked

from jobs_proto.connection import chunk_head
from jobs_proto.errors import JobsError, ProtocolError
from jobs_proto.job import Exit
from jobs_rpc import Chunk, Client, End, Gap
from jobs_rpc.errors import PeerError


async def test_follow_gives_chunks_gaps_and_the_end(peer):
    async def script(channel):
        await begin(channel)
        await notify(channel, "gap", **{"from": 0, "to": 4, "reason": "dropped"})
        await chunk(channel, 4, b"ab")
        await chunk(channel, 6, b"\x00\xff\r\n", "stderr")
        await end(channel, 10)

    async with peer(script) as there, Client(there.settings) as client:
        following = client.follow(ID)
        assert await collect(following) == [
            Gap(0, 4, "dropped"),
            Chunk(4, "stdout", TIME, b"ab"),
            Chunk(6, "stderr", TIME, b"\x00\xff\r\n"),
            End(10, Exit(code=0), EXITED),
        ]
        assert await collect(following) == []


async def test_follow_of_a_running_job_without_waiting(peer):
    async def script(channel):
        request = await begin(channel)
        assert request.params["wait"] is False
        await chunk(channel, 0, b"ab")
        await end(channel, 2, RUNNING)

    async with peer(script) as there, Client(there.settings) as client:
        *_, last = await collect(client.follow(ID, wait=False))
        assert last == End(2, None, RUNNING)


async def test_every_byte_once_however_often_the_line_breaks(peer):
    """Cuts before the answer, between chunks, within a chunk, before the end; a restart too."""
    whole = bytes(range(256)) * 4000

    async def refuse(channel):
        await asked(channel, "follow")
        await cut(channel)

    async def between(channel):
        await begin(channel)
        await chunk(channel, 0, whole[:1000])
        await chunk(channel, 1000, whole[1000:300_000])

    async def within(channel):
        request = await begin(channel, start=300_000)
        assert request.params["id"] == ID
        await chunk(channel, 300_000, whole[300_000:400_000])
        await channel.stream.send_all(chunk_head(400_000, "stdout", TIME, 100_000))
        await channel.stream.send_all(whole[400_000:450_000])
        await cut(channel)

    async def drained(channel):
        request = await asked(channel, "follow")
        await answer(channel, request, error=JobsError("unavailable", "restarting"))

    async def told(channel):
        await begin(channel, start=400_000)
        await notify(channel, "error", code="unavailable", message="restarting", detail={})

    async def almost(channel):
        await begin(channel, start=400_000)
        await chunk(channel, 400_000, whole[400_000:])

    async def last(channel):
        await begin(channel, start=len(whole))
        await end(channel, len(whole))

    scripts = (refuse, between, within, drained, told, almost, last)
    async with peer(*scripts) as there, Client(there.settings) as client:
        items = await collect(client.follow("name"))
        assert output(items) == whole
        assert isinstance(items[-1], End)
        assert there.accepted == len(scripts)


async def test_follow_of_one_stream_goes_on_behind_its_last_chunk(peer):
    async def first(channel):
        request = await begin(channel)
        assert request.params["stream"] == "stderr"
        await chunk(channel, 5, b"abc", "stderr")
        await chunk(channel, 20, b"d", "stderr")

    async def second(channel):
        await begin(channel, start=21)
        await chunk(channel, 40, b"e", "stderr")
        await end(channel, 50)

    async with peer(first, second) as there, Client(there.settings) as client:
        assert output(await collect(client.follow(ID, stream="stderr"))) == b"abcde"


async def test_follow_from_behind_the_end_is_just_the_end(peer):
    async def script(channel):
        await begin(channel, start=100)
        await end(channel, 10)

    async with peer(script) as there, Client(there.settings) as client:
        assert await collect(client.follow(ID, start=100)) == [End(10, Exit(code=0), EXITED)]


@pytest.mark.parametrize(
    "messages",
    [
        [["chunk", 1, b"x"]],
        [["chunk", 0, b"ab"], ["chunk", 1, b"b"]],
        [["chunk", 0, b"ab"], ["chunk", 3, b"d"]],
        [["gap", 1, 2]],
        [["gap", 0, -1]],
        [["chunk", 0, b"ab"], ["end", 1]],
        [["chunk", 0, b"ab"], ["end", 3]],
        [["end", 1]],
        [["other"]],
        [["chunk", "0", b""]],
    ],
)
async def test_bytes_that_are_missing_or_doubled_are_never_passed_over(peer, messages):
    async def script(channel):
        await begin(channel)
        for message in messages:
            match message:
                case ["chunk", offset, data]:
                    params = {"offset": offset, "stream": "stdout", "time": TIME, "data": data}
                    await notify(channel, "chunk", **params)
                case ["gap", first, past]:
                    await notify(channel, "gap", **{"from": first, "to": past, "reason": "x"})
                case ["end", total]:
                    await end(channel, total)
                case [other]:
                    await notify(channel, other)
        await channel.receive()

    async with peer(script) as there, Client(there.settings) as client:
        error = await refusal(collect, client.follow(ID))
        assert isinstance(error, ProtocolError)
        assert there.accepted == 1


@pytest.mark.parametrize("stream", ["stdin", 5])
async def test_a_chunk_of_no_stream(peer, stream):
    async def script(channel):
        await begin(channel)
        await notify(channel, "chunk", offset=0, stream=stream, time=TIME, data=b"x")
        await channel.receive()

    async with peer(script) as there, Client(there.settings) as client:
        assert isinstance(await refusal(collect, client.follow(ID)), PeerError)


@pytest.mark.parametrize("result", [None, {"id": 5}, "x"])
async def test_an_answer_that_is_none_to_a_follow(peer, result):
    async def script(channel):
        await answer(channel, await asked(channel), result)
        await channel.receive()

    async with peer(script) as there, Client(there.settings) as client:
        assert isinstance(await refusal(collect, client.follow(ID)), PeerError)


@pytest.mark.parametrize("code", ["permission_denied", "not_found"])
async def test_a_refused_follow_is_final(peer, code):
    async def script(channel):
        await answer(channel, await asked(channel), error=JobsError(code, "no"))

    async with peer(script) as there, Client(there.settings) as client:
        following = client.follow(ID)
        assert (await refusal(following.__anext__)).code == code
        assert await collect(following) == []
        assert there.accepted == 1


async def test_a_follow_that_is_cancelled_goes_on_where_it_was(peer):
    more = trio.Event()

    async def script(channel):
        await begin(channel)
        await chunk(channel, 0, b"ab")
        await more.wait()
        await chunk(channel, 2, b"cd")
        await end(channel, 4)

    async with peer(script) as there, Client(there.settings) as client:
        following = client.follow(ID)
        items = [await anext(following)]
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(following.__anext__)
                await wait_all_tasks_blocked()
                scope.cancel()
        more.set()
        items += await collect(following)
        assert output(items) == b"abcd"
        assert there.accepted == 1


async def test_a_follow_ended_early_closes_its_connection(peer):
    gone = trio.Event()

    async def script(channel):
        await begin(channel)
        await chunk(channel, 0, b"ab")
        assert await channel.receive() is None
        gone.set()

    async with peer(script) as there, Client(there.settings) as client:
        following = client.follow(ID)
        await anext(following)
        await following.aclose()
        await gone.wait()
        assert await collect(following) == []


async def test_the_end_of_the_client_is_the_end_of_its_follows(peer):
    gone = trio.Event()

    async def script(channel):
        await begin(channel)
        await chunk(channel, 0, b"ab")
        assert await channel.receive() is None
        gone.set()

    async with peer(script) as there:
        async with Client(there.settings) as client:
            await anext(client.follow(ID))
        await gone.wait()


async def test_follow_across_a_restart_of_the_supervisor(peer):
    """The port is closed for a while: refused connections are as good as cut ones."""
    started, ended = trio.Event(), trio.Event()

    async def first(channel):
        await begin(channel)
        await chunk(channel, 0, b"ab")
        await trio.sleep_forever()

    async def second(channel):
        await begin(channel, start=2)
        await chunk(channel, 2, b"cd")
        await end(channel, 4)

    got = []
    async with trio.open_nursery() as nursery:
        async with peer(first) as there:

            @nursery.start_soon
            async def follow():
                async with Client(there.settings) as client:
                    async for item in client.follow(ID):
                        got.append(item)
                        started.set()
                ended.set()

            await started.wait()
        async with peer(second, port=there.settings.port):
            await ended.wait()
    assert output(got) == b"abcd"

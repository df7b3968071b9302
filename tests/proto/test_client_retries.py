"""What a client does again by itself, when answers and connections are lost."""

from other_side import EXITED, ID, RUNNING, answer, asked, collect, cut, refusal, replying

from jobs_proto.errors import JobsError
from jobs_proto.wire import unstructure
from jobs_rpc import Client
from jobs_rpc.errors import LostError


async def test_run_asks_again_when_its_answer_is_lost_and_it_is_the_same_request(peer):
    seen = []

    async def lossy(channel):
        seen.append((await asked(channel, "run")).params)
        await cut(channel)

    async def drained(channel):
        request = await asked(channel, "run")
        await answer(channel, request, error=JobsError("unavailable", "restarting"))

    async def kind(channel):
        request = await asked(channel, "run")
        seen.append(request.params)
        await answer(channel, request, unstructure(RUNNING))
        await channel.receive()

    async with peer(lossy, drained, kind) as there, Client(there.settings) as client:
        assert await client.run(["x"]) == RUNNING
    assert seen[0] == seen[1]
    assert seen[0]["request_id"]


async def test_a_refused_run_is_not_asked_again(peer):
    async def script(channel):
        while True:
            error = JobsError("resource_exhausted", "the queue is full")
            await answer(channel, await asked(channel, "run"), error=error)

    async with peer(script) as there, Client(there.settings) as client:
        assert (await refusal(client.run, ["x"])).code == "resource_exhausted"


async def test_wait_by_an_id_asks_nothing_first_until_the_supervisor_was_away(peer):
    async def first(channel):
        request = await asked(channel, "wait")
        assert request.params == {"id": ID, "timeout_s": None}
        await cut(channel)

    async def second(channel):
        await answer(channel, await asked(channel, "inspect"), unstructure(RUNNING))
        await answer(channel, await asked(channel, "wait"), unstructure(EXITED))

    async with peer(first, second) as there, Client(there.settings) as client:
        assert await client.wait(ID) == EXITED


async def test_wait_goes_on_after_the_supervisor_was_away(peer):
    async def first(channel):
        await answer(channel, await asked(channel, "inspect"), unstructure(RUNNING))
        request = await asked(channel, "wait")
        assert request.params == {"id": ID, "timeout_s": None}
        await cut(channel)

    async def second(channel):
        request = await asked(channel, "inspect")
        assert request.params == {"id": ID}  # no longer the name, which may be another's by now
        await answer(channel, request, unstructure(RUNNING))
        await answer(channel, await asked(channel, "wait"), unstructure(EXITED))
        await channel.receive()

    async with peer(first, second) as there, Client(there.settings) as client:
        assert await client.wait("name") == EXITED


async def test_wait_with_a_timeout_gives_the_job_as_it_is(peer):
    async with (
        peer(replying(inspect=unstructure(RUNNING), wait=unstructure(RUNNING))) as there,
        Client(there.settings) as client,
    ):
        assert await client.wait(ID, 0) == RUNNING
        assert await client.wait(ID, 0.01) == RUNNING


async def test_patience_ends(peer):
    async def inspected(channel):
        await answer(channel, await asked(channel, "inspect"), unstructure(RUNNING))

    async with peer(inspected, cut) as there, Client(there.settings, reconnect_s=0.1) as client:
        await client.inspect(ID)
        assert isinstance(await refusal(client.wait, ID), LostError)
        assert isinstance(await refusal(collect, client.follow(ID)), LostError)
        assert there.accepted > 4

"""The client against the other side of the wire, following scripts that cut and lose and lie."""

import pytest
import trio
from attrs import evolve
from trio.testing import wait_all_tasks_blocked

from jobs_proto.connection import Request, chunk_head, pack
from jobs_proto.errors import JobsError, ProtocolError
from jobs_proto.job import Exit, Job, Output, Spec, timestamp
from jobs_proto.phases import Outcome, Phase
from jobs_proto.wire import unstructure
from jobs_rpc import Chunk, Client, End, Gap
from jobs_rpc.config import Settings
from jobs_rpc.errors import LostError, PeerError, UntrustedError

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


@pytest.fixture
def client_settings(client_files):
    """Settings for a supervisor that is not there."""
    return Settings(
        server="127.0.0.1:1", ca=client_files.ca, cert=client_files.cert, key=client_files.key
    )


# -- what the other side does --------------------------------------------------------------------


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


# -- calls ---------------------------------------------------------------------------------------


async def test_each_method_is_asked_and_read(peer):
    async with (
        peer(
            replying(
                run=unstructure(RUNNING),
                list={"jobs": [unstructure(RUNNING), unstructure(EXITED)]},
                inspect=unstructure(RUNNING),
                kill=unstructure(RUNNING),
                signal=unstructure(RUNNING),
                whoami={"identity": "alice", "roles": []},
                hello={"server": "x", "version": "1", "protocol": 1},
            )
        ) as there,
        Client(there.settings) as client,
    ):
        assert await client.run(["x"], cwd="/tmp", name="n", labels={"a": "b"}) == RUNNING
        assert await client.run(Spec(argv=("x",))) == RUNNING
        assert await client.list(all=True) == [RUNNING, EXITED]
        assert await client.inspect(ID) == RUNNING
        assert await client.kill(ID, signal="INT", grace_s=1) == RUNNING
        assert await client.signal(ID, "HUP") == RUNNING
        assert (await client.whoami())["identity"] == "alice"
        assert (await client.hello())["protocol"] == 1
        assert there.accepted == 1


async def test_what_is_asked(peer):
    params = {}

    async def script(channel):
        while True:
            request = await asked(channel)
            params[request.method] = request.params
            await answer(channel, request, unstructure(RUNNING))

    async with peer(script) as there, Client(there.settings) as client:
        await client.run(["a", "b"], timeout_s=5)
        await client.kill("n")
    assert params["run"]["spec"]["argv"] == ["a", "b"]
    assert params["run"]["spec"]["timeout_s"] == 5
    assert len(params["run"]["request_id"]) == 36
    assert params["kill"] == {"id": "n", "signal": "TERM", "grace_s": 10.0}


async def test_answers_find_their_calls_in_any_order(peer):
    async def script(channel):
        requests = [await asked(channel) for _ in range(5)]
        for request in reversed(requests):
            await answer(channel, request, request.params["n"])
        await channel.receive()

    got = {}

    async with peer(script) as there, Client(there.settings) as client:

        async def ask(number):
            got[number] = await client.call("x", {"n": number})

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask, number)
        assert there.accepted == 1
    assert got == {number: number for number in range(5)}


async def test_a_refusal_is_raised_with_its_code_and_detail(peer):
    async def script(channel):
        request = await asked(channel)
        await answer(channel, request, error=JobsError("not_found", "no job x", {"id": "x"}))
        await channel.receive()

    async with peer(script) as there, Client(there.settings) as client:
        error = await refusal(client.inspect, "x")
        assert (error.code, error.message, error.detail) == ("not_found", "no job x", {"id": "x"})


async def test_a_lost_connection_fails_every_open_call_and_the_next_call_connects_anew(peer):
    async def lossy(channel):
        await asked(channel)
        await asked(channel)
        await cut(channel)

    errors = []

    async with (
        peer(lossy, replying(inspect=unstructure(RUNNING))) as there,
        Client(there.settings) as client,
    ):

        async def ask():
            errors.append(await refusal(client.inspect, ID))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        assert [error.code for error in errors] == ["unavailable"] * 2
        assert errors[0] is not errors[1]
        assert there.settings.server in errors[0].message
        assert "cut off" in errors[0].message
        assert await client.inspect(ID) == RUNNING


async def test_an_idle_connection_that_ended_is_noticed_before_the_next_call(peer):
    async def once(channel):
        await answer(channel, await asked(channel), unstructure(RUNNING))

    async with peer(once) as there, Client(there.settings) as client:
        for expected in (1, 2):
            await client.inspect(ID)
            assert there.accepted == expected
            while client._link.usable:
                await wait_all_tasks_blocked()


async def test_an_answer_that_never_comes_has_a_deadline(peer):
    async with peer(silent) as there, Client(there.settings) as client:
        error = await refusal(client.call, "x", {}, answer_s=0.05)
        assert isinstance(error, LostError)
        assert "did not answer `x` in 0.05 s" in error.message


async def test_the_answer_to_a_cancelled_call_is_nobodys(peer):
    cancelled = trio.Event()

    async def script(channel):
        first = await asked(channel, "a")
        await cancelled.wait()
        await answer(channel, first, 1)
        await answer(channel, await asked(channel, "b"), 2)
        await channel.receive()

    async with peer(script) as there, Client(there.settings) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.call, "a", {})
                await wait_all_tasks_blocked()
                scope.cancel()
        cancelled.set()
        assert await client.call("b", {}) == 2
        assert there.accepted == 1


async def test_a_request_cut_in_the_middle_does_not_spoil_the_next(peer):
    async def deaf(channel):
        request = await asked(channel)
        reading.set()
        await retired.wait()
        await answer(channel, request, "late")
        await channel.receive()

    reading, retired, got = trio.Event(), trio.Event(), []

    async with peer(deaf, replying(b=2)) as there, Client(there.settings) as client:

        async def early():
            got.append(await client.call("a", {}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(early)
            await reading.wait()
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(client.call, "big", {"data": bytes(8_000_000)})
                    await wait_all_tasks_blocked()
                    scope.cancel()
            assert await client.call("b", {}) == 2
            assert there.accepted == 2
            retired.set()
        assert got == ["late"]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"a": object()}, "cannot be sent"),
        ({"a": "\ud800"}, "cannot be sent"),
        ({"a": bytes(9_000_000)}, "at most 8388608 bytes"),
    ],
)
async def test_params_that_cannot_be_sent_are_refused_here(peer, params, why):
    async with peer(replying(b=1)) as there, Client(there.settings) as client:
        error = await refusal(client.call, "a", params)
        assert error.code == "invalid_argument"
        assert why in error.message
        assert await client.call("b", {}) == 1


async def test_arguments_are_checked_before_anybody_is_asked(client_settings):
    async with Client(client_settings) as client:
        for call in (
            lambda: client.run([]),
            lambda: client.kill(ID, signal="NOPE"),
            lambda: client.list(limit=0),
            lambda: client.wait(ID, -1),
        ):
            assert (await refusal(call)).code == "invalid_argument"
        with pytest.raises(JobsError, match="a stream is stdout or stderr"):
            client.follow(ID, stream="both")
        with pytest.raises(TypeError, match="a command is a sequence"):
            await client.run("ls -l")


async def test_what_the_supervisor_says_last_reaches_every_call(peer):
    async def script(channel):
        await asked(channel)
        await notify(channel, "error", code="invalid_argument", message="bad", detail={})

    async with peer(script) as there, Client(there.settings) as client:
        error = await refusal(client.call, "x", {})
        assert (error.code, error.message) == ("invalid_argument", "bad")


async def test_what_the_supervisor_says_last_reaches_a_follow_that_has_no_answer_yet(peer):
    async def script(channel):
        await asked(channel, "follow")
        await notify(channel, "error", code="permission_denied", message="revoked", detail={})

    async with peer(script) as there, Client(there.settings) as client:
        error = await refusal(client.follow(ID, start=0).__anext__)
        assert (error.code, error.message) == ("permission_denied", "revoked")


@pytest.mark.parametrize("data", [b"\xc1", pack([1, 77, None, None]), pack([0, 1, "x", {}])])
async def test_a_supervisor_that_breaks_the_protocol(peer, data):
    async def script(channel):
        await asked(channel)
        await channel.send(data)
        await channel.receive()

    async with peer(script) as there, Client(there.settings) as client:
        error = await refusal(client.call, "x", {})
        assert isinstance(error, PeerError)
        assert "broke the protocol" in error.message


async def test_a_job_in_another_shape_is_the_supervisors_fault(peer):
    async with (
        peer(replying(inspect={"id": 5}, list=[])) as there,
        Client(there.settings) as client,
    ):
        assert (await refusal(client.inspect, ID)).code == "internal"
        assert (await refusal(client.list)).code == "internal"


async def test_exceptions_leave_the_client_as_they_came(peer):
    async with peer(replying(x=1)) as there:

        async def fail():
            async with Client(there.settings) as client:
                await client.call("x", {})
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        with trio.CancelScope() as scope:
            async with Client(there.settings) as client:
                await client.call("x", {})
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_a_client_is_used_within_its_context(client_settings):
    with pytest.raises(RuntimeError, match="async with"):
        await Client(client_settings).call("x", {})


# -- no connection -------------------------------------------------------------------------------


async def test_nobody_listens(client_settings):
    async with Client(client_settings) as client:
        for call in (client.whoami, lambda: client.wait(ID), lambda: collect(client.follow(ID))):
            error = await refusal(call)
            assert isinstance(error, LostError)
            assert error.message == (
                "127.0.0.1:1: connection refused; is the supervisor running there?"
            )


@pytest.mark.parametrize(
    ("server", "why"), [("[fe80::1%nosuch]:1", "no such host"), ("a..b:1", "a..b:1: ")]
)
async def test_a_host_that_is_none(client_settings, server, why):
    async with Client(evolve(client_settings, server=server)) as client:
        error = await refusal(client.whoami)
        assert error.code == "unavailable"
        assert why in error.message


async def test_a_host_that_does_not_answer(client_settings, autojump_clock):
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        server = f"127.0.0.1:{listener.getsockname()[1]}"
        async with Client(evolve(client_settings, server=server)) as client:
            error = await refusal(client.whoami)
            assert error.message == f"{server}: no answer within 10 s"


async def test_our_certificate_is_refused(peer, other_authority):
    stranger = other_authority.issue("mallory2.test")
    async with peer(silent) as there:
        settings = evolve(there.settings, cert=stranger.cert, key=stranger.key)
        async with Client(settings) as client:
            error = await refusal(client.whoami)
        assert isinstance(error, UntrustedError)
        assert f"{settings.server}: the server refused our certificate" in error.message


async def test_the_servers_certificate_is_refused(peer, other_authority):
    async with peer(silent) as there:
        settings = evolve(there.settings, ca=other_authority.ca)
        async with Client(settings) as client:
            error = await refusal(client.whoami)
        assert isinstance(error, UntrustedError)
        assert "the server's certificate is not acceptable" in error.message


async def test_the_server_is_somebody_else(peer):
    async with peer(silent) as there:
        settings = evolve(there.settings, server=f"127.0.0.2:{there.settings.port}")
        # Linux routes all of 127/8 to loopback; the peer listens on 127.0.0.1 only.
        async with Client(settings) as client:
            assert "127.0.0.2" in (await refusal(client.whoami)).message
        settings = evolve(there.settings, server=f"localhost:{there.settings.port}")
        async with Client(settings) as client:
            error = await refusal(client.whoami)
        assert "the server's certificate does not name localhost" in error.message


async def test_our_own_files_are_missing(client_settings, tmp_path):
    async with Client(evolve(client_settings, key=tmp_path / "gone.key")) as client:
        error = await refusal(client.whoami)
        assert f"cannot read the private key {tmp_path}/gone.key" in error.message


# -- again and again -----------------------------------------------------------------------------


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


# -- follow --------------------------------------------------------------------------------------


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

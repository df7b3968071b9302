"""The client against the other side of the wire, following scripts that cut and lose and lie."""

import pytest
import trio
from attrs import evolve
from other_side import (
    EXITED,
    ID,
    RUNNING,
    answer,
    asked,
    collect,
    cut,
    notify,
    refusal,
    replying,
    silent,
)
from trio.testing import wait_all_tasks_blocked

from jobs_proto.connection import pack
from jobs_proto.errors import JobsError
from jobs_proto.job import Spec
from jobs_proto.wire import unstructure
from jobs_rpc import Client
from jobs_rpc.config import Settings
from jobs_rpc.errors import LostError, PeerError, UntrustedError


@pytest.fixture
def client_settings(client_files):
    """Settings for a supervisor that is not there."""
    return Settings(
        server="127.0.0.1:1", ca=client_files.ca, cert=client_files.cert, key=client_files.key
    )


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

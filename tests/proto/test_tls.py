"""`TLSStream` over real sockets: trio's own stream tests, and every way in which TLS goes wrong."""

import contextlib
import os
import select
import socket

import pytest
import trio
from OpenSSL import SSL
from trio.testing import check_two_way_stream, wait_all_tasks_blocked

from jobs_rpc.context import client_context, server_context
from jobs_rpc.tls import TLSError, TLSStream


@pytest.fixture(autouse=True)
async def deadline():
    with trio.fail_after(60):
        yield


async def shake(*streams):
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.do_handshake)
    return streams


async def failure_of(operation):
    """Give the exception that a stream's operation ends with."""
    with pytest.raises(trio.BrokenResourceError) as caught:
        await operation()
    return caught.value


async def both_fail(client, server):
    """Give what each side says of a connection that must not come about."""
    said = {}

    async def serve():
        said["server"] = await failure_of(server.do_handshake)
        await server.aclose()

    async def ask():
        # In TLS 1.3 the client learns only from its first read that it is refused.
        said["client"] = await failure_of(client.receive_some)
        await client.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(ask)
    return said["client"], said["server"]


def clog(stream):
    """Fill a stream up to the brim: OpenSSL itself then holds one record of one byte."""
    with contextlib.suppress(SSL.WantWriteError):
        while True:
            stream._ssl.send(b"x")


@pytest.mark.parametrize("explicit", [True, False], ids=["shaken", "unshaken"])
async def test_it_is_a_stream_as_trio_wants_one(pair, client_files, server_files, explicit):
    async def maker():
        return await shake(*await pair()) if explicit else await pair()

    async def clogged_maker():
        # A TCP connection takes more when it has had time: only a socket pair can be full.
        ours, theirs = trio.socket.socketpair()
        client = TLSStream(ours, client_context(*client_files), server_name="127.0.0.1")
        server = TLSStream(theirs, server_context(*server_files), server_name=None)
        await shake(client, server)
        clog(client)
        clog(server)
        return client, server

    await check_two_way_stream(maker, clogged_maker)


async def test_each_side_knows_the_other(pair):
    client, server = await pair()
    with pytest.raises(ValueError, match="before the handshake"):
        _ = client.peer_certificate
    await shake(client, server)
    assert "alice" in server.peer_certificate.subject.rfc4514_string()
    assert client.peer_certificate.not_valid_after_utc
    await client.aclose()
    await server.aclose()


async def test_one_handshake_serves_all_who_ask(pair):
    client, server = await pair()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(client.do_handshake)
        await wait_all_tasks_blocked()
        nursery.start_soon(server.do_handshake)
    await client.aclose()
    await server.aclose()


async def test_a_cancelled_handshake_is_taken_up_by_the_next_caller(pair):
    client, server = await pair()
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0):
            await client.do_handshake()
        with trio.CancelScope() as scope:
            nursery.start_soon(client.do_handshake)
            await wait_all_tasks_blocked()
            scope.cancel()
        nursery.start_soon(server.do_handshake)
    await client.aclose()
    await server.aclose()


async def test_50_mb_each_way_at_once(pair):
    client, server = await shake(*await pair())
    size = 50_000_000
    there, back = os.urandom(size), os.urandom(size)
    got = {}

    async def receive(stream):
        received = bytearray()
        while len(received) < size:
            received += await stream.receive_some()
        got[stream] = received

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, server)
        nursery.start_soon(receive, client)
        nursery.start_soon(client.send_all, memoryview(there))
        nursery.start_soon(server.send_all, back)
    assert got[server] == there
    assert got[client] == back
    await client.aclose()
    await server.aclose()


async def test_goodbye_is_the_end_and_stays_it(pair):
    client, server = await shake(*await pair())
    await client.send_all(b"last words")
    await client.aclose()
    assert await server.receive_some() == b"last words"
    assert await server.receive_some() == b""
    assert await server.receive_some() == b""
    await server.aclose()


async def test_an_end_without_goodbye_is_no_end(pair):
    client, server = await shake(*await pair())
    await client.send_all(b"half a sen")
    client.socket.shutdown(trio.socket.SHUT_WR)
    assert await server.receive_some() == b"half a sen"
    for _ in range(2):
        error = await failure_of(server.receive_some)
        assert "cut off" in str(error)
        assert not isinstance(error, TLSError)
    await client.aclose()
    await server.aclose()


async def test_what_came_before_the_line_broke_is_given_first(pair):
    client, server = await shake(*await pair())
    await client.send_all(bytes(16384))
    client.socket.shutdown(trio.socket.SHUT_WR)
    assert await server.receive_some() == bytes(16384)
    assert "cut off" in str(await failure_of(server.receive_some))
    await client.aclose()
    await server.aclose()


async def test_a_cancelled_send_ends_sending(pair):
    client, server = await shake(*await pair())
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, bytes(50_000_000))
            await wait_all_tasks_blocked()
            scope.cancel()
    assert "cancelled in the middle" in str(await failure_of(lambda: client.send_all(b"x")))
    await client.aclose()

    async def receive_all():
        return [part async for part in server]

    await failure_of(receive_all)
    await server.aclose()


async def test_closing_wakes_who_waits(pair):
    client, server = await shake(*await pair())
    with pytest.RaisesGroup(trio.ClosedResourceError, trio.ClosedResourceError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive_some)
            nursery.start_soon(client.send_all, bytes(50_000_000))
            await wait_all_tasks_blocked()
            await client.aclose()
    await server.aclose()


async def test_closing_does_not_wait_for_a_peer_that_reads_nothing(pair, autojump_clock):
    client, server = await shake(*await pair())
    clog(client)
    client._unfinished = False  # as if the last record had just fitted
    before = trio.current_time()
    await client.aclose()
    assert trio.current_time() - before < 5
    await server.aclose()


async def test_last_words_survive_unread_bytes(pair):
    """close() with bytes unread resets the connection; that must not cost the peer our answer."""
    client, server = await shake(*await pair())
    await client.send_all(bytes(100_000))
    await server.wait_send_all_might_not_block()
    await server.send_all(b"no more, please")
    await server.aclose()
    assert await client.receive_some() == b"no more, please"
    await client.aclose()


async def test_the_death_of_one_connection_is_not_anothers(pair):
    """OpenSSL's errors are a thread's, not a connection's."""
    client, server = await shake(*await pair())
    others = await shake(*await pair())
    server.socket.close()

    async def send_for_ever():
        while True:
            await client.send_all(bytes(1000))

    async with trio.open_nursery() as nursery:
        await failure_of(send_for_ever)

        @nursery.start_soon
        async def receive():
            assert await others[0].receive_some() == b"alive"

        await wait_all_tasks_blocked()
        await others[1].send_all(b"alive")
    for stream in (client, *others):
        await stream.aclose()


async def test_no_session_is_resumed(client_files, server_files):
    """Each connection looks at the certificates anew, whatever tickets a client kept."""
    server = server_context(*server_files)
    ours = client_context(*client_files)

    def connect(session):
        """Give the session that the client was offered, and whether the old one was taken up."""
        left, right = socket.socketpair()
        there, here = SSL.Connection(server, left), SSL.Connection(ours, right)
        there.set_accept_state()
        here.set_connect_state()
        if session is not None:
            here.set_session(session)
        left.settimeout(0)
        right.settimeout(0)
        todo = [here, there]
        while todo:
            side = todo.pop(0)
            try:
                side.do_handshake()
            except SSL.WantReadError:
                todo.append(side)
        there.send(b"x")
        here.recv(1)
        session, resumed = here.get_session(), SSL._lib.SSL_session_reused(here._ssl)
        left.close()
        right.close()
        return session, resumed

    session, _ = connect(None)
    assert session is not None
    assert connect(session)[1] == 0


# -- what goes wrong, and what is said of it -----------------------------------------------------


async def plain(client_files, server_files, *, server_name="127.0.0.1", make_client=client_context):
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        sock = trio.socket.socket()
        await sock.connect(listener.getsockname())
        accepted, _ = await listener.accept()
    server = TLSStream(accepted, server_context(*server_files), server_name=None)
    return TLSStream(sock, make_client(*client_files), server_name=server_name), server


async def test_a_client_of_another_ca_is_refused(other_authority, authority, server_files):
    stranger = other_authority.issue("mallory.test")._replace(ca=authority.ca)
    client, server = await both_fail(*await plain(stranger, server_files))
    assert "the client's certificate is not acceptable: it was not issued by the CA" in str(server)
    assert "the server refused our certificate" in str(client)
    assert "unknown ca" in str(client)
    assert isinstance(client, TLSError)


async def test_a_refusal_is_also_learnt_by_who_only_sends(other_authority, authority, server_files):
    stranger = other_authority.issue("mallory.test")._replace(ca=authority.ca)
    client, server = await plain(stranger, server_files)

    async def serve():
        await failure_of(server.do_handshake)
        await server.aclose()

    async def send_for_ever():
        while True:
            await client.send_all(bytes(1000))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        assert "the server refused our certificate" in str(await failure_of(send_for_ever))
    await client.aclose()


async def test_a_server_of_another_ca_is_refused(other_authority, client_files):
    impostor = other_authority.issue("127.0.0.1")
    client, server = await both_fail(*await plain(client_files, impostor))
    assert "the server's certificate is not acceptable: it was not issued by the CA" in str(client)
    assert "the client refused our certificate" in str(server)


async def test_a_client_without_a_certificate_is_refused(client_files, server_files):
    def nameless(_cert, _key, ca):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.load_verify_locations(os.fspath(ca))
        return context

    client, server = await both_fail(*await plain(client_files, server_files, make_client=nameless))
    assert "the client showed no certificate" in str(server)
    assert "certificate required" in str(client)
    assert "shown none" in str(client)


async def test_tls_1_2_is_refused(client_files, server_files):
    def old(cert, key, ca):
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.use_certificate_chain_file(os.fspath(cert))
        context.use_privatekey_file(os.fspath(key))
        context.load_verify_locations(os.fspath(ca))
        return context

    client, server = await both_fail(*await plain(client_files, server_files, make_client=old))
    assert "offers no TLS 1.3" in str(server)
    assert "protocol version" in str(client)


@pytest.mark.parametrize("name", ["127.0.0.2", "::1", "example.org", "münchen.example"])
async def test_a_server_of_another_name_is_refused(client_files, server_files, name):
    client, server = await plain(client_files, server_files, server_name=name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        error = await failure_of(client.do_handshake)
    assert f"does not name {name}" in str(error)
    assert isinstance(error, TLSError)
    # Not one byte goes to it, at the second try neither.
    assert "does not name" in str(await failure_of(lambda: client.send_all(b"secret")))
    await client.aclose()
    await server.aclose()


async def test_a_server_may_be_known_by_its_dns_name(authority, client_files):
    files = authority.issue("localhost")
    await shake(*(streams := await plain(client_files, files, server_name="localhost")))
    for stream in streams:
        await stream.aclose()


async def test_a_name_that_cannot_be_one(client_files):
    with (
        trio.socket.socket() as sock,
        pytest.raises(ValueError, match="cannot be the name of a host"),
    ):
        TLSStream(sock, client_context(*client_files), server_name="ü" * 300)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x94\x00\x00\xa5hello\x80", bytes(5000)]
)
async def test_garbage_instead_of_a_handshake(pair, garbage):
    client, server = await pair()
    await client.socket.send(garbage)
    error = await failure_of(server.do_handshake)
    assert isinstance(error, TLSError)
    assert "is no TLS" in str(error)
    await server.aclose()
    await client.aclose()


async def test_a_peer_that_hangs_up_in_the_handshake(pair):
    client, server = await pair()
    await client.aclose()
    assert "cut off" in str(await failure_of(server.do_handshake))
    await server.aclose()


async def test_a_sender_that_listens_takes_nothing_from_a_receiver_that_waits(pair):
    """What came between the socket's last look and a send is with OpenSSL, not in the socket."""
    client, server = await shake(*await pair())
    received = []

    async def receive():
        received.append(await client.receive_some())

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            server._ssl.send(b"an answer")
            select.select([client.socket.fileno()], [], [])  # it is there, and trio does not know
            await client.send_all(b"a question")
    assert received == [b"an answer"]
    await client.aclose()
    await server.aclose()

"""Certificates and connected TLS streams, all real: trustme's CA, loopback TCP."""

import contextlib
import functools
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trustme

from jobs_proto.connection import Connection
from jobs_rpc.channel import Channel
from jobs_rpc.config import Settings
from jobs_rpc.context import client_context, server_context
from jobs_rpc.tls import TLSStream


class Files(NamedTuple):
    """Where one side's three PEM files are."""

    cert: Path
    key: Path
    ca: Path


class Authority:
    """A CA and the files of what it issued."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.ca = folder / "ca.crt"
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *, common_name: str | None = None) -> Files:
        issued = self._ca.issue_cert(name, common_name=common_name)
        cert, key = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(cert, append=number > 0)
        key.touch(0o600)
        issued.private_key_pem.write_to_path(key)
        return Files(cert, key, self.ca)


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("other-ca"))


@pytest.fixture(scope="session")
def server_files(authority):
    return authority.issue("127.0.0.1")


@pytest.fixture(scope="session")
def client_files(authority):
    return authority.issue("alice.test", common_name="alice")


async def tcp_pair():
    """Connect two sockets over loopback: (client's, server's)."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client = trio.socket.socket()
        await client.connect(listener.getsockname())
        server, _ = await listener.accept()
    return client, server


async def tls_pair(client_files, server_files, *, server_name="127.0.0.1"):
    """Connect two TLS streams, without a handshake: (client's, server's)."""
    client, server = await tcp_pair()
    return (
        TLSStream(client, client_context(*client_files), server_name=server_name),
        TLSStream(server, server_context(*server_files), server_name=None),
    )


@pytest.fixture
def pair(client_files, server_files):
    """Give a maker of connected TLS streams."""
    return functools.partial(tls_pair, client_files, server_files)


class Peer:
    """The supervisor's side of the wire, following a script: one function for each connection.

    The last function serves all further connections too. Each gets the `Channel`.
    """

    def __init__(self, files, *scripts):
        self._files = files
        self._scripts = scripts
        self.accepted = 0
        self.failures = []  # handshakes that failed, and why

    async def serve(self, *, port=0, task_status=trio.TASK_STATUS_IGNORED):
        """Listen; gives the port."""
        with trio.socket.socket() as listener:
            listener.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            await listener.bind(("127.0.0.1", port))
            listener.listen(16)
            async with trio.open_nursery() as nursery:
                task_status.started(listener.getsockname()[1])
                while True:
                    sock, _ = await listener.accept()
                    nursery.start_soon(self._converse, sock)

    async def _converse(self, sock):
        script = self._scripts[min(self.accepted, len(self._scripts) - 1)]
        self.accepted += 1
        stream = TLSStream(sock, server_context(*self._files), server_name=None)
        channel = Channel(stream, Connection())
        try:
            await stream.do_handshake()
            await script(channel)
        except trio.BrokenResourceError as error:
            self.failures.append(str(error))
        finally:
            await stream.aclose()


@pytest.fixture
def peer(server_files, client_files):
    """Give a context manager that runs a `Peer` and gives settings for a client of it."""

    @contextlib.asynccontextmanager
    async def run(*scripts, port=0):
        serving = Peer(server_files, *scripts)
        async with trio.open_nursery() as nursery:
            port = await nursery.start(functools.partial(serving.serve, port=port))
            serving.settings = Settings(
                server=f"127.0.0.1:{port}",
                ca=client_files.ca,
                cert=client_files.cert,
                key=client_files.key,
            )
            with trio.fail_after(30):
                yield serving
            nursery.cancel_scope.cancel()

    return run

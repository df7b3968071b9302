"""The TLS stream of supervisor and client, with nothing behind it: the limit of what follows give.

As a program (`tls_source.py CERT KEY CA`) it listens, prints its port, and to each who connects and
says a number of bytes sends that many, from memory, in portions as large as a follow's.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import harness
import trio

from jobs_rpc.config import load_settings
from jobs_rpc.context import client_context, server_context
from jobs_rpc.tls import RECEIVE_BYTES, TLSStream

PORTION = 256 * 1024
"""What a follower is sent in one chunk: proto/README.md."""


async def serve(*files: str) -> None:
    """Be the program; `files` are certificate, key and CA."""
    context = server_context(*files)
    block = memoryview(bytes(PORTION))

    async def answer(tcp: trio.SocketStream) -> None:
        stream = TLSStream(tcp.socket, context, server_name=None)
        left = int(await stream.receive_some())
        while left:
            await stream.send_all(block[:left])
            left -= min(left, PORTION)
        await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    await trio.serve_listeners(answer, [listener])


class Source:
    """The program, and what it gives.

    Args:
        supervisor: whose certificates are used.
        port: where it listens.
    """

    def __init__(self, supervisor: harness.Supervisor, port: int) -> None:
        settings = load_settings(config=str(supervisor.directory / "config.toml"), context="dev")
        self._context = client_context(settings.cert, settings.key, settings.ca)
        self._port = port

    @classmethod
    @contextlib.contextmanager
    def started(cls, supervisor: harness.Supervisor) -> Iterator[Self]:
        """Have it, and end it."""
        certs = supervisor.certs
        files = [certs / "server.crt", certs / "server.key", certs / "ca.crt"]
        argv = [sys.executable, *map(str, [Path(__file__), *files])]
        environment = {"PYTHONPATH": str(Path(harness.__file__).parent)}
        with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            try:
                yield cls(supervisor, int(process.stdout.readline()))
            finally:
                process.kill()

    async def take(self, count: int) -> float:
        """Take so many bytes; give the seconds that it took."""
        tcp = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with TLSStream(tcp.socket, self._context, server_name="127.0.0.1") as stream:
            await stream.do_handshake()
            start = time.perf_counter()
            await stream.send_all(str(count).encode())
            left = count
            while left and (data := await stream.receive_some(RECEIVE_BYTES)):
                left -= len(data)
            assert not left, f"{left} bytes did not come"
            return time.perf_counter() - start


if __name__ == "__main__":
    trio.run(serve, *sys.argv[1:])

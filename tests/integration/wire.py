"""A client that is none of ours: the standard library's TLS and plain MessagePack-RPC.

It speaks to the supervisor as any language's client could, and can say what ours never would.
"""

import socket
import ssl
from pathlib import Path
from typing import Any, Self

import msgpack

ANSWER_S = 30.0
"""How long the supervisor may take to say or do anything."""


class Wire:
    """One connection.

    Args:
        supervisor: to which.
        name: of the certificate in its `certs`; None: without a certificate.
        certs: another folder to take the certificate from.
        version: the only version of TLS to offer.
        source: the address to come from.
    """

    def __init__(
        self,
        supervisor,
        name: str | None = "admin",
        *,
        certs: Path | None = None,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        source: str = "127.0.0.1",
    ) -> None:
        context = ssl.create_default_context(cafile=supervisor.certs / "ca.crt")
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # what is refused, the supervisor refuses
        context.minimum_version = context.maximum_version = version
        if name is not None:
            folder = certs or supervisor.certs
            context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
        raw = socket.create_connection(
            ("127.0.0.1", supervisor.port), timeout=ANSWER_S, source_address=(source, 0)
        )
        try:
            self.socket = context.wrap_socket(raw, server_hostname="127.0.0.1")
        except BaseException:
            raw.close()
            raise
        # A bound on what we take, so that a supervisor that sends rubbish ends the test.
        self._unpacker = msgpack.Unpacker(max_buffer_size=1 << 26)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def ask(self, method: object, params: object, ident: object = 0) -> None:
        self.send(msgpack.packb([0, ident, method, params]))

    def receive(self) -> Any:
        """Give the next message; None: the supervisor has closed the connection."""
        while True:
            for message in self._unpacker:
                return message
            data = self.socket.recv(65536)
            if not data:
                return None
            self._unpacker.feed(data)

    def call(self, method: object, params: object) -> tuple[Any, Any]:
        """Give the error and the result of a call."""
        self.ask(method, params)
        kind, _ident, error, result = self.receive()
        assert kind == 1
        return error, result

    def last_words(self) -> dict[str, Any]:
        """Give the `error` notification with which the supervisor ends the connection."""
        kind, method, params = self.receive()
        assert (kind, method) == (2, "error")
        assert self.receive() is None
        return params

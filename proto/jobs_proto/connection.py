"""MessagePack-RPC without I/O: bytes in, messages out; for both roles.

Theory. A connection is a pair of byte streams of MessagePack values, each value one message:

    request       [0, id, method, params]
    response      [1, id, error, result]
    notification  [2, method, params]

`Connection` holds what each side may say next. A client may not answer what was never asked, a
server may not respond to an id twice, and an id may not be used again while it is open. Whatever
bytes come in, `receive` gives messages or raises `ProtocolError`, after which nothing more is
accepted: a stream that was once out of step has no way back.

https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgpack

from jobs_proto.errors import JobsError, ProtocolError

MAX_MESSAGE = 8 * 1024 * 1024
"""Bytes in one message; above the kernel's own limit for arguments and environment together."""

MAX_DEPTH = 16
MAX_OPEN = 256
"""Requests that one connection may have open at once."""

REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2


class Request(NamedTuple):
    """The peer asks."""

    id: int
    method: str
    params: dict[str, Any]


class Response(NamedTuple):
    """The peer answers; exactly one of error and result matters."""

    id: int
    error: JobsError | None
    result: Any


class Notification(NamedTuple):
    """The peer tells."""

    method: str
    params: dict[str, Any]


Message = Request | Response | Notification


def pack(value: object) -> bytes:
    """Encode one value; bytes that are no UTF-8 (as Linux arguments may be) survive in text."""
    packed: bytes = msgpack.packb(value, unicode_errors="surrogateescape")
    return packed


def depth_of(value: object) -> int:
    """Count the levels of maps and arrays, without recursion."""
    depth, level = 0, [value]
    while level := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [v for c in level for v in (c.values() if isinstance(c, dict) else c)]
    return depth


class Connection:
    """One end of a connection.

    Args:
        max_message: bytes that one incoming message may have.
        max_open: requests of the peer that may be open at once.
    """

    def __init__(self, *, max_message: int = MAX_MESSAGE, max_open: int = MAX_OPEN) -> None:
        self._max_message: Final = max_message
        self._max_open: Final = max_open
        # One byte more than a message: msgpack refuses a buffer that is exactly full.
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=max_message + 1,
            unicode_errors="surrogateescape",
            strict_map_key=True,
            raw=False,
        )
        self._fed = 0
        self._asked: set[int] = set()  # our requests without a response
        self._owed: set[int] = set()  # the peer's requests that we have not answered
        self._next_id = 0
        self._broken: str | None = None

    @property
    def owed(self) -> int:
        """How many requests of the peer are open."""
        return len(self._owed)

    # -- what we send ------------------------------------------------------------------------

    def request(self, method: str, params: dict[str, object]) -> tuple[int, bytes]:
        """Encode a request; give its id and its bytes."""
        ident = self._next_id
        self._next_id = (ident + 1) % 2**32
        self._asked.add(ident)
        return ident, pack([REQUEST, ident, method, params])

    def respond(self, ident: int, error: JobsError | None, result: object) -> bytes:
        """Encode the one response to an open request of the peer."""
        self._owed.remove(ident)
        return pack([RESPONSE, ident, error.to_wire() if error else None, result])

    @staticmethod
    def notify(method: str, params: dict[str, object]) -> bytes:
        """Encode a notification."""
        return pack([NOTIFICATION, method, params])

    # -- what we receive ---------------------------------------------------------------------

    def receive(self, data: bytes) -> Iterator[Message]:
        """Take bytes in any portions; give each message that is complete.

        Raises:
            ProtocolError: these bytes are no message that may come here. Final.
        """
        if self._broken:
            raise ProtocolError(self._broken)
        try:
            yield from self._receive(data)
        except ProtocolError as error:
            self._broken = str(error)
            raise

    def _receive(self, data: bytes) -> Iterator[Message]:
        view = memoryview(data)
        while view:
            # Never feed more than a full message's worth: the unpacker's bound is then ours.
            room = self._max_message + 1 - (self._fed - self._unpacker.tell())
            portion, view = view[:room], view[room:]
            self._unpacker.feed(portion)
            self._fed += len(portion)
            yield from self._complete_ones()
            if self._fed - self._unpacker.tell() > self._max_message:
                raise ProtocolError(f"a message is larger than {self._max_message} bytes")

    def _complete_ones(self) -> Iterator[Message]:
        while True:
            try:
                value = self._unpacker.unpack()
            except msgpack.OutOfData:
                return
            except (ValueError, msgpack.StackError, msgpack.BufferFull) as error:
                raise ProtocolError(f"this is no MessagePack: {error}") from None
            yield self._read(value)

    def _read(self, value: object) -> Message:
        if depth_of(value) > MAX_DEPTH:
            raise ProtocolError(f"a message is nested deeper than {MAX_DEPTH} levels")
        match value:
            case [int(kind), int(ident), str(method), dict(params)] if kind == REQUEST:
                return self._read_request(ident, method, params)
            case [int(kind), int(ident), error, result] if kind == RESPONSE:
                return self._read_response(ident, error, result)
            case [int(kind), str(method), dict(params)] if kind == NOTIFICATION:
                return Notification(method, _text_keys(params))
        raise ProtocolError(
            "a message must be [0, id, method, params], [1, id, error, result] or "
            "[2, method, params], with params a map"
        )

    def _read_request(self, ident: int, method: str, params: dict[Any, Any]) -> Request:
        if isinstance(ident, bool) or not 0 <= ident < 2**32:
            raise ProtocolError(f"a request's id must be in 0..2**32-1, not {ident}")
        if ident in self._owed:
            raise ProtocolError(f"request id {ident} is still open")
        if len(self._owed) >= self._max_open:
            raise ProtocolError(f"more than {self._max_open} requests are open at once")
        params = _text_keys(params)
        self._owed.add(ident)
        return Request(ident, method, params)

    def _read_response(self, ident: int, error: object, result: object) -> Response:
        if ident not in self._asked:
            raise ProtocolError(f"a response to {ident}, which is not open")
        self._asked.remove(ident)
        return Response(ident, None if error is None else JobsError.from_wire(error), result)


def _text_keys(params: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in params):
        raise ProtocolError("the keys of params must be text")
    return params

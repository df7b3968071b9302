"""MessagePack-RPC without I/O: bytes in, messages out; for both roles.

Theory. A connection is a pair of byte streams of MessagePack values, each value one message:

    request       [0, id, method, params]
    response      [1, id, error, result]
    notification  [2, method, params]

`Connection` holds what each side may say next. A client may not answer what was never asked, a
server may not respond to an id twice, and an id may not be used again while it is open. Whatever
bytes come in, `receive` gives messages or raises `ProtocolError`, after which nothing more is
accepted: a stream that was once out of step has no way back.

Bytes are decoded only as messages are asked for. Who stops in the middle of an iteration loses
nothing: the next one goes on there.

What a peer can make us hold is bounded three ways. A message has so many bytes, counted from its
first one: the unpacker takes values in as they come, so the size of its buffer says nothing about
the size of the message. It has so many maps and arrays, each of which costs us 64 bytes or more
where it cost the peer one. And none of them announces more items than that, since the unpacker
believes the number and sets the room aside.

https://github.com/msgpack-rpc/msgpack-rpc/blob/master/spec.md
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgpack

from jobs_proto.errors import JobsError, ProtocolError

MAX_MESSAGE = 8 * 1024 * 1024
"""Bytes in one message; above the kernel's own limit for arguments and environment together."""

MAX_DEPTH = 16
MAX_ITEMS = 2**18
"""Maps and arrays in one message, and items in one of them."""

READ_SIZE = 16 * 1024
"""Bytes that a connection has room for at first; msgpack would take a megabyte for each."""

MAX_OPEN = 256
"""Requests that one connection may have open at once."""

REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2

_NIL = b"\xc0"
_NO_BYTES = b"\xc4\x00"
_BYTES_32 = b"\xc6"
_CONTAINERS = frozenset({dict, list})

_header = msgpack.Packer()


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


class Packed(bytes):
    """A value that is encoded already: to send it again is to copy it."""

    __slots__ = ()


def pack_list(items: Sequence[Packed]) -> Packed:
    """Encode a list of what is encoded already."""
    return Packed(_header.pack_array_header(len(items)) + b"".join(items))


def pack_map(values: dict[str, Packed]) -> Packed:
    """Encode a map to what is encoded already."""
    parts = (part for key, value in values.items() for part in (pack(key), value))
    return Packed(_header.pack_map_header(len(values)) + b"".join(parts))


def chunk_head(offset: int, stream: str, time: str, size: int) -> bytes:
    """Encode a `chunk` notification up to its data, `size` bytes that have to follow as they are.

    The largest messages of all are thus sent without being copied into one.
    """
    params = {"offset": offset, "stream": stream, "time": time, "data": b""}
    head = pack([NOTIFICATION, "chunk", params]).removesuffix(_NO_BYTES)
    return head + _BYTES_32 + size.to_bytes(4, "big")


def depth_of(value: Any) -> int:
    """Count the levels of maps and arrays in what msgpack decoded, without recursion."""
    depth, level = 0, [value] if type(value) in _CONTAINERS else []
    while level:
        depth += 1
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) in _CONTAINERS
        ]
    return depth


class _Containers:
    """Counts the maps and arrays of one message; apart, so that a connection is in no cycle."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def take(self, container: Any) -> Any:
        self.count += 1
        if self.count > MAX_ITEMS:
            raise ProtocolError(f"a message holds more than {MAX_ITEMS} maps and arrays")
        return container


class Connection:
    """One end of a connection.

    Args:
        max_message: bytes that one incoming message may have.
        max_open: requests of the peer that may be open at once.
    """

    def __init__(self, *, max_message: int = MAX_MESSAGE, max_open: int = MAX_OPEN) -> None:
        self._max_message: Final = max_message
        self._max_open: Final = max_open
        self._containers: Final = _Containers()
        # One byte more than a message: msgpack refuses a buffer that is exactly full.
        self._unpacker = msgpack.Unpacker(
            read_size=min(READ_SIZE, max_message),
            max_buffer_size=max_message + 1,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            unicode_errors="surrogateescape",
            strict_map_key=True,
            raw=False,
            list_hook=self._containers.take,
            object_hook=self._containers.take,
        )
        self._unfed: deque[memoryview] = deque()
        self._fed = 0  # bytes that the unpacker was given, ever
        self._start = 0  # of these, the ones before the message that is being decoded
        self._asked: set[int] = set()  # our requests without a response
        self._owed: set[int] = set()  # the peer's requests that we have not answered
        self._next_id = 0
        self._broken: str | None = None

    @property
    def owed(self) -> int:
        """How many requests of the peer are open."""
        return len(self._owed)

    @property
    def within_message(self) -> bool:
        """Whether bytes came that are no whole message yet."""
        return bool(self._unfed) or self._fed > self._start

    # -- what we send ------------------------------------------------------------------------

    def request(self, method: str, params: dict[str, object]) -> tuple[int, bytes]:
        """Encode a request; give its id and its bytes."""
        ident = self._next_id
        while ident in self._asked:  # after 2**32 requests, one may be open still
            ident = (ident + 1) % 2**32
        packed = pack([REQUEST, ident, method, params])
        self._next_id = (ident + 1) % 2**32
        self._asked.add(ident)
        return ident, packed

    def respond(self, ident: int, error: JobsError | None, result: object) -> bytes:
        """Encode the one response to an open request of the peer; a result may be `Packed`."""
        self._owed.remove(ident)
        if isinstance(result, Packed):
            return pack([RESPONSE, ident, None, None])[: -len(_NIL)] + result
        return pack([RESPONSE, ident, error.to_wire() if error else None, result])

    @staticmethod
    def notify(method: str, params: dict[str, object]) -> bytes:
        """Encode a notification."""
        return pack([NOTIFICATION, method, params])

    # -- what we receive ---------------------------------------------------------------------

    def receive(self, data: bytes) -> Iterator[Message]:
        """Take bytes in any portions; give each message that is complete.

        Args:
            data: is kept until it was decoded, not copied.

        Raises:
            ProtocolError: these bytes are no message that may come here. Final.
        """
        self._unfed.append(memoryview(data))
        return iter(self._next, None)

    def _next(self) -> Message | None:
        if self._broken:
            raise ProtocolError(self._broken)
        try:
            return self._decode()
        except ProtocolError as error:
            self._broken = str(error)
            self._unfed.clear()
            raise

    def _decode(self) -> Message | None:
        while True:
            try:
                value = self._unpacker.unpack()
            except msgpack.OutOfData:
                if not self._feed():
                    return None
            except (ValueError, msgpack.BufferFull) as error:
                why = str(error) or type(error).__name__
                raise ProtocolError(f"this is no MessagePack of ours: {why}") from None
            else:
                return self._read(value)

    def _feed(self) -> bool:
        """Give the unpacker what may still belong to the present message; False: there is none."""
        while self._unfed and not self._unfed[0]:
            self._unfed.popleft()
        if not self._unfed:
            return False
        room = self._start + self._max_message - self._fed
        if room <= 0:
            raise ProtocolError(f"a message is larger than {self._max_message} bytes")
        portion, self._unfed[0] = self._unfed[0][:room], self._unfed[0][room:]
        self._unpacker.feed(portion)
        self._fed += len(portion)
        return True

    def _read(self, value: object) -> Message:
        containers, self._containers.count = self._containers.count, 0
        self._start = self._unpacker.tell()
        # No deeper than it has containers: the usual message is not searched.
        if containers > MAX_DEPTH and depth_of(value) > MAX_DEPTH:
            raise ProtocolError(f"a message is nested deeper than {MAX_DEPTH} levels")
        # To Python, True and 1.0 equal 1.
        if isinstance(value, list) and value and type(value[0]) is int:
            match value:
                case [0, int(ident), str(method), dict(params)]:
                    return self._read_request(ident, method, params)
                case [1, int(ident), error, result]:
                    return self._read_response(ident, error, result)
                case [2, str(method), dict(params)]:
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
        if isinstance(ident, bool) or ident not in self._asked:
            raise ProtocolError(f"a response to {ident}, which is not open")
        self._asked.remove(ident)
        return Response(ident, None if error is None else JobsError.from_wire(error), result)


def _text_keys(params: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in params):
        raise ProtocolError("the keys of params must be text")
    return params

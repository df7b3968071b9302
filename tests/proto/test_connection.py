"""The sans-IO connection: golden bytes, every way to cut a stream up, garbage, limits."""

import json
import tomllib
from itertools import pairwise
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_proto.connection import (
    MAX_DEPTH,
    MAX_ITEMS,
    Connection,
    Notification,
    Packed,
    Request,
    Response,
    chunk_head,
    pack,
    pack_list,
    pack_map,
)
from jobs_proto.errors import JobsError, ProtocolError

VECTORS = tomllib.loads(Path(__file__).with_name("vectors.toml").read_text())["vector"]


def named(vectors):
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def unbin(value):
    """Undo `{"$bytes": …}`."""
    match value:
        case {"$bytes": text}:
            return bytes.fromhex(text)
        case dict():
            return {key: unbin(item) for key, item in value.items()}
        case list():
            return [unbin(item) for item in value]
    return value


def expecting(message):
    """Give a connection to which `message` may come."""
    connection = Connection()
    if message[0] == 1:
        connection._next_id = message[1]
        connection.request("x", {})
    return connection


def as_list(message):
    """Write a message as it is on the wire."""
    match message:
        case Request():
            return [0, *message]
        case Response(ident, error, result):
            return [1, ident, error.to_wire() if error else None, result]
        case Notification():
            return [2, *message]


def encode(message):
    """Have our own side write a message."""
    connection = Connection()
    match message:
        case [0, ident, method, params]:
            connection._next_id = ident
            return connection.request(method, params)[1]
        case [1, ident, error, result]:
            list(connection.receive(pack([0, ident, "x", {}])))
            return connection.respond(ident, error and JobsError.from_wire(error), result)
        case [2, "chunk", {"offset": offset, "stream": stream, "time": time, "data": data}]:
            return chunk_head(offset, stream, time, len(data)) + data
        case [2, method, params]:
            return connection.notify(method, params)


def refusal(data, connection=None):
    """Give what is said to bytes that are refused, and see that this is final."""
    connection = connection or Connection()
    with pytest.raises(ProtocolError) as caught:
        list(connection.receive(data))
    with pytest.raises(ProtocolError) as again:
        list(connection.receive(pack([2, "x", {}])))
    assert str(again.value) == str(caught.value)
    return str(caught.value)


def raw_request(*, ident=1, method="x", params=None):
    return msgpack.packb([0, ident, method, {} if params is None else params])


# -- golden bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", named(VECTORS))
def test_golden_bytes_are_understood(vector):
    message, data = unbin(json.loads(vector["message"])), bytes.fromhex(vector["hex"])
    assert [as_list(m) for m in expecting(message).receive(data)] == [message]


@pytest.mark.parametrize("vector", named(v for v in VECTORS if v.get("exact", True)))
def test_golden_bytes_are_what_we_write(vector):
    assert encode(unbin(json.loads(vector["message"]))) == bytes.fromhex(vector["hex"])


# -- cut up --------------------------------------------------------------------------------------

STREAM = b"".join(raw_request(ident=i, params={"a": "b" * i}) for i in range(20))
WHOLE = list(Connection().receive(STREAM))


def test_byte_by_byte():
    connection = Connection()
    assert [m for i in range(len(STREAM)) for m in connection.receive(STREAM[i : i + 1])] == WHOLE
    assert not connection.within_message


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_any_way_to_cut_a_stream_gives_the_same_messages(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    connection = Connection(max_message=64)
    pieces = [STREAM[a:b] for a, b in pairwise(edges)]
    assert [m for piece in pieces for m in connection.receive(piece)] == WHOLE


def test_trailing_bytes_wait_for_the_rest():
    connection = Connection()
    message = raw_request()
    assert len(list(connection.receive(message + message[:3]))) == 1
    assert connection.within_message
    assert connection.owed == 1


def test_who_stops_in_the_middle_loses_nothing():
    connection = Connection()
    first = next(connection.receive(STREAM[:-3]))
    rest = list(connection.receive(STREAM[-3:]))
    assert [first, *rest] == WHOLE


def test_messages_before_the_fault_are_given():
    connection = Connection()
    messages = connection.receive(raw_request() + b"\xc1" + raw_request(ident=2))
    assert next(messages) == Request(1, "x", {})
    with pytest.raises(ProtocolError):
        next(messages)


# -- garbage -------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(0, 9), inner),
)  # fmt: skip
ALMOST = st.lists(st.integers(-1, 3) | st.text(max_size=2) | VALUES, max_size=5).map(
    lambda value: msgpack.packb(value, unicode_errors="surrogatepass")
)


@given(st.lists(st.binary() | ALMOST, max_size=5))
def test_whatever_comes_is_messages_or_one_final_error(pieces):
    connection = Connection(max_message=1000)
    broken = None
    for piece in pieces:
        try:
            for message in connection.receive(piece):
                assert broken is None
                assert isinstance(message, Request | Response | Notification)
        except ProtocolError as error:
            assert broken in (None, str(error))  # noqa: PT017  it may come, or not
            broken = str(error)


@pytest.mark.parametrize(
    "value",
    [
        5, None, {}, [], [0], [0, 1, "x"], [0, 1, "x", {}, 1], [0, 1, b"x", {}], [0, 1, "x", []],
        [0, "1", "x", {}], [0, 1.0, "x", {}], [False, 1, "x", {}], [0.0, 1, "x", {}],
        [3, 1, "x", {}], [1, 5, None], [True, "x", {}], [2, "x"], [2, 1, {}],
        [2, "x", None], [2.0, "x", {}],
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(value):
    assert refusal(msgpack.packb(value)).startswith("a message must be [0, id")


@pytest.mark.parametrize(
    "data", [b"\xc1", b"\x93" * 2000, b"\x81\xc0\xc0", b"\xdd\xff\xff\xff\xff"]
)
def test_what_is_no_messagepack_is_refused(data):
    why = refusal(data)
    assert why.startswith("this is no MessagePack of ours: ")
    assert not why.endswith(": ")


# -- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ident", [-1, 2**32, True, False])
def test_ids_that_are_none(ident):
    assert "must be in 0..2**32-1" in refusal(raw_request(ident=ident))


def test_an_open_id_cannot_be_used_again_and_a_closed_one_can():
    connection = Connection()
    list(connection.receive(raw_request()))
    connection.respond(1, None, None)
    list(connection.receive(raw_request()))
    assert refusal(raw_request(), connection) == "request id 1 is still open"


def test_so_many_requests_may_be_open_and_no_more():
    connection = Connection(max_open=3)
    for ident in range(3):
        list(connection.receive(raw_request(ident=ident)))
    assert connection.owed == 3
    assert "more than 3 requests" in refusal(raw_request(ident=9), connection)


@pytest.mark.parametrize("ident", [1, -1, False, "0"])
def test_an_answer_to_nothing_is_refused(ident):
    connection = Connection()
    connection.request("x", {})
    refusal(msgpack.packb([1, ident, None, None]), connection)


def test_an_answer_comes_once():
    connection = Connection()
    ident, _ = connection.request("x", {})
    answer = msgpack.packb([1, ident, None, 5])
    assert list(connection.receive(answer)) == [Response(ident, None, 5)]
    assert "not open" in refusal(answer, connection)


def test_our_ids_pass_by_those_that_are_open_still():
    connection = Connection()
    first, _ = connection.request("x", {})
    connection._next_id = 2**32 - 1
    assert connection.request("x", {})[0] == 2**32 - 1
    assert connection.request("x", {})[0] == first + 1


def test_a_request_that_cannot_be_encoded_opens_nothing():
    connection = Connection()
    with pytest.raises(TypeError):
        connection.request("x", {"a": object()})
    assert connection.request("x", {})[0] == 0


def test_only_what_is_open_can_be_answered():
    with pytest.raises(KeyError):
        Connection().respond(1, None, None)


def test_an_error_in_no_known_form_is_still_one():
    connection = Connection()
    ident, _ = connection.request("x", {})
    (response,) = connection.receive(msgpack.packb([1, ident, "oops", None]))
    assert response.error.code == "internal"
    assert "oops" in response.error.message


# -- limits --------------------------------------------------------------------------------------


def sized(size):
    """Make a request of so many bytes."""
    empty = len(raw_request(params={"a": b""}))
    message = raw_request(params={"a": bytes(size - empty - 1)})
    assert len(message) == size
    return message


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_message_has_at_most_so_many_bytes(step):
    def feed(connection, data):
        return [
            m for i in range(0, len(data), step) for m in connection.receive(data[i : i + step])
        ]

    connection = Connection(max_message=300)
    assert len(feed(connection, sized(300) + raw_request(ident=2))) == 2
    with pytest.raises(ProtocolError, match="larger than 300 bytes"):
        feed(Connection(max_message=300), sized(301))


def test_a_message_that_never_ends_is_not_kept():
    """The unpacker takes small values in as they come: its buffer never fills."""
    connection = Connection(max_message=1000)
    list(connection.receive(b"\x93\x02\xa1x\xdd\x00\x03\x00\x00"))
    for _ in range(1000 - 9):
        assert not list(connection.receive(b"\xc0"))
    assert "larger than 1000 bytes" in refusal(b"\xc0", connection)


def test_a_message_is_nested_only_so_deep():
    def nested(levels):
        value = {}
        for _ in range(levels - 2):
            value = [value]
        return {"a": value}

    assert list(Connection().receive(raw_request(params=nested(MAX_DEPTH - 1))))
    assert "deeper than 16 levels" in refusal(raw_request(params=nested(MAX_DEPTH)))


def test_a_message_holds_only_so_many_maps_and_arrays():
    head = b"\x93\x02\xa1x\x81\xa1a\x92"
    half = b"\xdd" + (MAX_ITEMS // 2).to_bytes(4, "big") + b"\x80" * (MAX_ITEMS // 2)
    assert "maps and arrays" in refusal(head + half + half)
    fitting = b"\xdd" + (MAX_ITEMS // 2 - 5).to_bytes(4, "big") + b"\x80" * (MAX_ITEMS // 2 - 5)
    assert list(Connection().receive(head + half + fitting))


@pytest.mark.parametrize("header", [b"\xdd", b"\xdf"], ids=["array", "map"])
def test_announced_items_are_not_believed(header):
    assert "exceeds" in refusal(b"\x93\x02\xa1x" + header + (MAX_ITEMS + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("key", [1, b"a", None, True])
def test_keys_of_params_are_text(key):
    refusal(msgpack.packb([2, "x", {key: 1}]))


def test_text_that_is_no_utf8_survives_both_ways():
    value = {"argv": [b"\xff\xfe/x".decode("utf-8", "surrogateescape")]}
    (request,) = Connection().receive(Connection().request("run", value)[1])
    assert request.params == value


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70_000])
def test_what_is_encoded_already_is_sent_as_if_it_were_not(count):
    items = [{"id": str(number), "text": "\udcff"} for number in range(count)]
    jobs = pack_list([Packed(pack(item)) for item in items])
    packed = pack_map({"jobs": jobs, "complete": Packed(b"\xc3")})
    asked = pack([0, 2**32 - 1, "list", {}])
    answers = []
    for result in (packed, {"jobs": items, "complete": True}):
        connection = Connection()
        (request,) = connection.receive(asked)
        answers.append(connection.respond(request.id, None, result))
    assert answers[0] == answers[1]

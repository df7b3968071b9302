"""What a follow gives, one after the other: chunks, gaps, and at last the end."""

from typing import Any

from attrs import frozen

from jobs_proto.connection import Message, Notification
from jobs_proto.errors import JobsError, ProtocolError
from jobs_proto.job import Exit, Job
from jobs_proto.wire import structure


@frozen
class Chunk:
    """Some output.

    Attributes:
        offset: of its first byte, among all that the job has written.
        stream: `stdout` or `stderr`.
        time: when the job wrote it, or its last byte; ISO 8601, UTC.
        data: the bytes, as they are.
    """

    offset: int
    stream: str
    time: str
    data: bytes


@frozen
class Gap:
    """Output that was dropped, and can never be had.

    Attributes:
        from_: the first byte's offset.
        to: the offset after the last one.
        reason: why.
    """

    from_: int
    to: int
    reason: str


@frozen
class End:
    """There is no more.

    Attributes:
        total: bytes of both streams.
        exit: how the job ended; None if it still runs, and `wait` was false.
        job: as it is now.
    """

    total: int
    exit: Exit | None
    job: Job


Item = Chunk | Gap | End


def read_item(message: Message) -> Item:
    """Make an item of the notification that carried it.

    Raises:
        JobsError: the supervisor says that it cannot go on.
        ProtocolError: it is no such notification.
    """
    match message:
        case Notification("chunk", {"offset": int(offset), "stream": str(stream), **rest}):
            return _chunk(offset, stream, rest)
        case Notification("gap", {"from": int(first), "to": int(past), "reason": str(reason)}):
            return Gap(first, past, reason)
        case Notification("end", params):
            return _end(params)
        case Notification("error", params):
            raise JobsError.from_wire(params)
    raise ProtocolError(f"this is no part of a follow: {message!r:.200}")


def _chunk(offset: int, stream: str, rest: dict[str, Any]) -> Chunk:
    match rest:
        case {"time": str(time), "data": bytes(data)} if stream in {"stdout", "stderr"}:
            return Chunk(offset, stream, time, data)
    raise ProtocolError(f"this is no chunk: stream {stream!r}, {rest!r:.200}")


def _end(params: dict[str, Any]) -> End:
    try:
        return structure(params, End, "end")
    except JobsError as error:
        raise ProtocolError(error.message) from None

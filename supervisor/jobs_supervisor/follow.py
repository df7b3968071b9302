"""`follow`: a job's output to one client, every byte once, in order, from any offset to its end."""

from pathlib import Path
from typing import Protocol

import trio

from jobs_proto.failpoint import failpoint
from jobs_proto.files import STREAM_NAMES
from jobs_proto.job import timestamp
from jobs_proto.methods import Follow
from jobs_proto.wire import unstructure
from jobs_supervisor.live import LiveJob
from jobs_supervisor.output import NO_SPACE, OLDER, UNWRITTEN, OutputReader, Piece, indexed


class Sink(Protocol):
    """Who is told; that it waits for a slow client is all the flow control."""

    async def notify(self, method: str, params: dict[str, object]) -> None:
        """Take one notification."""

    async def chunk(self, offset: int, stream: str, time: str, data: memoryview) -> None:
        """Take one chunk; its data is there until this returns."""


async def follow(live: LiveJob, directory: Path, params: Follow, sink: Sink) -> None:
    """Send chunks, gaps, and the end.

    Args:
        live: the job; a finished one too.
        directory: the job's.
        params: what was asked for.
        sink: the client.
    """
    reader = OutputReader(directory, params.start, merge=not params.timestamps)
    try:
        while True:
            # Looked at before the index: when it has exited, the index is final; and what a full
            # disk keeps from the index is not waited for again until there is more.
            exited, known = live.exited, live.total
            while (piece := reader.next()) is not None:
                await send_piece(reader, piece, params, sink)
            if exited:
                reader.unwritten = NO_SPACE if live.job.output.lost else UNWRITTEN
                while (piece := reader.rest(live.total)) is not None:
                    await send_piece(reader, piece, params, sink)
                break
            if not params.wait:
                break
            await live.more_than(max(reader.offset, known))
    finally:
        reader.close()
    job = unstructure(live.job)
    # What was sent is what is counted: the index may have grown since.
    total = live.total if exited else min(reader.offset, indexed(directory))
    exit_ = job["exit"] if exited else None
    failpoint("follow.before-end")
    await sink.notify("end", {"total": total, "exit": exit_, "job": job})


async def send_piece(reader: OutputReader, piece: Piece, params: Follow, sink: Sink) -> None:
    """Send what is there of a piece, and what is not as gaps, if it is of what was asked for."""
    name = STREAM_NAMES.get(piece.stream)  # None: bytes of both, which were dropped together
    if None not in (params.stream, name) and params.stream != name:
        await trio.lowlevel.checkpoint()  # there may be millions of them, and others are waiting
        return
    if piece.gap is not None:
        await _send_gap(piece.start, piece.end, piece.gap, sink)
        return
    assert name is not None
    start, data = piece.start, await reader.data(piece)
    given_up = reader.overtaken(piece)  # looked at after the bytes were read: what is left is right
    if given_up is not None:
        await _send_gap(given_up.start, given_up.end, OLDER, sink)
        data = data[given_up.end - start :]
        start = given_up.end
    failpoint("follow.before-chunk")
    if data:
        await sink.chunk(start, name, timestamp(piece.time_ns), data)
    if start + len(data) < piece.end:
        await _send_gap(start + len(data), piece.end, reader.unwritten, sink)


async def _send_gap(start: int, end: int, reason: str, sink: Sink) -> None:
    await sink.notify("gap", {"from": start, "to": end, "reason": reason})

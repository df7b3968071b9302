"""`follow`: a job's output to one client, every byte once, in order, from any offset to its end."""

from pathlib import Path
from typing import Protocol

from jobs_proto.failpoint import failpoint
from jobs_proto.files import STREAM_NAMES
from jobs_proto.job import timestamp
from jobs_proto.methods import Follow
from jobs_proto.wire import unstructure
from jobs_supervisor.live import LiveJob
from jobs_supervisor.output import OutputReader, Piece, indexed

NO_SPACE = "no space to keep it"
HOST_WENT_DOWN = "the host went down before it was on the disk"
"""Why bytes are missing."""


class Sink(Protocol):
    """Who is told; that it waits for a slow client is all the flow control."""

    async def notify(self, method: str, params: dict[str, object]) -> None:
        """Take one notification."""

    async def chunk(self, offset: int, stream: str, time: str, data: bytes | bytearray) -> None:
        """Take one chunk."""


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
            short = NO_SPACE if live.job.output.lost else HOST_WENT_DOWN
            while (piece := reader.next()) is not None:
                await _send(reader, piece, params, sink, short)
            if exited:
                while (piece := reader.rest(live.total)) is not None:
                    await _send(reader, piece, params, sink, short)
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


async def _send(reader: OutputReader, piece: Piece, params: Follow, sink: Sink, short: str) -> None:
    name = STREAM_NAMES[piece.stream]
    if params.stream is not None and params.stream != name:
        return
    if piece.gap:
        await sink.notify("gap", {"from": piece.start, "to": piece.end, "reason": NO_SPACE})
        return
    data = await reader.data(piece)
    failpoint("follow.before-chunk")
    if data:
        await sink.chunk(piece.start, name, timestamp(piece.time_ns), data)
    missing = piece.start + len(data)
    if missing < piece.end:
        await sink.notify("gap", {"from": missing, "to": piece.end, "reason": short})

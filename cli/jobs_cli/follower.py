"""A job's output on its way to our own standard output and error.

Theory. Each chunk is written to the descriptor of its stream before the next one is asked for: a
slow reader of ours thereby slows the connection (TCP's flow control), and nothing is held in
memory. What is not output (gaps, notices) goes to standard error, so that standard output is the
job's, byte for byte.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from jobs_cli import output
from jobs_cli.endpoint import Endpoint
from jobs_cli.failure import INTERRUPTED, OURS, REFUSED, StdoutClosed, checking_usage
from jobs_cli.session import ask
from jobs_cli.verdict import verdict
from jobs_proto import methods
from jobs_proto.job import exit_status

if TYPE_CHECKING:
    from jobs_rpc import Chunk, Client, End, Gap

_FD: Final = {"stdout": output.STDOUT, "stderr": output.STDERR}


class Stamper:
    """Puts the time before each line, whatever the bytes are and wherever chunks are cut.

    A line bears the time at which its first byte was read from the job. Streams are told apart: a
    line of one that another interrupts still has one stamp.
    """

    def __init__(self) -> None:
        self._within_line: set[str] = set()

    def stamp(self, stream: str, time: str, data: bytes) -> bytes:
        """Give the bytes to write for a chunk."""
        if not data:
            return data
        mark = time.encode() + b" "
        head = b"" if stream in self._within_line else mark
        body, newline = (data[:-1], b"\n") if data.endswith(b"\n") else (data, b"")
        (self._within_line.discard if newline else self._within_line.add)(stream)
        return head + body.replace(b"\n", b"\n" + mark) + newline


def as_it_is(_stream: str, _time: str, data: bytes) -> bytes:
    """Give the bytes to write for a chunk: its own."""
    return data


def follow_job(endpoint: Endpoint, wanted: methods.Follow) -> int:
    """Show a job's output until it has ended; give its exit status.

    Args:
        endpoint: whom to ask, as whom.
        wanted: the job and what of its output. Without `wait`: what there is now, and status 0.

    Raises:
        Failure: there is no such job, or its output could not be had.
        StdoutClosed: nobody reads our output any more.
    """
    ours = OURS if wanted.wait else REFUSED
    try:
        end = ask(
            endpoint,
            lambda client: _show_while_read(client, wanted),
            ours=ours,
            jobs_stderr=True,
        )
    except KeyboardInterrupt:
        if wanted.wait:
            output.say(
                f"no longer following: job {wanted.id} goes on; jobsctl kill {wanted.id} ends it"
            )
        return INTERRUPTED
    if not wanted.wait:
        return 0
    if sentence := verdict(end.job):
        output.say(sentence)
    return exit_status(end.job)


async def _show_while_read(client: "Client", wanted: methods.Follow) -> "End":
    import trio

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch_reader)
        end = await _show(client, wanted)
        nursery.cancel_scope.cancel()
    return end


async def _watch_reader() -> None:
    """Notice that the reader of a pipe has gone, though the job may be silent for hours.

    The writing end of a pipe is never readable, but its error, having no reader, wakes whoever
    waits for that. (Waiting until it is writable would end at once.)

    Raises:
        StdoutClosed: it has.
    """
    from trio.lowlevel import wait_readable

    if output.is_pipe(output.STDOUT):
        await wait_readable(output.STDOUT)
        raise StdoutClosed


async def _show(client: "Client", wanted: methods.Follow) -> "End":
    from jobs_rpc import Chunk, End, Gap

    prepare = Stamper().stamp if wanted.timestamps else as_it_is
    items = client.follow(
        wanted.id,
        start=wanted.start,
        stream=wanted.stream,
        wait=wanted.wait,
        timestamps=wanted.timestamps,
    )
    async for item in items:
        match item:
            case Chunk():
                _write(item, prepare)
            case Gap():
                _tell(item)
            case End():
                return item
    raise AssertionError("the client's follow ends with End or raises")


def _write(chunk: "Chunk", prepare: Callable[[str, str, bytes], bytes]) -> None:
    output.write_bytes(_FD[chunk.stream], prepare(chunk.stream, chunk.time, chunk.data))


def _tell(gap: "Gap") -> None:
    output.say(f"bytes {gap.from_} to {gap.to} of the output are missing: {gap.reason}")


def wanted_output(
    id: str,  # noqa: A002  the RPC's name
    *,
    start: int = 0,
    stdout: bool = False,
    stderr: bool = False,
    timestamps: bool = False,
    wait: bool = True,
) -> methods.Follow:
    """Make the request of the options that `follow` and `logs` share.

    Raises:
        Failure: the offset is none.
    """
    stream = None if stdout == stderr else "stdout" if stdout else "stderr"
    with checking_usage():
        return methods.Follow(id=id, start=start, stream=stream, wait=wait, timestamps=timestamps)

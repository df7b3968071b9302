"""Messages on a stream: the thin asynchronous edge around `jobs_proto.connection.Connection`.

The supervisor and the client both stand on this. It starts no tasks: one task receives; any number
send, each message whole.
"""

from math import inf
from typing import TYPE_CHECKING, Final

import trio

from jobs_proto.connection import Connection, Message
from jobs_proto.errors import ProtocolError
from jobs_rpc.slots import Slots
from jobs_rpc.tls import RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator


class Channel:
    """One connection's messages.

    Args:
        stream: connected; a `TLSStream`, but any `trio.abc.Stream` does.
        connection: this side's protocol state; fresh.
    """

    def __init__(self, stream: trio.abc.Stream, connection: Connection) -> None:
        self.stream: Final = stream
        self.connection: Final = connection
        self._messages: Iterator[Message] = iter(())
        self._sending: Final = Slots(1)
        self._torn = False
        self._begun = inf  # when the message that is coming in began

    @property
    def torn(self) -> bool:
        """A message is partly sent, perhaps for ever: its sender is at it, failed or cancelled."""
        return self._torn

    async def receive(self, *, whole_within: float = inf) -> Message | None:
        """Give the next message; None: the peer has closed the connection, between messages.

        Cancelling this loses nothing.

        Args:
            whole_within: seconds that may pass from a message's first byte to its last.

        Raises:
            ProtocolError: the peer's bytes are no message that may come here, or come too slowly.
            trio.BrokenResourceError: the connection was lost.
            trio.ClosedResourceError: it was closed here.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        received = False
        while True:
            for message in self._messages:
                if not received:  # else there has been a checkpoint
                    await trio.lowlevel.cancel_shielded_checkpoint()
                self._begun = trio.current_time()
                return message
            data = await self._receive_some(whole_within)
            received = True
            if not data:
                if self.connection.within_message:
                    raise trio.BrokenResourceError("the connection ended in mid-message")
                return None
            self._messages = self.connection.receive(bytes(data))

    async def _receive_some(self, whole_within: float) -> bytes | bytearray:
        if not self.connection.within_message:
            data = await self.stream.receive_some()
            self._begun = trio.current_time()
            return data
        with trio.move_on_at(self._begun + whole_within):
            return await self.stream.receive_some()
        raise ProtocolError(f"a message did not come whole within {whole_within:g} s")

    async def send(self, *parts: bytes | memoryview) -> None:
        """Send one message, given whole or in parts that follow one another.

        Large parts go out as they are, without being copied together. If this fails or is
        cancelled, nothing more can be sent.

        Raises:
            trio.BrokenResourceError: the connection was lost, or a message was torn before.
            trio.ClosedResourceError: it was closed here.
        """
        async with self._sending:
            if self._torn:
                raise trio.BrokenResourceError("an earlier message was torn in the middle")
            self._torn = True
            if sum(map(len, parts)) <= RECORD_BYTES:
                parts = (b"".join(parts),)
            for part in parts:
                await self.stream.send_all(part)
            self._torn = False

    async def aclose(self) -> None:
        """Close the connection."""
        await self.stream.aclose()

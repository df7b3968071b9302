"""One follow: a job's output, exactly, over as many connections as it takes.

Theory. All that is remembered is an offset: every byte before it was given to the caller, no byte
from it on was. A connection that is lost takes nothing with it; the next one asks from there. What
comes must begin exactly there, or the server is wrong, and that is an error: bytes that are
silently missing or doubled are worse than none. (Of one stream only, offsets jump over the other's
bytes; they still never go back.)

An iterator object and not an async generator: it can be cancelled and asked again, and has
nothing open once its last item was given.
"""

from collections.abc import Callable
from typing import Final, Self

import trio
from attrs import evolve

from jobs_proto.connection import Message, Notification, Response
from jobs_proto.errors import JobsError, ProtocolError
from jobs_proto.methods import Follow
from jobs_proto.wire import unstructure
from jobs_rpc.channel import Channel
from jobs_rpc.dialer import Dialer
from jobs_rpc.errors import LostError
from jobs_rpc.output import Chunk, End, Gap, Item, read_item
from jobs_rpc.patience import Patience

ANSWER_S: Final = 60.0
"""How long the supervisor may take to answer a request that does not itself wait."""


class Following:
    """Gives `Chunk`s and `Gap`s, and at last one `End`. One task at a time.

    Args:
        dialer: for connections of its own.
        wanted: what to follow, from where.
        reconnect_s: seconds to go on trying without any success.
        told: called with the reason when a connection is lost.

    Raises:
        JobsError: (while iterating) refused, or lost for longer than `reconnect_s`.
        PeerError: (likewise) what came is not what comes next.
    """

    def __init__(
        self,
        dialer: Dialer,
        wanted: Follow,
        reconnect_s: float,
        told: Callable[[Exception], None] | None = None,
    ) -> None:
        self._dialer: Final = dialer
        self._wanted = wanted
        self._offset = wanted.start
        self._patience: Final = Patience(reconnect_s, told)
        self._channel: Channel | None = None
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        while not self._over:
            try:
                return await self._next()
            except JobsError as error:
                await self._hang_up()
                if not self._dialer.worth_retrying(error):
                    self._over = True
                    raise
                await self._patience.pause(error)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End it early. Not needed after the last item, nor at the end of its `Client`."""
        self._over = True
        await self._hang_up()

    async def _next(self) -> Item:
        if self._channel is None:
            self._channel = await self._connect()
        try:
            item = read_item(await self._receive(self._channel))
            self._advance(item)
        except ProtocolError as error:
            raise self._dialer.explain(error) from None
        self._patience.succeeded()
        if isinstance(item, End):
            self._over = True
            await self._hang_up()
        return item

    async def _connect(self) -> Channel:
        channel = await self._dialer.dial()
        try:
            with trio.fail_after(ANSWER_S):
                await self._ask(channel)
        except trio.TooSlowError:
            await self._dialer.hang_up(channel)
            raise LostError(
                "unavailable", f"the supervisor did not answer `follow` in {ANSWER_S:g} s"
            ) from None
        except BaseException:
            await self._dialer.hang_up(channel)
            raise
        return channel

    async def _ask(self, channel: Channel) -> None:
        params = unstructure(evolve(self._wanted, start=self._offset))
        _, request = channel.connection.request("follow", params)
        try:
            await channel.send(request)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._dialer.explain(error) from None
        match await self._receive(channel):
            case Response(_, None, {"id": str(ident)}):
                # A name or a prefix may be another job's too by the time of the next connection.
                self._wanted = evolve(self._wanted, id=ident)
            case Response(_, JobsError() as refusal, _):
                raise refusal
            case Notification("error", params):
                raise JobsError.from_wire(params)
            case other:
                wrong = ProtocolError(f"this is no answer to a follow: {other!r:.200}")
                raise self._dialer.explain(wrong)

    async def _receive(self, channel: Channel) -> Message:
        try:
            message = await channel.receive()
        except (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError) as error:
            raise self._dialer.explain(error) from None
        if message is None:
            raise LostError("unavailable", "the supervisor closed the connection")
        return message

    def _advance(self, item: Item) -> None:
        match item:
            case Chunk(offset=first, data=data):
                self._move(first, first + len(data))
            case Gap(from_=first, to=past):
                self._move(first, past)
            case End(total=total):
                self._check_total(total)

    def _move(self, first: int, past: int) -> None:
        exact = self._wanted.stream is None
        if first < self._offset or (exact and first > self._offset) or past < first:
            raise ProtocolError(
                f"output must go on at byte {self._offset}, and bytes {first} to {past} came"
            )
        self._offset = past

    def _check_total(self, total: int) -> None:
        # Somebody may ask from beyond the end, and rightly gets nothing.
        expected = self._offset > self._wanted.start or total > self._offset
        if self._wanted.stream is None and expected and total != self._offset:
            raise ProtocolError(f"the output ends at byte {total}, but came up to {self._offset}")

    async def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await self._dialer.hang_up(channel)

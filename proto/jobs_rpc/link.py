"""Many calls at once on one connection."""

from typing import Any, Final

import trio
from attrs import define, field

from jobs_proto.connection import MAX_MESSAGE, MAX_OPEN, Message, Notification, Response
from jobs_proto.errors import JobsError, ProtocolError
from jobs_rpc.channel import Channel
from jobs_rpc.dialer import Dialer
from jobs_rpc.errors import LostError, same_again

_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


@define
class _Answer:
    """What a call waits for."""

    arrived: trio.Event = field(factory=trio.Event)
    error: JobsError | None = None
    result: Any = None

    def give(self, error: JobsError | None, result: object) -> None:
        self.error, self.result = error, result
        self.arrived.set()


class Link:
    """A connection that is used for calls; `read` has to run beside them.

    Args:
        channel: fresh from the dialer.
        dialer: to whom it goes back.
    """

    def __init__(self, channel: Channel, dialer: Dialer) -> None:
        self._channel: Final = channel
        self._dialer: Final = dialer
        self._slots: Final = trio.Semaphore(MAX_OPEN)
        self._calls: Final[dict[int, _Answer]] = {}
        self._lost: JobsError | None = None
        self._retired = False

    @property
    def usable(self) -> bool:
        """Whether new calls may go this way."""
        return self._lost is None and not self._retired

    async def read(self) -> None:
        """Bring each answer to its call, until the connection ends. Raises nothing of its own."""
        try:
            while message := await self._channel.receive():
                self._deliver(message)
            raise LostError("unavailable", "the supervisor closed the connection")
        except (*_LOST, ProtocolError, JobsError) as error:
            self._lose(self._dialer.explain(error))
        finally:
            await self._dialer.hang_up(self._channel)

    def _deliver(self, message: Message) -> None:
        match message:
            case Response(ident, error, result):
                # Out of the way at once: the connection may end before the caller has run. It is
                # not there if the caller was cancelled.
                if answer := self._calls.pop(ident, None):
                    answer.give(error, result)
            case Notification("error", params):
                raise JobsError.from_wire(params)
            case _:
                raise ProtocolError(f"a message that no call asked for: {message[:2]!r}")

    def _lose(self, error: JobsError) -> None:
        self._lost = error
        for answer in self._calls.values():
            answer.give(same_again(error), None)

    async def call(self, method: str, params: dict[str, object], answer_s: float) -> Any:
        """Ask, and wait for the answer.

        Args:
            method: its name.
            params: its parameters.
            answer_s: seconds to wait for the answer.

        Raises:
            JobsError: the supervisor's refusal; or it was lost, or did not answer in time.
        """
        async with self._slots:
            if self._lost is not None:
                raise same_again(self._lost)
            ident, request = self._encode(method, params)
            answer = self._calls[ident] = _Answer()
            try:
                with trio.fail_after(answer_s):
                    await self._ask(request)
                    await answer.arrived.wait()
            except trio.TooSlowError:
                raise LostError(
                    "unavailable", f"the supervisor did not answer `{method}` in {answer_s:g} s"
                ) from None
            finally:
                self._calls.pop(ident, None)
                await self._retire_if_torn()
        if answer.error is not None:
            raise answer.error
        return answer.result

    def _encode(self, method: str, params: dict[str, object]) -> tuple[int, bytes]:
        try:
            ident, request = self._channel.connection.request(method, params)
        except (TypeError, ValueError, OverflowError) as error:
            raise JobsError(
                "invalid_argument", f"params of {method} hold what cannot be sent: {error}"
            ) from None
        if len(request) > MAX_MESSAGE:
            raise JobsError(
                "invalid_argument", f"a request has at most {MAX_MESSAGE} bytes, not {len(request)}"
            )
        return ident, request

    async def _ask(self, request: bytes) -> None:
        try:
            await self._channel.send(request)
        except _LOST as error:
            # If the reader was first, it knows why; here, it was only closed.
            raise same_again(self._lost or self._dialer.explain(error)) from None

    async def _retire_if_torn(self) -> None:
        """After a request that was cut in the middle: others may still get their answers here."""
        self._retired = self._retired or self._channel.torn
        if self._retired and not self._calls:
            await self._dialer.hang_up(self._channel)

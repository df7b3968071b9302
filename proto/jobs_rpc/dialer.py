"""New connections to one supervisor, and why there is none, in words."""

import socket
from typing import Final

import trio

from jobs_proto.connection import Connection
from jobs_proto.errors import JobsError, ProtocolError
from jobs_rpc.channel import Channel
from jobs_rpc.config import Settings
from jobs_rpc.context import client_context
from jobs_rpc.errors import LostError, PeerError, UntrustedError, may_pass
from jobs_rpc.tls import TLSError, TLSStream

CONNECT_S: Final = 10.0
"""For name look-up, connecting and the handshake together."""

ANSWER_BYTES: Final = 64 * 1024 * 1024
"""The largest answer; a list of jobs may be larger than any request."""

_FAILURES: Final = (
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    ProtocolError,
    OSError,
)


class Dialer:
    """Makes connections; knows those that are open, and whether there ever was one.

    Args:
        settings: whom to connect to, and as whom. The files are read for each connection, so that
            a certificate may be renewed meanwhile.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings: Final = settings
        self._open: Final[set[Channel]] = set()
        self._reached = False

    def worth_retrying(self, error: JobsError) -> bool:
        """Whether to try again after `error`.

        Only who has answered once is waited for: a first failure is more likely a wrong address.
        """
        return self._reached and may_pass(error)

    async def dial(self) -> Channel:
        """Connect.

        Raises:
            LostError: it cannot be reached now.
            UntrustedError: one side does not accept the other.
            JobsError: our own files are not as they must be.
        """
        settings = self._settings
        context = client_context(settings.cert, settings.key, settings.ca)
        try:
            with trio.fail_after(CONNECT_S):
                tcp = await trio.open_tcp_stream(settings.host, settings.port)
                stream = TLSStream(tcp.socket, context, server_name=settings.host)
                await _shake(stream)
        except (*_FAILURES, ValueError) as error:
            raise self.explain(error) from None
        self._reached = True
        channel = Channel(stream, Connection(max_message=ANSWER_BYTES))
        self._open.add(channel)
        return channel

    async def hang_up(self, channel: Channel) -> None:
        """Close a connection, without waiting for anything."""
        self._open.discard(channel)
        await trio.aclose_forcefully(channel.stream)

    async def hang_up_all(self) -> None:
        """Close every connection."""
        for channel in tuple(self._open):
            await self.hang_up(channel)

    def explain(self, error: Exception) -> JobsError:
        """Make the user's error of whatever ended a connection."""
        server = self._settings.server
        if isinstance(error, JobsError):
            return error
        if isinstance(error, ProtocolError):
            return PeerError("internal", f"{server} broke the protocol: {error}")
        kind = UntrustedError if isinstance(error, TLSError) else LostError
        return kind("unavailable", f"{server}: {_reason(error)}")


async def _shake(stream: TLSStream) -> None:
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


def _reason(error: BaseException) -> str:
    # trio's "all attempts failed" has the cause below it; or one for each of the host's addresses.
    while cause := error.exceptions[-1] if isinstance(error, ExceptionGroup) else error.__cause__:
        error = cause
    match error:
        case trio.TooSlowError():
            return f"no answer within {CONNECT_S:g} s"
        case socket.gaierror():
            return f"no such host is known ({error.strerror})"
        case ConnectionRefusedError():
            return "connection refused; is the supervisor running there?"
        case OSError():
            return error.strerror or str(error)
    return str(error)

"""Listening, and one client's connection from its handshake to its end.

Whatever a client does, it is its own connection that ends: a handshake that never comes, bytes that
are no protocol, a message that is too large, silence. Each wait on it has a deadline with a name.
"""

from contextlib import nullcontext
from functools import partial

import structlog
import trio
from OpenSSL import SSL

from jobs_certs import CertsError, describe
from jobs_plugins.plugins import Plugins
from jobs_proto.connection import Connection, Notification, Request, chunk_head
from jobs_proto.errors import JobsError, ProtocolError
from jobs_proto.identity import Identity
from jobs_proto.methods import METHODS
from jobs_rpc.channel import Channel
from jobs_rpc.tls import TLSStream
from jobs_supervisor.config import ServerSettings
from jobs_supervisor.dispatch import Call, Dispatcher
from jobs_supervisor.follow import follow
from jobs_supervisor.jobs import Jobs

GOODBYE_S = 5.0
"""How long a client has to take the last words that we say to it."""

log = structlog.get_logger()


class Server:
    """Serves clients.

    Args:
        settings: limits and deadlines.
        context: TLS, with our certificate.
        plugins: for identities.
        dispatcher: for requests.
        jobs: for output.
    """

    def __init__(
        self,
        *,
        settings: ServerSettings,
        context: SSL.Context,
        plugins: Plugins,
        dispatcher: Dispatcher,
        jobs: Jobs,
    ) -> None:
        self.settings = settings
        self._context = context
        self._plugins = plugins
        self.dispatcher = dispatcher
        self.jobs = jobs
        self._working = 0
        self._rested = trio.Event()
        self._connections = 0

    async def serve(self, listeners: list[trio.SocketListener], stop: trio.Event) -> None:
        """Serve everybody who connects until `stop`; then drain.

        Draining: nobody new; requests that are being answered are finished, within `drain_s`; those
        that wait for a job, and followers, are cut off, and come back to the next supervisor.
        """
        async with trio.open_nursery() as connections, trio.open_nursery() as listening:
            listening.start_soon(
                partial(
                    trio.serve_listeners, self._serve_socket, listeners, handler_nursery=connections
                )
            )
            await stop.wait()
            listening.cancel_scope.cancel()
            with trio.move_on_after(self.settings.drain_s):
                while self._working:
                    await self._rested.wait()
            connections.cancel_scope.cancel()

    def start_work(self) -> None:
        """Count a request that is being answered."""
        self._working += 1

    def end_work(self) -> None:
        """Count it off."""
        self._working -= 1
        self._rested.set()
        self._rested = trio.Event()

    async def _serve_socket(self, raw: trio.SocketStream) -> None:
        if self._connections >= self.settings.max_connections:
            log.warning("a connection was refused: there are max_connections already")
            await trio.aclose_forcefully(raw)
            return
        self._connections += 1
        stream = TLSStream(raw.socket, self._context, server_name=None)
        try:
            await self._serve_stream(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.info("a connection ended", why=str(error))
        except Exception:
            log.exception("a connection failed")  # ours: the client is cut off, the rest goes on
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_stream(self, stream: TLSStream) -> None:
        try:
            with trio.fail_after(self.settings.handshake_s):
                await stream.do_handshake()
        except trio.TooSlowError:
            log.info("a client did not finish its handshake in time")
            return
        connection = Connection(max_message=self.settings.max_message)
        client = Client(self, Channel(stream, connection))
        try:
            client.identity = await self._plugins.identify(describe(stream.peer_certificate))
        except (JobsError, CertsError) as error:
            if error.__cause__ is not None:
                log.exception("a plugin failed to identify a client", exc_info=error.__cause__)
            message = (
                error
                if isinstance(error, JobsError)
                else JobsError("permission_denied", f"your certificate cannot be used: {error}")
            )
            await client.last_words(message)
            return
        await client.serve()


class Client:
    """One client's connection.

    Args:
        server: whose it is.
        channel: to the client.
    """

    identity: Identity

    def __init__(self, server: Server, channel: Channel) -> None:
        self._server = server
        self._channel = channel
        self._busy = 0
        self._listing = trio.Lock()  # many lists that nobody reads would be much memory

    async def last_words(self, error: JobsError) -> None:
        """Tell the client why its connection ends, if it listens."""
        with trio.move_on_after(GOODBYE_S):
            await self._channel.send(Connection.notify("error", error.to_wire()))
            await self._channel.aclose()

    async def serve(self) -> None:
        """Answer requests until the client goes, breaks the protocol or falls silent."""
        try:
            async with trio.open_nursery() as nursery:
                while (request := await self._next_request()) is not None:
                    await self._take(request, nursery)
                nursery.cancel_scope.cancel()
        except* ProtocolError as group:
            why = str(_first(group))
            log.info("a client broke the protocol", who=self.identity.name, why=why)
            await self.last_words(JobsError("invalid_argument", why))
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it went while we were answering

    async def _next_request(self) -> Request | None:
        while True:
            with trio.move_on_after(self._server.settings.idle_s) as idle:
                message = await self._channel.receive()
            if idle.cancelled_caught:
                if self._busy:
                    continue  # it waits for an answer, as it may
                await self.last_words(JobsError("unavailable", "you asked nothing for too long"))
                return None
            if message is None or isinstance(message, Request):
                return message
            if isinstance(message, Notification):
                raise ProtocolError("a client sends requests only")

    async def _take(self, request: Request, nursery: trio.Nursery) -> None:
        method = METHODS.get(request.method)
        if method is not None and method.takes_over:
            if self._busy:
                raise ProtocolError(f"{request.method} needs a connection with nothing else on it")
            await self._take_over(request)
        else:
            self._busy += 1
            nursery.start_soon(self._answer, request)

    async def _answer(self, request: Request) -> None:
        waits = request.method == "wait"
        if not waits:
            self._server.start_work()
        try:
            async with self._listing if request.method == "list" else nullcontext():
                await self._decide_and_answer(request)
        finally:
            self._busy -= 1
            if not waits:
                self._server.end_work()

    async def _decide_and_answer(self, request: Request) -> Call | None:
        """Send the one response; give the call if it was allowed and answered."""
        call, error, result = None, None, None
        try:
            call = await self._server.dispatcher.ask(self.identity, request.method, request.params)
            result = await self._server.dispatcher.answer(call)
        except JobsError as refusal:
            error = refusal
        except Exception:
            log.exception("a request failed", method=request.method, who=self.identity.name)
            error = JobsError("internal", f"{request.method} failed; the supervisor's log says why")
        await self._channel.send(self._channel.connection.respond(request.id, error, result))
        return None if error else call

    async def _take_over(self, request: Request) -> None:
        call = await self._decide_and_answer(request)
        if call is None:
            return
        directory = self._server.jobs.directory(call.target.job.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_gone, nursery.cancel_scope)
            await follow(call.target, directory, call.params, self)
            nursery.cancel_scope.cancel()

    async def _until_gone(self, scope: trio.CancelScope) -> None:
        """A follower says nothing; that it has gone must be noticed while the job is silent too."""
        if await self._channel.receive() is not None:
            raise ProtocolError("this connection is taken over until the `end` notification")
        scope.cancel()

    async def notify(self, method: str, params: dict[str, object]) -> None:
        """Send one notification."""
        await self._channel.send(Connection.notify(method, params))

    async def chunk(self, offset: int, stream: str, time: str, data: bytes | bytearray) -> None:
        """Send one `chunk` notification, without copying its data."""
        head = chunk_head(offset, stream, time, len(data))
        await self._channel.send(head, memoryview(data))


def _first(error: BaseException) -> BaseException:
    """Give one exception of a group, which a nursery within a nursery nests."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

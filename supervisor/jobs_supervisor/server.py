"""Listening, and one client's connection from its handshake to its end.

Whatever a client does, it is its own connection that ends: a handshake that never comes, bytes that
are no protocol, a message that is too large, silence. Each wait on it has a deadline with a name.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial

import structlog
import trio
from cryptography import x509

from jobs_certs import CertsError, describe
from jobs_plugins.plugins import Plugins
from jobs_plugins.policy import Policy
from jobs_plugins.roles import Roles
from jobs_proto.connection import Connection, Notification, Request, chunk_head
from jobs_proto.errors import JobsError, ProtocolError
from jobs_proto.identity import Identity
from jobs_proto.methods import METHODS
from jobs_rpc.channel import Channel
from jobs_rpc.slots import Slots
from jobs_rpc.tls import TLSStream
from jobs_supervisor.access import Access
from jobs_supervisor.audit import Audit
from jobs_supervisor.config import ServerSettings
from jobs_supervisor.dispatch import Call, Dispatcher
from jobs_supervisor.follow import follow
from jobs_supervisor.handshakes import Door, Handshake, Handshakes, Turn, peer_of
from jobs_supervisor.jobs import Jobs
from jobs_supervisor.presence import Presence
from jobs_supervisor.quotas import Quotas
from jobs_supervisor.shortage import set_up_accept_log, shortage

GOODBYE_S = 5.0
"""How long a client has to take the last words that we say to it."""

AT_ONCE = 16
"""Requests of one connection that are carried out, and answered, at once; no other one is read.

What they hold may be megabytes each. A `wait` counts only when it is over.
"""

CUT_S = 0.5
"""The same, of one that is to have nothing more from us."""

log = structlog.get_logger()


class TookNoAnswerError(trio.BrokenResourceError):
    """The client does not read; what is left for it is of no use."""


class Server:
    """Serves clients.

    Args:
        settings: limits and deadlines.
        access: who is let in.
        roles: the plugin, whose rules are those of `access`.
        plugins: for identities.
        audit: where it is written down who came, and who was turned away.
        quotas: told who comes.
        presence: of everybody who is connected.
        dispatcher: for requests.
        jobs: for output.
    """

    def __init__(
        self,
        *,
        settings: ServerSettings,
        access: Access,
        roles: Roles,
        plugins: Plugins,
        audit: Audit,
        quotas: Quotas,
        presence: Presence,
        dispatcher: Dispatcher,
        jobs: Jobs,
    ) -> None:
        self.settings = settings
        self.access = access
        self._roles = roles
        self._plugins = plugins
        self._audit = audit
        self._quotas = quotas
        self.presence = presence
        self._handshakes = Handshakes(settings)
        self._turn = Turn(self._is_awaited)
        self.dispatcher = dispatcher
        self.jobs = jobs
        self._working = 0
        self._rested = trio.Event()
        self._clients: set[Client] = set()

    async def serve(self, listeners: list[trio.SocketListener], stop: trio.Event) -> None:
        """Serve everybody who connects until `stop`; then drain.

        Draining: nobody new; requests that are being answered are finished, within `drain_s`; those
        that wait for a job, and followers, are cut off, and come back to the next supervisor.
        """
        set_up_accept_log()
        async with trio.open_nursery() as connections, trio.open_nursery() as listening:
            listening.start_soon(
                partial(
                    trio.serve_listeners,
                    self._serve_socket,
                    [Door(listener, self._is_awaited) for listener in listeners],
                    handler_nursery=connections,
                )
            )
            await stop.wait()
            listening.cancel_scope.cancel()
            with trio.move_on_after(self.settings.drain_s):
                while self._working:
                    await self._rested.wait()
            connections.cancel_scope.cancel()

    async def admit_by(self, access: Access) -> int:
        """Go by another certificate, list of the revoked, policy; give how many that cuts off.

        New connections and requests do so at once. Those who are connected are looked at again, and
        what they wait for or follow is decided again; listeners stay.
        """
        self.access = access
        self._roles.policy = access.policy
        connected = tuple(self._clients)
        for client in connected:
            client.bind(access.policy)  # at once, whatever time the plugins take
        async with trio.open_nursery() as nursery:
            for client in connected:
                nursery.start_soon(client.review)
        return sum(client.refusal is not None for client in connected)

    async def recognise(self, client: "Client") -> None:
        """Find out who a client is, by what counts when this returns.

        Raises:
            JobsError: `permission_denied`: nobody who is let in.
        """
        access = None
        while access is not self.access:
            access = self.access
            if fault := access.trust.fault(client.certificate):
                raise JobsError("permission_denied", fault)
            client.known = await self._identify(client.certificate)
        client.bind(access.policy)
        self._quotas.meet(client.identity)

    async def _identify(self, certificate: x509.Certificate) -> Identity:
        try:
            return await self._plugins.identify(describe(certificate))
        except CertsError as error:
            raise JobsError(
                "permission_denied", f"your certificate cannot be used: {error}"
            ) from None

    def start_work(self) -> None:
        """Count a request that is being answered."""
        self._working += 1

    def end_work(self) -> None:
        """Count it off."""
        self._working -= 1
        self._rested.set()
        self._rested = trio.Event()

    def _is_awaited(self) -> bool:
        return self._working > 0

    async def _serve_socket(self, raw: trio.SocketStream) -> None:
        try:
            await self._serve_stranger(raw.socket, peer_of(raw.socket))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.info("a connection ended", why=str(error))
        except Exception as error:  # the client is cut off, the rest goes on
            if shortage(_first(error)) is None:
                log.exception("a connection failed")  # ours
            else:
                log.error("a connection ended", why=str(_first(error)))  # noqa: TRY400  # it says all
        finally:
            raw.socket.close()

    async def _serve_stranger(self, sock: trio.socket.SocketType, peer: tuple[str, int]) -> None:
        client = stream = None
        try:
            with self._handshakes.begin(peer[0]) as handshake:
                await trio.lowlevel.wait_readable(sock)
                stream = TLSStream(sock, self.access.context, server_name=None)
                client = await self._meet(stream, handshake)
            if client is None:
                self._audit.connection(peer, None, handshake.why)
            elif client.refusal is not None:
                self._audit.connection(peer, None, client.refusal.message)
                await client.last_words(client.refusal)
            else:
                await self._serve_known(client, peer)
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _meet(self, stream: TLSStream, handshake: Handshake) -> "Client | None":
        """Find out who it is, and whether they are let in; None: there was no handshake."""
        try:
            await stream.do_handshake(step=self._turn.take)
        except trio.BrokenResourceError as error:
            handshake.why = str(error)
            return None
        channel = Channel(stream, Connection(max_message=self.settings.max_message))
        client = Client(self, channel, stream.peer_certificate)
        try:
            await self.recognise(client)
        except JobsError as error:
            client.refusal = error
        return client

    async def _serve_known(self, client: "Client", peer: tuple[str, int]) -> None:
        with ExitStack() as present:
            try:
                present.enter_context(self.presence.connection(client.identity.name))
            except JobsError as refusal:
                self._audit.connection(peer, client.identity, refusal.message)
                await client.last_words(refusal)
                return
            self._audit.connection(peer, client.identity)
            self._clients.add(client)  # from here on it is looked at whenever anything is reloaded
            present.callback(self._clients.discard, client)
            with trio.move_on_after(seconds_left(client.certificate)) as life:
                await client.serve()
            if life.cancelled_caught:
                await client.cut(JobsError("permission_denied", "your certificate has ended"))

    def refuse(self, identity: Identity, action: str, why: str) -> None:
        """Write down what was refused for a quota."""
        self._audit.refused(identity, action, why)


class Standing:
    """A call that goes on after it was allowed, as long as it is: a wait, a follow.

    Attributes:
        call: as it was allowed.
        scope: around what it does.
        refusal: why it may not go on.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.scope = trio.CancelScope()
        self.refusal: JobsError | None = None


class Client:
    """One client's connection.

    Args:
        server: whose it is.
        channel: to the client.
        certificate: the client's.

    Attributes:
        known: as plugins know it.
        identity: that, with what the policy binds it to; another object after each reload, even if
            it says the same.
        refusal: why it was, or is being, cut off.
    """

    known: Identity
    identity: Identity

    def __init__(self, server: Server, channel: Channel, certificate: x509.Certificate) -> None:
        self.certificate = certificate
        self._server = server
        self._channel = channel
        self.refusal: JobsError | None = None
        self._standing: set[Standing] = set()
        self._busy = 0
        self._listing = Slots(1)  # many lists that nobody reads would be much memory
        self._slots = Slots(AT_ONCE)
        self._replying = Slots(1)

    async def last_words(self, error: JobsError) -> None:
        """Tell the client why its connection ends, if it listens."""
        with trio.move_on_after(GOODBYE_S):
            await self._channel.send(Connection.notify("error", error.to_wire()))
            await self._channel.aclose()

    def bind(self, policy: Policy) -> None:
        """Have the roles and groups that a policy gives it."""
        self.identity = policy.bind(self.known)

    async def cut(self, error: JobsError) -> None:
        """End the connection now, with a word about why if the client takes it in time."""
        if self.refusal is not None:
            return
        self.refusal = error
        log.info("a client was cut off", who=self.identity.name, why=error.message)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(CUT_S):
                await self.last_words(error)
        await trio.aclose_forcefully(self._channel.stream)

    async def review(self) -> None:
        """Find out whether it may still be here, and go on with what it does."""
        try:
            await self._server.recognise(self)
        except JobsError as error:
            await self.cut(error)
            return
        async with trio.open_nursery() as nursery:
            for standing in self._standing:
                nursery.start_soon(self._review, standing)

    async def _review(self, standing: Standing) -> None:
        try:
            await self._server.dispatcher.ask_again(self.identity, standing.call)
        except JobsError as error:
            standing.refusal = error
            if METHODS[standing.call.method].takes_over:
                await self.cut(error)  # it has the connection for itself
            standing.scope.cancel()

    async def serve(self) -> None:
        """Answer requests until the client goes, breaks the protocol or falls silent."""
        try:
            async with trio.open_nursery() as nursery:
                while (request := await self._next_request()) is not None:
                    await self._server.presence.pace(self.identity.name)
                    await self._take(request, nursery)
                nursery.cancel_scope.cancel()
        except* ProtocolError as group:
            why = str(_first(group))
            log.info("a client broke the protocol", who=self.identity.name, why=why)
            await self.last_words(JobsError("invalid_argument", why))
        except* TookNoAnswerError:
            log.info("a client took no answer in time", who=self.identity.name)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it went while we were answering

    async def _next_request(self) -> Request | None:
        settings = self._server.settings
        while True:
            with trio.move_on_after(settings.idle_s) as idle:
                message = await self._channel.receive(whole_within=settings.message_s)
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
            # Not `_busy`: who has an answer may ask before the task that sent it has ended.
            if self._channel.connection.owed > 1:
                raise ProtocolError(f"{request.method} needs a connection with nothing else on it")
            await self._take_over(request)
        else:
            self._busy += 1
            nursery.start_soon(self._answer, request)
            async with self._slots:
                pass  # there is room for the next one: only then is it read

    async def _answer(self, request: Request) -> None:
        waits = request.method == "wait"
        if not waits:
            self._server.start_work()
        try:
            await self._decide_and_answer(request)
        finally:
            self._busy -= 1
            if not waits:
                self._server.end_work()

    async def _decide_and_answer(self, request: Request) -> Call | None:
        """Send the one response; give the call if it was allowed and answered."""
        try:
            listing = self._listing if request.method == "list" else nullcontext()
            async with self._slots, listing:
                call = await self._decide(request)
                if not call.waits:
                    return await self._answer_call(request, call)
            await self._while_allowed(call, call.ready)
            async with self._slots:
                return await self._answer_call(request, call)
        except JobsError as refusal:
            error = refusal
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as failure:
            if (short := shortage(failure)) is not None:
                error = short
                log.error("a request was not answered", method=request.method, why=str(failure))  # noqa: TRY400  # it says all
            else:
                log.exception("a request failed", method=request.method, who=self.identity.name)
                why = f"{request.method} failed; the supervisor's log says why"
                error = JobsError("internal", why)
        await self._respond(request, error)
        return None

    async def _answer_call(self, request: Request, call: Call) -> Call:
        work = partial(self._server.dispatcher.answer, call)
        await self._respond(request, None, await self._while_allowed(call, work))
        return call

    async def _respond(
        self, request: Request, error: JobsError | None, result: object = None
    ) -> None:
        """Send a response, which is made when its turn has come: it may be megabytes."""
        async with self._replying:
            with trio.move_on_after(self._server.settings.answer_s) as late:
                await self._channel.send(
                    self._channel.connection.respond(request.id, error, result)
                )
        if late.cancelled_caught:
            raise TookNoAnswerError

    async def _decide(self, request: Request) -> Call:
        """Have a request decided by what counts when this returns."""
        while True:
            who = self.identity
            call = await self._server.dispatcher.ask(who, request.method, request.params)
            if self.refusal is not None:
                raise self.refusal
            if who is self.identity:
                return call

    async def _while_allowed(self, call: Call, work: Callable[[], Awaitable[object]]) -> object:
        """Do what a call is about; if that takes long, as long as the caller may.

        Raises:
            JobsError: `permission_denied`: it may not any more.
        """
        if call.method != "wait" and not METHODS[call.method].takes_over:
            return await work()  # it is done at once, or as good as done
        standing = Standing(call)
        self._standing.add(standing)
        result = None
        try:
            if call.identity is not self.identity:  # a reload came in between
                await self._server.dispatcher.ask_again(self.identity, call)
            with standing.scope:
                result = await work()
        finally:
            self._standing.discard(standing)
        if standing.refusal is not None:
            raise standing.refusal
        return result

    async def _take_over(self, request: Request) -> None:
        with ExitStack() as following:
            try:
                following.enter_context(self._server.presence.follower(self.identity.name))
            except JobsError as refusal:
                self._server.refuse(self.identity, request.method, refusal.message)
                await self._respond(request, refusal)
                return
            call = await self._decide_and_answer(request)
            if call is not None:
                await self._follow(call)

    async def _follow(self, call: Call) -> None:
        directory = self._server.jobs.register.directory(call.target.job.id)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._until_gone, nursery.cancel_scope)
            work = partial(follow, call.target, directory, call.params, self)
            try:
                await self._while_allowed(call, work)
            except JobsError as error:
                await self.cut(error)
            nursery.cancel_scope.cancel()

    async def _until_gone(self, scope: trio.CancelScope) -> None:
        """A follower says nothing; that it has gone must be noticed while the job is silent too."""
        if await self._channel.receive() is not None:
            raise ProtocolError("this connection is taken over until the `end` notification")
        scope.cancel()

    async def notify(self, method: str, params: dict[str, object]) -> None:
        """Send one notification."""
        await self._channel.send(Connection.notify(method, params))

    async def chunk(self, offset: int, stream: str, time: str, data: memoryview) -> None:
        """Send one `chunk` notification, without copying its data."""
        head = chunk_head(offset, stream, time, len(data))
        await self._channel.send(head, data)


def seconds_left(certificate: x509.Certificate) -> float:
    """Give how long a certificate is still valid; less than nothing if it is not."""
    return (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds()


def _first(error: BaseException) -> BaseException:
    """Give one exception of a group, which a nursery within a nursery nests."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

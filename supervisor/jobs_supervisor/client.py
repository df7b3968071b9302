"""One client's connection, once its handshake is over.

Whatever a client does, it is its own connection that ends: bytes that are no protocol, a message
that is too large, silence, an answer that it does not take. Each wait on it has a deadline with a
name.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial

import structlog
import trio
from cryptography import x509

from jobs_plugins.policy import Policy
from jobs_proto.connection import Connection, Notification, Request, chunk_head
from jobs_proto.errors import JobsError, ProtocolError
from jobs_proto.identity import Identity
from jobs_proto.methods import METHODS
from jobs_rpc.channel import Channel
from jobs_rpc.slots import Slots
from jobs_supervisor.audit import Audit
from jobs_supervisor.config import ServerSettings
from jobs_supervisor.dispatch import Call, Dispatcher
from jobs_supervisor.follow import follow
from jobs_supervisor.presence import Presence
from jobs_supervisor.shortage import shortage

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
        channel: to the client.
        certificate: the client's.
        settings: limits and deadlines.
        dispatcher: for requests.
        presence: of everybody who is connected.
        audit: where it is written down what was refused for a quota.

    Attributes:
        known: as plugins know it.
        identity: that, with what the policy binds it to; another object after each reload, even if
            it says the same.
        refusal: why it was, or is being, cut off.
    """

    known: Identity
    identity: Identity

    def __init__(
        self,
        channel: Channel,
        certificate: x509.Certificate,
        *,
        settings: ServerSettings,
        dispatcher: Dispatcher,
        presence: Presence,
        audit: Audit,
    ) -> None:
        self.certificate = certificate
        self._channel = channel
        self._settings = settings
        self._dispatcher = dispatcher
        self._presence = presence
        self._audit = audit
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
        """Find out whether what it waits for or follows may go on."""
        async with trio.open_nursery() as nursery:
            for standing in self._standing:
                nursery.start_soon(self._review, standing)

    async def _review(self, standing: Standing) -> None:
        try:
            await self._dispatcher.ask_again(self.identity, standing.call)
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
                    await self._presence.pace(self.identity.name)
                    await self._take(request, nursery)
                nursery.cancel_scope.cancel()
        except* ProtocolError as group:
            why = str(first_of(group))
            log.info("a client broke the protocol", who=self.identity.name, why=why)
            await self.last_words(JobsError("invalid_argument", why))
        except* TookNoAnswerError:
            log.info("a client took no answer in time", who=self.identity.name)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it went while we were answering

    async def _next_request(self) -> Request | None:
        settings = self._settings
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
        # Who drains us waits for no job.
        work = nullcontext() if request.method == "wait" else self._presence.work()
        try:
            with work:
                await self._decide_and_answer(request)
        finally:
            self._busy -= 1

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
        work = partial(self._dispatcher.answer, call)
        await self._respond(request, None, await self._while_allowed(call, work))
        return call

    async def _respond(
        self, request: Request, error: JobsError | None, result: object = None
    ) -> None:
        """Send a response, which is made when its turn has come: it may be megabytes."""
        async with self._replying:
            with trio.move_on_after(self._settings.answer_s) as late:
                await self._channel.send(
                    self._channel.connection.respond(request.id, error, result)
                )
        if late.cancelled_caught:
            raise TookNoAnswerError

    async def _decide(self, request: Request) -> Call:
        """Have a request decided by what counts when this returns."""
        while True:
            who = self.identity
            call = await self._dispatcher.ask(who, request.method, request.params)
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
                await self._dispatcher.ask_again(self.identity, call)
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
                following.enter_context(self._presence.follower(self.identity.name))
            except JobsError as refusal:
                self._audit.refused(self.identity, request.method, refusal.message)
                await self._respond(request, refusal)
                return
            call = await self._decide_and_answer(request)
            if call is not None:
                await self._follow(call)

    async def _follow(self, call: Call) -> None:
        directory = self._dispatcher.directory(call)
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


def first_of(error: BaseException) -> BaseException:
    """Give one exception of a group, which a nursery within a nursery nests."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

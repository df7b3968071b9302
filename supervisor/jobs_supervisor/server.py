"""Listening, and who is let in: from a connection to a client that is known, and through reloads.

What a client then does is `jobs_supervisor.client`'s; here it is a handshake that ends in time, a
certificate that is good now, and an identity that has not too many connections.
"""

from contextlib import ExitStack
from functools import partial

import structlog
import trio
from cryptography import x509

from jobs_certs import CertsError, describe
from jobs_plugins.plugins import Plugins
from jobs_plugins.roles import Roles
from jobs_proto.connection import Connection
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_rpc.channel import Channel
from jobs_rpc.tls import TLSStream
from jobs_supervisor.access import Access
from jobs_supervisor.audit import Audit
from jobs_supervisor.client import Client, first_of, seconds_left
from jobs_supervisor.config import ServerSettings
from jobs_supervisor.dispatch import Dispatcher
from jobs_supervisor.handshakes import Door, Handshake, Handshakes, Turn, peer_of
from jobs_supervisor.memory import Memory
from jobs_supervisor.presence import Presence
from jobs_supervisor.quotas import Quotas
from jobs_supervisor.shortage import set_up_accept_log, shortage

log = structlog.get_logger()


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
    ) -> None:
        self._settings = settings
        self.access = access
        self._roles = roles
        self._plugins = plugins
        self._audit = audit
        self._quotas = quotas
        self._presence = presence
        self._handshakes = Handshakes(settings)
        self._turn = Turn(presence.is_awaited)
        self._dispatcher = dispatcher
        self._clients: set[Client] = set()
        self._memory = Memory()

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
                    [Door(listener, self._presence.is_awaited) for listener in listeners],
                    handler_nursery=connections,
                )
            )
            await stop.wait()
            listening.cancel_scope.cancel()
            with trio.move_on_after(self._settings.drain_s):
                await self._presence.rest()
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
                nursery.start_soon(self._review, client)
        return sum(client.refusal is not None for client in connected)

    async def _review(self, client: Client) -> None:
        try:
            await self._recognise(client)
        except JobsError as error:
            await client.cut(error)
        else:
            await client.review()

    async def _recognise(self, client: Client) -> None:
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

    async def _serve_socket(self, raw: trio.SocketStream) -> None:
        try:
            await self._serve_stranger(raw.socket, peer_of(raw.socket))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.info("a connection ended", why=str(error))
        except Exception as error:  # the client is cut off, the rest goes on
            if shortage(first_of(error)) is None:
                log.exception("a connection failed")  # ours
            else:
                log.error("a connection ended", why=str(first_of(error)))  # noqa: TRY400  # it says all
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

    async def _meet(self, stream: TLSStream, handshake: Handshake) -> Client | None:
        """Find out who it is, and whether they are let in; None: there was no handshake."""
        try:
            await stream.do_handshake(step=partial(self._turn.take, handshake))
        except trio.BrokenResourceError as error:
            handshake.why = str(error)
            return None
        channel = Channel(stream, Connection(max_message=self._settings.max_message))
        client = Client(
            channel,
            stream.peer_certificate,
            settings=self._settings,
            dispatcher=self._dispatcher,
            presence=self._presence,
            audit=self._audit,
        )
        try:
            await self._recognise(client)
        except JobsError as error:
            client.refusal = error
        return client

    async def _serve_known(self, client: Client, peer: tuple[str, int]) -> None:
        with ExitStack() as present:
            try:
                present.enter_context(self._presence.connection(client.identity.name))
            except JobsError as refusal:
                self._audit.connection(peer, client.identity, refusal.message)
                await client.last_words(refusal)
                return
            self._audit.connection(peer, client.identity)
            self._clients.add(client)  # from here on it is looked at whenever anything is reloaded
            self._memory.clients(len(self._clients))
            present.callback(self._leave, client)
            with trio.move_on_after(seconds_left(client.certificate)) as life:
                await client.serve()
            if life.cancelled_caught:
                await client.cut(JobsError("permission_denied", "your certificate has ended"))

    def _leave(self, client: Client) -> None:
        self._clients.discard(client)
        self._memory.clients(len(self._clients))

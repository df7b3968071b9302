"""TLS on a socket under trio: pyOpenSSL's `Connection` straight on the non-blocking descriptor.

Theory. OpenSSL can work on memory (as `trio.SSLStream` does) or on a descriptor. On a descriptor it
reads and writes records itself, and no ciphertext passes through Python: one copy fewer each
way, and no state of our own between the socket and it. What is left to us is one loop, `_retry`:

    try the operation; if OpenSSL says that it would have to wait, wait for the descriptor to be
    readable or writable, as it says, and try the *same* operation again.

What makes this safe:

1.  Everything between two waits is one synchronous call in one thread: a sender and a receiver
    share the OpenSSL object without a lock. Two senders, or two receivers, are misuse, and told so.
2.  A receiver may have to write (the answer to a key update), a sender may have to read. trio lets
    only one task wait for a descriptor's direction, so `_Ready` lets the others wait for that task.
    A wake-up means "try again", never "it worked": spurious ones cost nothing.
3.  When a write would block, OpenSSL has written some records, and holds one, already encrypted,
    that has to go first; all of the plaintext must come again in the next write, and OpenSSL
    knows how far it was. Our loop does just that. If it is
    cancelled there, nobody will, so `_unfinished` stays set and the sending direction is over: the
    next `send_all` is refused, and no close_notify is sent: it would follow half a record.
4.  After `aclose` the descriptor's number may be another file's: each try is behind `_check_open`.
5.  OpenSSL keeps its errors in a queue of the *thread*, which pyOpenSSL does not always empty;
    before 4.0 it looks there first when it is asked what an operation came to. The error of a
    connection that died would be the end of the next one that merely has to wait. So each try
    starts with an empty queue, as SSL_get_error(3) demands.
6.  No byte of an application goes out before the peer's certificate was verified and, at the
    client, names the server we asked for: `do_handshake` ends only then, and everything awaits it.

In TLS 1.3 the client's handshake is over before the server has looked at the client's certificate.
A refusal reaches the client as an alert with its first read. A write to a server that has gone
fails without a reason, and leaves OpenSSL deaf to the alert that lies in the socket; so a sender
listens first (`_hear`).
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from operator import index
from types import TracebackType
from typing import TYPE_CHECKING, Final, TypeVar, cast

import trio
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from jobs_rpc.faults import explain

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

T = TypeVar("T")

_forget_errors: Final[Callable[[], None]] = Binding.lib.ERR_clear_error

RECEIVE_BYTES: Final = 256 * 1024
"""What `receive_some` gives at most when nothing else is said."""

RECORD_BYTES: Final = 16 * 1024
"""The largest record of TLS; OpenSSL reads one in a call."""

FAIR_BYTES: Final = 1024 * 1024
"""After so many bytes a sender whose peer is as fast as itself lets other tasks run."""

CLOSE_NOTIFY_S: Final = 1.0
"""How long `aclose` waits for room to say goodbye."""

KEEPALIVE: Final = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""Seconds and tries: a peer that has vanished without a word is noticed after a minute."""


class TLSError(trio.BrokenResourceError):
    """One side does not accept the other, or its bytes; trying again will not help."""


class _Misuse:
    """Tells a second task that a first one is already at it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._held = False

    def __enter__(self) -> None:
        if self._held:
            raise trio.BusyResourceError(f"another task is already {self._what} on this TLS stream")
        self._held = True

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._held = False


class _Ready:
    """One direction of a descriptor, for which any number of tasks may wait."""

    def __init__(self, wait: Callable[[], Awaitable[None]]) -> None:
        self._wait = wait
        self._watch: trio.CancelScope | None = None
        self._others = trio.lowlevel.ParkingLot()

    async def wait(self) -> None:
        if self._watch is not None:
            await self._others.park()
            return
        self._watch = trio.CancelScope()
        try:
            with self._watch:
                await self._wait()
        finally:
            # Also when cancelled: another one has to take the watch over.
            self._watch = None
            self._others.unpark_all()

    def wake(self) -> None:
        """Have those who wait try again, though the descriptor itself may never wake them."""
        if self._watch is not None:
            self._watch.cancel()


class TLSStream(trio.abc.Stream):
    """A TLS connection on a connected TCP socket; see the head of this file.

    Args:
        sock: connected; closed with the stream.
        context: of `jobs_rpc.context`.
        server_name: at a client, the host it asked for: DNS name or IP address. At a server, None.

    Raises:
        trio.BrokenResourceError: (from every method) the connection is lost.
        TLSError: (likewise; a `BrokenResourceError`) one side refused the other.
        trio.ClosedResourceError: (likewise) it was closed here.
    """

    def __init__(
        self, sock: trio.socket.SocketType, context: SSL.Context, *, server_name: str | None
    ) -> None:
        self.socket: Final = sock
        self._server_name: Final = server_name
        self._peer: Final = "client" if server_name is None else "server"
        # pyOpenSSL asks no more of a socket than its fileno().
        self._ssl: Final = SSL.Connection(context, cast("socket.socket", sock))
        if server_name is None:
            self._ssl.set_accept_state()
        else:
            self._ssl.set_connect_state()
            if not _is_address(server_name):
                self._ssl.set_tlsext_host_name(_ascii(server_name))
        self._readable: Final = _Ready(partial(trio.lowlevel.wait_readable, sock))
        self._writable: Final = _Ready(partial(trio.lowlevel.wait_writable, sock))
        self._sending: Final = _Misuse("sending")
        self._receiving: Final = _Misuse("receiving")
        self._shaking: Final = trio.Lock()
        self._secure = False  # the handshake is over and the peer is whom we asked for
        self._unfinished = False  # OpenSSL holds a record that is partly written
        self._closed = False
        self._broken: trio.BrokenResourceError | None = None
        self._held_back: SSL.Error | None = None  # came after bytes that had to be given first
        _tune(sock)

    @property
    def peer_certificate(self) -> "Certificate":
        """The other side's certificate; verified once the handshake is over."""
        certificate = self._ssl.get_peer_certificate()
        if certificate is None:
            raise ValueError("there is no certificate before the handshake is over")
        return certificate.to_cryptography()

    async def do_handshake(
        self, *, step: Callable[[Callable[[], None]], Awaitable[None]] | None = None
    ) -> None:
        """Come to terms with the peer; once. Set a deadline around it: a peer may never answer.

        A second caller waits for the first; when that one is cancelled, it goes on in its place.

        Args:
            step: calls what it is given when it is time, in a thread perhaps: that is milliseconds
                of signatures, and a crowd of newcomers would keep everybody else waiting.
        """
        async with self._shaking:
            if self._secure:
                return
            await self._retry(self._ssl.do_handshake, step)
            if self._server_name is not None:
                self._check_name(self._server_name)
            self._secure = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, without copying it.

        If this is cancelled, nobody knows how much of it went: close the stream then.
        """
        with self._sending:
            await self._ready_to_send()
            with memoryview(data) as given, given.cast("B") as view:
                await self._send_view(view)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes bytes."""
        with self._sending:
            await self._ready_to_send()
            await self._writable.wait()
            self._check_open()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Give 1 to `max_bytes` bytes (`RECEIVE_BYTES`), or b"" when the peer has said goodbye."""
        limit = RECEIVE_BYTES if max_bytes is None else index(max_bytes)
        if limit < 1:
            raise ValueError(f"max_bytes must be 1 or more, not {limit}")
        with self._receiving:
            if not self._secure:
                await self.do_handshake()
            return await self._retry(partial(self._read, limit))

    async def aclose(self) -> None:
        """Say goodbye if there is room for it, and close the socket. Tasks that wait here wake."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        trio.lowlevel.notify_closing(self.socket)
        try:
            with trio.move_on_after(CLOSE_NOTIFY_S):
                await self._say_goodbye()
        finally:
            _discard_unread(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()

    # -- the one loop ------------------------------------------------------------------------

    async def _retry(
        self,
        attempt: Callable[[], T],
        step: Callable[[Callable[[], T]], Awaitable[T]] | None = None,
    ) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        once = partial(self._try, attempt)
        while True:
            try:
                result = once() if step is None else await step(once)
            except SSL.WantReadError:
                await self._readable.wait()
            except SSL.WantWriteError:
                await self._writable.wait()
            except SSL.Error as error:
                self._broken = self._translate(error)
                raise self._broken from None
            else:
                break
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return result

    def _try(self, attempt: Callable[[], T]) -> T:
        self._check_open()
        _forget_errors()
        return attempt()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this TLS stream was closed")
        if self._broken is not None:
            raise type(self._broken)(*self._broken.args)

    def _translate(self, error: SSL.Error) -> trio.BrokenResourceError:
        if isinstance(error, SSL.ZeroReturnError):
            return trio.BrokenResourceError(f"the {self._peer} closed the connection")
        if not isinstance(error, SSL.SysCallError):
            return TLSError(explain(error, self._peer, self._ssl.get_app_data()))
        number = error.args[0]
        if number in (-1, 0):
            return trio.BrokenResourceError(f"the {self._peer} was cut off in mid-connection")
        if number in (errno.ECONNRESET, errno.EPIPE):
            return trio.BrokenResourceError(f"the {self._peer} dropped the connection")
        return trio.BrokenResourceError(
            f"the connection to the {self._peer} broke: {os.strerror(number)}"
        )

    # -- handshake ---------------------------------------------------------------------------

    def _check_name(self, name: str) -> None:
        # Only clients check names: the supervisor need not load this.
        from service_identity import (  # noqa: PLC0415
            CertificateError,
            VerificationError,
        )
        from service_identity.pyopenssl import (  # noqa: PLC0415
            verify_hostname,
            verify_ip_address,
        )

        verify = verify_ip_address if _is_address(name) else verify_hostname
        try:
            verify(self._ssl, name)
        except (VerificationError, CertificateError):
            self._broken = TLSError(
                f"the server's certificate does not name {name}: ask for the server by a name that "
                "is in its certificate, or issue one that names it"
            )
            raise self._broken from None

    # -- sending -----------------------------------------------------------------------------

    async def _ready_to_send(self) -> None:
        if not self._secure:
            await self.do_handshake()
        self._check_open()
        if self._unfinished:
            raise trio.BrokenResourceError(
                "an earlier send_all was cancelled in the middle; nothing can be sent any more"
            )

    async def _send_view(self, view: memoryview) -> None:
        sent = 0

        def push() -> None:
            nonlocal sent
            if not sent:
                self._hear()
            until = min(sent + FAIR_BYTES, len(view))
            while sent < until:
                self._unfinished = True
                sent += self._ssl.send(view[sent:until])
                self._unfinished = False

        await self._retry(push)
        while sent < len(view):
            await self._retry(push)

    def _hear(self) -> None:
        """Find out whether the peer has already broken off."""
        if self._held_back is not None:
            raise self._held_back
        try:
            self._ssl.recv(1, socket.MSG_PEEK)
        except (SSL.WantReadError, SSL.WantWriteError):
            return
        except SSL.ZeroReturnError:
            pass
        except SSL.Error:
            self._readable.wake()
            raise
        # What has come is with OpenSSL now and no longer in the socket: a task that waits for the
        # socket would sleep on it, until something else came.
        self._readable.wake()

    # -- receiving ---------------------------------------------------------------------------

    def _read(self, limit: int) -> bytes:
        """Give what has come, up to `limit`: full records follow one another in bulk data."""
        if self._held_back is not None:
            raise self._held_back
        try:
            pieces = [self._ssl.recv(min(limit, RECORD_BYTES))]
        except SSL.ZeroReturnError:
            return b""
        room = limit - len(pieces[0])
        try:
            while room and len(pieces[-1]) == RECORD_BYTES:
                pieces.append(self._ssl.recv(min(room, RECORD_BYTES)))
                room -= len(pieces[-1])
        except (SSL.WantReadError, SSL.WantWriteError, SSL.ZeroReturnError):
            pass  # OpenSSL says the same again at the next call
        except SSL.Error as error:
            self._held_back = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- closing -----------------------------------------------------------------------------

    async def _say_goodbye(self) -> None:
        if not self._secure or self._broken or self._unfinished:
            return
        while True:
            _forget_errors()
            try:
                self._ssl.shutdown()
            except SSL.WantWriteError:
                await self._writable.wait()
            except SSL.Error:
                return
            else:
                return


def _tune(sock: trio.socket.SocketType) -> None:
    with suppress(OSError):  # a socket pair in somebody's test is no TCP
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _discard_unread(sock: trio.socket.SocketType) -> None:
    """Read what has come and nobody wanted: else close() resets, and may undo what we sent last."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        for _ in range(16):
            if not os.read(sock.fileno(), RECEIVE_BYTES):
                return


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _ascii(name: str) -> bytes:
    try:
        return name.encode("ascii") if name.isascii() else name.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"{name!r} cannot be the name of a host: {error}") from None

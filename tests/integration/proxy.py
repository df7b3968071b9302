"""What lies between client and supervisor, and can be cut: a TCP proxy."""

import math
from collections.abc import Callable
from contextlib import suppress

import trio

PORTION = 65536


class Proxy:
    """Passes connections on to a port of this host, until they are cut.

    Args:
        target: the supervisor's port.
        allow: gives, for each connection, how many bytes of the supervisor's it passes on before
            it is cut; by default it never is.
    """

    def __init__(self, target: int, allow: Callable[[], float] = lambda: math.inf) -> None:
        self._target = target
        self._allow = allow
        self._scopes: set[trio.CancelScope] = set()
        self.cuts = 0
        self.port = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve; `port` is known when it has started."""
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._pass_on, listeners)
            task_status.started()

    def cut(self) -> int:
        """Cut every connection that there is; give how many there were."""
        cut = len(self._scopes)
        for scope in self._scopes:
            scope.cancel()
        self.cuts += cut
        return cut

    async def _pass_on(self, client: trio.SocketStream) -> None:
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope, suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                supervisor = await trio.open_tcp_stream("127.0.0.1", self._target)
                async with supervisor, trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, client, supervisor, scope, math.inf)
                    nursery.start_soon(self._copy, supervisor, client, scope, self._allow())
        finally:
            self._scopes.discard(scope)
            await trio.aclose_forcefully(client)

    async def _copy(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        scope: trio.CancelScope,
        left: float,
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while left and (data := await source.receive_some(int(min(PORTION, left)))):
                await sink.send_all(data)
                left -= len(data)
        self.cuts += not left
        scope.cancel()  # either side's end is both's: TLS ends with its own close

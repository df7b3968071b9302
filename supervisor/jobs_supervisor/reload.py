"""SIGHUP: read the settings again, and let what can change at run time change.

A reload with a fault changes nothing, and says so. Reloads do not overlap; of signals that come
while one is under way, one counts.
"""

import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import structlog
import trio

from jobs_certs import CertsError
from jobs_proto.errors import JobsError
from jobs_supervisor.access import load_access, needs_restart, tell_unruled, warn_of_age
from jobs_supervisor.config import Settings
from jobs_supervisor.server import Server

DAY_S = 86_400.0

log = structlog.get_logger()


class Reloader:
    """Reloads on SIGHUP.

    Args:
        settings: those that we were started with.
        read: gives those that there are now.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings]) -> None:
        self._settings = settings
        self._read = read
        self._on_terminal = sys.stderr.isatty()
        self._send, self._asked = trio.open_memory_channel[None](1)

    async def listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take SIGHUP, from the first moment on: without us it would end the process."""
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if self._on_terminal and not sys.stderr.isatty():  # it was closed, with us in it
                    signal.signal(signal.SIGHUP, signal.SIG_DFL)
                    signal.raise_signal(signal.SIGHUP)
                try:
                    self._send.send_nowait(None)
                except trio.WouldBlock:
                    continue  # the one that waits will see all that there is

    async def run(self, server: Server) -> None:
        """Reload whenever it was asked for; once a day, say what ends soon."""
        tell_unruled(server.access.policy)
        while True:
            with suppress(CertsError):  # somebody is at it: the reload that follows will say
                warn_of_age(server.access)
            with trio.move_on_after(DAY_S) as day:
                await self._asked.receive()
            if not day.cancelled_caught:
                await self._reload(server)

    async def _reload(self, server: Server) -> None:
        try:
            settings = self._read()
            access = load_access(settings)
        except (JobsError, CertsError) as error:
            log.error("nothing was reloaded, all is as it was", why=str(error))  # noqa: TRY400  theirs
            return
        except Exception:  # ours, and no reason to take everybody's connections down
            log.exception("nothing was reloaded, all is as it was")
            return
        if names := needs_restart(self._settings, settings):
            log.warning("these settings count only after a restart", settings=names)
        tell_unruled(access.policy)
        cut = await server.admit_by(access)
        log.info("reloaded", cut=cut, revoked=sum(map(len, access.trust.crls)))

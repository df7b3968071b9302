"""When the host gives no more open files, memory or room: whose fault, and for how long.

It is no fault of ours that a traceback would explain, and it passes. What is short for a moment is
`unavailable`, which clients try again; a full disk is for an operator, as it is in the store.
"""

import errno
import logging
import os
import time

import structlog

from jobs_proto.errors import JobsError

_CODES = {
    errno.EMFILE: "unavailable",
    errno.ENFILE: "unavailable",
    errno.ENOMEM: "unavailable",
    errno.ENOSPC: "resource_exhausted",
    errno.EDQUOT: "resource_exhausted",
}

SAID_EVERY_S = 10.0
"""That connections cannot be accepted is said so often; trio tries ten times a second."""

log = structlog.get_logger()


def shortage(error: BaseException) -> JobsError | None:
    """Say what the host is short of; None: something else is wrong."""
    if not isinstance(error, OSError) or error.errno not in _CODES:
        return None
    return JobsError(
        _CODES[error.errno],
        f"the supervisor's host is short of something: {os.strerror(error.errno)}; "
        "try again later, or ask an operator to see to it",
    )


class AcceptLog(logging.Handler):
    """Says, instead of trio's traceback for each try, that connections have to wait, and why."""

    def __init__(self) -> None:
        super().__init__()
        self._said = -SAID_EVERY_S

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, unless it was said just now."""
        now = time.monotonic()
        if now - self._said >= SAID_EVERY_S:
            self._said = now
            why = record.exc_info[1] if record.exc_info else record.getMessage()
            log.error("connections have to wait", why=str(why))


def set_up_accept_log() -> None:
    """Have trio's words about a failed accept(2) come to our log, as ours."""
    logger = logging.getLogger("trio.serve_listeners")
    logger.propagate = False
    logger.handlers = [AcceptLog()]

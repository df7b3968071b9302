"""The audit log: each decision about who may do what, one JSON line, in the state directory."""

import logging
from pathlib import Path
from typing import Protocol

import structlog

from jobs_plugins.decision import Decision
from jobs_plugins.hook import Failure
from jobs_proto.identity import Identity

log = structlog.get_logger()


class Audit(Protocol):
    """Writes a decision down; of a question (`can_i`), who asked it."""

    def __call__(
        self,
        identity: Identity,
        action: str,
        job: str | None,
        decision: Decision,
        *,
        asked_by: Identity | None = None,
    ) -> None:
        """Write a line."""


def open_audit(path: Path) -> Audit:
    """Give the function that writes decisions to `path`, which it makes, mode 0600, if need be."""
    path.touch(mode=0o600)
    file = path.open("a", buffering=1)
    logger = structlog.wrap_logger(
        structlog.WriteLogger(file),
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
    )

    def audit(
        identity: Identity,
        action: str,
        job: str | None,
        decision: Decision,
        *,
        asked_by: Identity | None = None,
    ) -> None:
        who = asked_by or identity
        try:
            logger.info(
                "question" if asked_by else "decision",
                who=who.name,
                certificate=who.fingerprint,
                **({"about": identity.name} if asked_by else {}),
                action=action,
                job=job,
                verdict="allow" if decision.allow else "deny",
                plugin=decision.plugin,
                why=decision.why,
            )
        except OSError as error:  # the file keeps the line, and writes it with the next one
            log.error("cannot write the audit log", why=error.strerror)  # noqa: TRY400  # the disk is full: no traceback needed

    return audit


def log_failure(failure: Failure) -> None:
    """Say in the supervisor's log what a plugin did wrong."""
    log.error("a plugin failed", plugin=failure.plugin, exc_info=failure.error)


def set_up_logging(*, json: bool) -> None:
    """Have the supervisor's own log go to standard error, for people or as JSON lines."""
    renderer = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(file=__import__("sys").stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )

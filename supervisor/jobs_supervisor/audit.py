"""The audit log: each decision about who may do what, one JSON line, in the state directory."""

import logging
from collections.abc import Callable
from pathlib import Path

import structlog

from jobs_plugins.decision import Decision
from jobs_proto.identity import Identity

Audit = Callable[[Identity, str, str | None, Decision], None]


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
    errors = structlog.get_logger()

    def audit(identity: Identity, action: str, job: str | None, decision: Decision) -> None:
        try:
            logger.info(
                "decision",
                who=identity.name,
                certificate=identity.fingerprint,
                action=action,
                job=job,
                verdict="allow" if decision.allow else "deny",
                plugin=decision.plugin,
                why=decision.why,
            )
        except OSError as error:  # the file keeps the line, and writes it with the next one
            errors.error("cannot write the audit log", why=error.strerror)
        for failure in decision.failures:
            errors.error("a plugin failed", plugin=failure.plugin, exc_info=failure.error)

    return audit


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

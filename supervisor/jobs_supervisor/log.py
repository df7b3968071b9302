"""The supervisor's own log, on standard error: for people, or one JSON line each."""

import logging
import sys

import structlog

from jobs_plugins.hook import Failure

log = structlog.get_logger()


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
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


def log_failure(failure: Failure) -> None:
    """Say what a plugin did wrong."""
    log.error("a plugin failed", plugin=failure.plugin, exc_info=failure.error)


def log_slow(plugin: str) -> None:
    """Say which plugin the start waits for."""
    log.warning("loading a plugin takes long; nobody is served before it is done", plugin=plugin)

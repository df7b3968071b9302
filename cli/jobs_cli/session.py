"""One connection for one verb: connect, do the verb's work, and say what went wrong."""

import os
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from attrs import asdict

from jobs_cli.endpoint import Endpoint
from jobs_cli.failure import REFUSED, Failure, StdoutClosed, of_error
from jobs_cli.output import STDERR, say
from jobs_proto.errors import JobsError

if TYPE_CHECKING:
    from jobs_rpc import Client

T = TypeVar("T")


def ask(
    endpoint: Endpoint,
    work: Callable[["Client"], Awaitable[T]],
    *,
    ours: int = REFUSED,
    jobs_stderr: bool = False,
) -> T:
    """Do some work with a connected client.

    Args:
        endpoint: whom to ask, as whom.
        work: what to do with the client.
        ours: the exit status if no supervisor can be asked, or it fails.
        jobs_stderr: our standard error is to be a job's, byte for byte.

    Raises:
        Failure: it was refused or could not be asked.
        KeyboardInterrupt: Ctrl-C.
    """
    import trio

    from jobs_rpc import Client

    async def session() -> T:
        try:
            unconnected = Client.from_config(**asdict(endpoint), told=_say_lost)
        except JobsError as error:
            raise Failure(error.message, ours) from None
        if os.isatty(STDERR) or not jobs_stderr:
            _warn_of_end(unconnected.settings.cert)
        async with unconnected as client:
            return await work(client)

    try:
        return trio.run(session)
    except (JobsError, BaseExceptionGroup) as raised:
        error = _telling(raised)
        raise (of_error(error, ours) if isinstance(error, JobsError) else error) from None


@cache  # a verb may ask several times
def _warn_of_end(certificate: Path) -> None:
    """Say that our certificate ends soon, while there is time to ask for another."""
    from jobs_certs import WARN_DAYS, CertsError, show

    try:
        description = show(certificate)
    except CertsError:
        return  # whoever connects with it says what is wrong with it
    if 0 <= description.days_left < WARN_DAYS:
        day, left = description.not_after[:10], description.days_left
        when = f"in {left} day{'s' * (left != 1)}" if left else "within a day"
        say(f"your certificate {certificate} ends {when}, on {day} (UTC); ask for a new one")


def _say_lost(error: Exception) -> None:
    if not os.isatty(STDERR):
        return  # there a person waits; elsewhere nothing may come between what the job wrote
    say(f"{error}; trying again (Ctrl-C gives up)")


def _telling(error: BaseException) -> BaseException:
    """Give the one exception of a nursery's group that says why the verb ends; else the group."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    for kind in (KeyboardInterrupt, StdoutClosed, Failure, JobsError):
        found: BaseException | None = error.subgroup(kind)
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        if found:
            return found
    return error

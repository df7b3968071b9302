"""One connection for one verb: connect, do the verb's work, and say what went wrong."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from attrs import asdict

from jobs_cli.endpoint import Endpoint
from jobs_cli.failure import REFUSED, Failure, of_error
from jobs_proto.errors import JobsError

if TYPE_CHECKING:
    from jobs_rpc import Client

T = TypeVar("T")


def ask(endpoint: Endpoint, work: Callable[["Client"], Awaitable[T]], *, ours: int = REFUSED) -> T:
    """Do some work with a connected client.

    Args:
        endpoint: whom to ask, as whom.
        work: what to do with the client.
        ours: the exit status if no supervisor can be asked, or it fails.

    Raises:
        Failure: it was refused or could not be asked.
        KeyboardInterrupt: Ctrl-C.
    """
    import trio

    from jobs_rpc import Client

    async def session() -> T:
        try:
            unconnected = Client.from_config(**asdict(endpoint))
        except JobsError as error:
            raise Failure(error.message, ours) from None
        async with unconnected as client:
            return await work(client)

    try:
        return trio.run(session)
    except JobsError as error:
        raise of_error(error, ours) from None
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt):  # it came while a task of the client's ran
            raise KeyboardInterrupt from None
        raise

"""One connection for one verb: connect, do the verb's work, and say what went wrong."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from attrs import asdict

from jobs_cli.endpoint import Endpoint
from jobs_cli.failure import REFUSED, of_error
from jobs_proto.errors import JobsError

if TYPE_CHECKING:
    from jobs_rpc import Client

T = TypeVar("T")


def ask(endpoint: Endpoint, work: Callable[["Client"], Awaitable[T]], *, ours: int = REFUSED) -> T:
    """Do some work with a connected client.

    Args:
        endpoint: whom to ask, as whom.
        work: what to do with the client.
        ours: the exit status if no supervisor answers, or it fails.

    Raises:
        Failure: it was refused or could not be asked.
        KeyboardInterrupt: Ctrl-C.
    """
    import trio

    from jobs_rpc import Client

    async def session() -> T:
        async with Client.from_config(**asdict(endpoint)) as client:
            return await work(client)

    try:
        return trio.run(session)
    except JobsError as error:
        raise of_error(error, ours) from None

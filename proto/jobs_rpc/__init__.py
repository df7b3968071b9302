"""The protocol on TLS under trio, and the `Client` of a supervisor.

    async with jobs_rpc.Client.from_config() as client:
        job = await client.run(["/bin/echo", "hello"])
        async for item in client.follow(job.id):
            ...

Names are loaded when they are first used: who only wants `jobs_rpc.config` needs no trio.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs_rpc.client import Client
    from jobs_rpc.output import Chunk, End, Gap

__all__ = ["Chunk", "Client", "End", "Gap"]

_HOMES = {
    "Chunk": "jobs_rpc.output",
    "Client": "jobs_rpc.client",
    "End": "jobs_rpc.output",
    "Gap": "jobs_rpc.output",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

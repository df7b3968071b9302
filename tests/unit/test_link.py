"""The connection to a shim."""

import socket

import trio

from jobs_proto import shim as protocol
from jobs_supervisor.link import ShimLink


async def test_why_there_is_no_shim_is_heard_though_it_has_not_read_all():
    ours, shim = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = ShimLink(trio.socket.from_stdlib_socket(ours))
    refused = (protocol.REFUSED, {"why": "fork: Cannot allocate memory"})
    with shim:
        await link.send(protocol.LAUNCH, {"dir": "/job"})
        shim.send(protocol.pack(*refused))
    assert await link.receive() == refused
    assert await link.receive() is None
    link.close()

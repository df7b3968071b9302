"""Telling the service manager that we serve, or stop: sd_notify(3), without its library."""

import os
import socket

import structlog

log = structlog.get_logger()


def notify(state: str) -> None:
    """Send a state, `READY=1` for example, to whoever started us, if it wants to know.

    What cannot be sent is logged and no failure: we serve, whoever knows.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # of the abstract namespace, unix(7)
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            sock.send(state.encode())
    except OSError as error:
        log.warning("cannot tell the service manager", state=state, why=error.strerror)

"""`--dev`: everything in one folder, made where missing: CA, certificates, settings, contexts.

Nothing in here is another way to run: it writes the files that an operator would write, and the
supervisor then starts from `supervisor.toml` as it always does. A second start finds them, and so
serves the same port, keys and jobs.
"""

import socket
from pathlib import Path

from jobs_certs import init, issue, refresh
from jobs_rpc.config import Settings as Context
from jobs_rpc.config import write_contexts
from jobs_supervisor.config import DEFAULT_PORT, Settings, load

FILE = "supervisor.toml"

CLIENTS = {
    "dev": ("admin", "admin"),
    "dev-alice": ("alice", "operator"),
    "dev-viewer": ("viewer", "viewer"),
}
"""Contexts: for each, the identity and its role."""

CRL_DAYS = 3650
"""In a folder for trying things out, nobody is to be told that the list of the revoked is old."""

_SETTINGS = """\
# Written by `jobs-supervisor --dev`; yours to change.
state_dir = "{state}"

[server]
listen = "127.0.0.1:{port}"
ca = "{certs}/ca.crt"
cert = "{certs}/server.crt"
key = "{certs}/server.key"
crl = "{certs}/ca.crl"

[jobs]
isolation = "best-effort"
"""


def prepare(directory: Path) -> Settings:
    """Make what is missing in `directory`; give the settings.

    Raises:
        JobsError: `supervisor.toml` is there and wrong.
        CertsError: a certificate is there by half.
        OSError: the folder cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    certs = directory / "certs"
    if not (certs / "ca.crt").exists():
        init(certs, name="Jobs development CA")
    if not (certs / "server.crt").exists():
        issue(certs, "server", role="server", sans=["localhost", "127.0.0.1", "::1"])
    if not (certs / "ca.crl").exists():
        refresh(certs, days=CRL_DAYS)
    for name, role in CLIENTS.values():
        if not (certs / f"{name}.crt").exists():
            issue(certs, name, role=role)
    path = directory / FILE
    if not path.exists():
        text = _SETTINGS.format(state=directory / "state", certs=certs, port=_free_port())
        path.write_text(text)
    settings = load(path)
    contexts = {
        context: Context(
            server=settings.server.listen,
            ca=certs / "ca.crt",
            cert=certs / f"{name}.crt",
            key=certs / f"{name}.key",
        )
        for context, (name, _role) in CLIENTS.items()
    }
    write_contexts(directory / "config.toml", contexts, "dev")
    return settings


def _free_port() -> int:
    """Give 7520, or a free port if that is taken."""
    for port in (DEFAULT_PORT, 0):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            free: int = sock.getsockname()[1]
            return free
    raise OSError("no free port on 127.0.0.1")

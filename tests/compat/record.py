"""Records what supervisor, fork server and shim say to each other, in this version's bytes.

    python tests/compat/record.py > tests/compat/shim-vN.toml        as root

N is `jobs_proto.shim.PROTOCOL`. Run it again while a version is not released yet and its protocol
has changed; after a release its file stays as it is. The launch is one of a fork server and a shim
alone; the rest is a real supervisor's, which has come back to a job and does all that a client can
ask of it, with this program in the middle of the connection.
"""

import contextlib
import json
import os
import select
import socket
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))

import harness
import shims
import trio

from jobs_proto import files
from jobs_proto import shim as protocol

SCRIPT = 'trap "echo heard" USR1; echo ready; while :; do sleep 0.05; done'

HEAD = """\
# What a supervisor, its fork server and a shim of shim protocol {version} say to each other: bytes
# of a real session, made by tests/compat/record.py. A released version's file is never changed.
#
# from     who says it
# hex      the packet
# message  the same, as JSON, for people; "$bytes" is binary data, in hex
"""


class Relay:
    """Stands between a supervisor and a shim, and keeps a copy of each packet.

    Args:
        directory: of the job, to which no supervisor is connected now.
        keep: is told who has said what.
    """

    def __init__(self, directory: Path, keep) -> None:
        self._keep = keep
        self._real = directory / "real.sock"
        (directory / files.SOCKET).rename(self._real)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(directory / files.SOCKET))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with self._listener, contextlib.ExitStack() as stack:
            supervisor = stack.enter_context(self._listener.accept()[0])
            shim = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            shim.connect(str(self._real))
            names = {supervisor: ("supervisor", shim), shim: ("shim", supervisor)}
            while True:
                for source in select.select(names, [], [])[0]:
                    name, sink = names[source]
                    try:
                        packet = source.recv(protocol.MAX_PACKET)
                    except ConnectionResetError:  # it has gone without reading all
                        return
                    if not packet:
                        return
                    self._keep(name, packet)
                    with contextlib.suppress(BrokenPipeError):  # likewise
                        sink.send(packet)

    def close(self) -> None:
        """Wait for the end of the connection."""
        self._thread.join()
        self._real.unlink()


def record_launch(folder: Path, keep) -> None:
    """A fork server and the first and second launch of one job."""
    server = shims.ForkServer(folder, isolated=True, keep=keep)
    job = server.launch(["sleep", "1000"])
    job.expect(protocol.STARTED)
    server.launch(["sleep", "1000"], directory=job.directory).expect(protocol.REFUSED)
    server.close()


async def record_life(supervisor: harness.Supervisor, keep) -> None:
    """A supervisor that has come back, and all that it can ask a shim for."""
    async with supervisor.client() as client, trio.open_nursery() as nursery:
        job = await harness.until_running(client, await client.run(["sh", "-c", SCRIPT]))
        supervisor.kill()
        relay = Relay(supervisor.job_directory(job), keep)
        await harness.in_thread(supervisor.start)
        heard = trio.Event()
        nursery.start_soon(_follow, client, job.id, heard)
        await client.inspect(job.id)
        await client.signal(job.id, "USR1")
        await heard.wait()
        await client.pause(job.id)
        await client.resume(job.id)
        await client.update(job.id, output_max_bytes=1 << 20, timeout_s=600)
        await client.kill(job.id, grace_s=0.5)
        await client.wait(job.id)
    await harness.in_thread(relay.close)


async def _follow(client, job_id: str, heard: trio.Event) -> None:
    async for item in client.follow(job_id):
        if isinstance(item, harness.Chunk) and b"heard" in item.data:
            heard.set()


def plain(value: object) -> object:
    """Give bytes a form that JSON has."""
    return {"$bytes": value.hex()} if isinstance(value, bytes) else value


def entry(name: str, packet: bytes) -> str:
    """Write one packet down."""
    message = json.dumps(files.decode(packet), default=plain, ensure_ascii=True)
    rows = [packet[at : at + 40].hex() for at in range(0, len(packet), 40)]
    hexed = "\n".join(("", *(f"  {row}" for row in rows), ""))
    return f"[[packet]]\nfrom = {name!r}\nhex = '''{hexed}'''\nmessage = '''{message}'''\n"


def main() -> None:
    """Print a recording."""
    if os.geteuid() != 0:
        sys.exit("run it as root: cgroups are needed to freeze a job")
    entries = []

    def keep(name: str, packet: bytes) -> None:
        entries.append(entry(name, packet))

    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "launch").mkdir()
        record_launch(Path(name) / "launch", keep)
        supervisor = harness.Supervisor(Path(name) / "supervisor")
        supervisor.start()
        try:
            trio.run(record_life, supervisor, keep)
        finally:
            faults = supervisor.end()
    if faults:
        sys.exit(f"this is left over: {faults}")
    sys.stdout.write("\n".join((HEAD.format(version=protocol.PROTOCOL), *entries)))


if __name__ == "__main__":
    main()

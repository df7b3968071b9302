"""The fork server: imports all that a shim needs, once, and forks one shim for each launch.

    python -I -X utf8 -m jobs_shim

Standard input is its SOCK_SEQPACKET connection to the supervisor; it ends when that ends. The
shims do not: they are re-parented, and go on. One thread, so that fork(2) is safe.
"""

import gc
import os
import struct
import _signal as signal  # see jobs_shim
import _socket as socket
import sys

import ctypes, fcntl, select, resource, time, msgpack
from jobs_shim import dense
from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_shim import probe, shim, syscalls, warm
from jobs_shim.steps import IGNORED

_FDS = struct.Struct("=2i")


def main() -> None:
    """Serve launches until the supervisor goes."""
    try:
        supervisor = socket.socket(fileno=os.dup(0))
        supervisor.getpeername()
    except OSError:
        sys.exit("jobs-shim: started by jobs-supervisor, never by hand; see jobs-supervisor --help")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    syscalls.close_range(supervisor.fileno() + 1, 0xFFFF_FFFF)
    settle_signals()
    mode, why = probe.best_mode()
    if "LAY" in os.environ: dense.lay_out()
    warm.up()
    syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-forkserver")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps: shims report for themselves
    hello = {"protocol": protocol.PROTOCOL, "pid": os.getpid(), "mode": mode, "why": why}
    supervisor.send(protocol.pack(protocol.HELLO, hello))
    warm.freeze()
    serve(supervisor)


def settle_signals() -> None:
    """Have every signal at its default, whatever we were started with, but what must not end us."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)  # its supervisor ends it; shims end with their job
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def serve(supervisor: socket.socket) -> None:
    """Fork a shim for each packet that asks for one."""
    room = socket.CMSG_SPACE(_FDS.size)
    flags = socket.MSG_CMSG_CLOEXEC
    while True:
        packet, ancillary, _flags, _address = supervisor.recvmsg(protocol.MAX_PACKET, room, flags)
        if not packet:
            return
        connection, plan = _FDS.unpack(ancillary[0][2])
        launch(supervisor, packet, connection, plan)
        os.close(connection)
        os.close(plan)


def launch(supervisor: socket.socket, packet: bytes, connection: int, plan: int) -> None:
    """Fork the shim of one job."""
    try:
        pid = os.fork()
    except OSError as error:
        os.write(connection, protocol.pack(protocol.REFUSED, {"why": f"fork: {error.strerror}"}))
        return
    if pid == 0:
        os.close(supervisor.detach())
        be_shim(packet, connection, plan)


def be_shim(packet: bytes, connection: int, plan: int) -> None:
    """Be the shim of one job; never returns."""
    directory = "/"
    try:
        os.setsid()
        os.chdir("/")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(0, 1)
        os.dup2(0, 2)
        syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-shim")
        directory = str(protocol.unpack(packet)[1]["dir"])
        decoded = files.decode(os.pread(plan, os.fstat(plan).st_size, 0))
        os.close(plan)
        shim.Shim(directory, decoded, connection).run()  # type: ignore[arg-type]
    except BaseException:
        import traceback  # noqa: PLC0415  # needed once in a bad day; paid for by no job

        with open(f"{directory}/{files.SHIM_ERROR}", "a") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()

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

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_shim import probe, shim, syscalls


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
    syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-forkserver")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its supervisor ends it; shims end with their job
    mode, why = probe.best_mode()
    supervisor.send(
        protocol.pack(
            protocol.HELLO,
            {"protocol": protocol.PROTOCOL, "pid": os.getpid(), "mode": mode, "why": why},
        )
    )
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps: shims report for themselves
    gc.collect()
    gc.disable()
    gc.freeze()
    serve(supervisor)


def serve(supervisor: socket.socket) -> None:
    """Fork a shim for each packet that asks for one."""
    room = socket.CMSG_SPACE(2 * 4)
    while True:
        packet, ancillary, _flags, _address = supervisor.recvmsg(protocol.MAX_PACKET, room)
        if not packet:
            return
        _kind, body = protocol.unpack(packet)
        fds = struct.unpack("=2i", ancillary[0][2])
        try:
            pid = os.fork()
        except OSError as error:
            connection = socket.socket(fileno=fds[0])
            connection.send(protocol.pack(protocol.REFUSED, {"why": f"fork: {error.strerror}"}))
            connection.close()
            os.close(fds[1])
            continue
        if pid == 0:
            supervisor.close()
            be_shim(str(body["dir"]), *fds)
        for fd in fds:
            os.close(fd)


def be_shim(directory: str, connection: int, plan: int) -> None:
    """Be the shim of one job; never returns."""
    try:
        os.setsid()
        os.chdir("/")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for target in (1, 2):
            os.dup2(0, target)
        syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-shim")
        steps = files.decode(os.read(plan, os.fstat(plan).st_size))
        os.close(plan)
        job = shim.Shim(directory, steps, socket.socket(fileno=connection))  # type: ignore[arg-type]
        job.run()
    except BaseException:
        import traceback  # noqa: PLC0415  # needed once in a bad day; paid for by no job

        with open(f"{directory}/{files.SHIM_ERROR}", "a") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()

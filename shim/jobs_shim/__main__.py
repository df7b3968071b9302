"""The fork server: imports all that a shim needs, once, and forks shims, which wait for a job each.

    python -I -X utf8 -m jobs_shim

Standard input is its SOCK_SEQPACKET connection to the supervisor; it ends when that ends. The
shims do not: they are re-parented, and go on. One thread, so that fork(2) is safe.

Between two forks it does as little as it can: a page that it writes to is no longer shared with
the shims that are there already.
"""

import os
import struct
import sys

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.failpoint import failpoint, shim_forked
from jobs_shim import dense, probe, shim, steps, syscalls, warm  # dense first: see there
from jobs_shim.lean import signal, socket

_MAX_PACKET = 8192  # it holds few steps
_FDS = struct.Struct("=2i")


def main() -> None:
    """Serve until the supervisor goes."""
    supervisor = _supervisor()
    os.setsid()  # what a terminal sends to the supervisor is not for us
    syscalls.allow_all_files()
    os.chdir("/")
    _settle_signals()
    mode, why = probe.best_mode()
    dense.gather_code(*(module for name, module in sys.modules.items() if _is_ours(name)))
    warm.up()
    syscalls.prctl(syscalls.PR_SET_NAME, b"jobs-forkserver")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps: shims report for themselves
    hello = {"protocol": protocol.PROTOCOL, "pid": os.getpid(), "mode": mode, "why": why}
    failpoint("forkserver.before-hello")
    try:
        supervisor.send(protocol.pack(protocol.HELLO, hello))
    except OSError:
        sys.exit()  # it went while we were getting ready
    del hello, mode, why
    serve(supervisor)
    os._exit(0)  # there is nothing to tidy up


def _is_ours(module: str) -> bool:
    return module == __name__ or module.startswith(("jobs_proto.", "jobs_shim."))


def _supervisor() -> socket.socket:
    """Take the connection from standard input, and close whatever else was left open."""
    try:
        connection = socket.socket(fileno=os.dup2(0, 3, inheritable=False))
        connection.getpeername()
    except OSError:
        sys.exit("jobs-shim: started by jobs-supervisor, never by hand; see jobs-supervisor --help")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    syscalls.close_range(4, 0xFFFF_FFFF)
    return connection


def _settle_signals() -> None:
    """Have every signal at its default, whatever we were started with, but what must not end us."""
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    for number in steps.IGNORED:
        signal.signal(number, signal.SIG_IGN)  # its supervisor ends it; shims end with their job
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def serve(supervisor: socket.socket) -> None:
    """Fork a shim for each packet that asks for one.

    What the loop uses is looked up before it: a lookup writes to more pages than a local name.
    """
    room, flags = socket.CMSG_SPACE(_FDS.size), socket.MSG_CMSG_CLOEXEC
    receive, unpack, fork, close = supervisor.recvmsg, _FDS.unpack, syscalls.fork, os.close
    usual: bytes | None = None
    enter: object = None
    warm.freeze()
    while True:
        try:
            packet, ancillary, received, _address = receive(_MAX_PACKET, room, flags)
        except ConnectionResetError:
            return  # it went before it had read our hello
        if not packet:
            return
        if received & socket.MSG_CTRUNC:
            _close_all(ancillary)
            continue  # our table of descriptors is full; the supervisor sees this connection end
        connection, birthplace = unpack(ancillary[0][2])
        failpoint("forkserver.asked")
        if packet != usual:  # one supervisor's are all the same: that much less to do for each
            usual, enter = packet, protocol.unpack(packet)[1]["enter"]
        try:
            pid = fork()
        except OSError as error:
            _refuse(connection, error)
            pid = -1
        if pid == 0:
            close(supervisor.detach())
            be_shim(enter, connection, birthplace)
        failpoint("forkserver.forked")
        close(connection)
        close(birthplace)


def _close_all(ancillary: list[tuple[int, int, bytes]]) -> None:
    for _level, _kind, fds in ancillary:
        for fd in memoryview(fds).cast("i"):
            os.close(fd)


def _refuse(connection: int, error: OSError) -> None:
    refusal = protocol.pack(protocol.REFUSED, {"why": f"fork: {error.strerror}"})
    try:
        os.write(connection, refusal)
    except OSError:
        pass  # its supervisor does not wait for it any more


def be_shim(enter: object, connection: int, birthplace: int) -> None:
    """Be the shim of one job; never returns."""
    claimed = None
    try:
        shim_forked()
        claimed = shim.prepare(enter, connection, birthplace)
        if claimed is not None:
            shim.wake(claimed).run()
    except BaseException as error:
        import traceback  # noqa: PLC0415  # needed once in a bad day; paid for by no job

        if claimed is None:
            os.write(connection, protocol.pack(protocol.REFUSED, {"why": f"no shim: {error!r}"}))
        else:
            with open(f"{shim.directory_of(claimed)}/{files.SHIM_ERROR}", "a") as file:
                traceback.print_exc(file=file)
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()

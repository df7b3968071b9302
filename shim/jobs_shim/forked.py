"""A shim's init, from the shim's side: its process, and the pipes and sockets between them."""

import fcntl
import os

from jobs_proto import files
from jobs_shim import init, launcher, syscalls
from jobs_shim.lean import signal, socket, socket_pair
from jobs_shim.steps import StepError, execute

PIPE_SIZE = 256 * 1024
EX_SOFTWARE = 70  # sysexits.h
_CLAIM_SIZE = 65536
_WORD_SIZE = 8192
_UCRED = socket.CMSG_SPACE(12)  # pid, uid, gid; unix(7)
_CLAIM_ROOM = _UCRED + socket.CMSG_SPACE(launcher.CLAIMED.size)


class ForkedInit:
    """What a shim has of its init.

    Attributes:
        pid: None if it could not be forked.
        failed: what could not be done for the start, if anything: [step, errno, path].
        channel: to it, for the job's life.
        start: where its launcher says how the start goes; a descriptor, or -1.
        leader: the leader's pid on the host.
        started: the start channel has ended, and what it was about is over, well or not.
        pipes: the reading ends of the job's output → stream.
    """

    __slots__ = ("_start", "channel", "failed", "leader", "pid", "pipes", "start", "started")

    def __init__(self, steps: object, supervisor: int, birthplace: int) -> None:
        """Fork it into the namespaces that only a fork enters.

        Args:
            steps: enter them.
            supervisor: the connection on which the launcher hears of the job.
            birthplace: the directory of the v2 cgroup that the launcher is to be born in, or of
                something else, for nowhere in particular; closed.
        """
        self.pid: int | None = None
        self.failed: list[object] | None = None
        self.leader: int | None = None
        self.started = False
        stat = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
        shim = (supervisor, stat, os.getpid())
        self.channel, init_channel = socket_pair(socket.SOCK_NONBLOCK)
        self.start, init_start = socket_pair()
        self._start = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, self.start)
        self._start.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        out_r, out_w = make_pipe()
        err_r, err_w = make_pipe()
        self.pipes = {out_r: files.STDOUT, err_r: files.STDERR}
        theirs = (init_channel, init_start, *socket_pair(), birthplace, out_w, err_w)
        signal.pthread_sigmask(signal.SIG_BLOCK, init.AWAITED)  # for init, see there
        failed = None
        try:
            execute(steps)
            self.pid = syscalls.fork()
        except StepError as error:
            failed = error
        except OSError as error:
            failed = StepError("fork", error.errno or 0, None)
        if self.pid == 0:
            try:
                others = (self.channel, self.start, out_r, err_r)
                init.run(shim, theirs, others, own_pids=os.getpid() == 1)
                os._exit(0)
            finally:
                os._exit(EX_SOFTWARE)
        if failed is not None:
            launcher.report_to(init_start, shim, failed)
            self.failed = [failed.step, failed.errno, failed.path]
        for fd in (stat, *theirs):
            os.close(fd)

    def claimed(self) -> tuple[bytes, bytes, tuple[int, ...]]:
        """Wait for a job, and for what has come of its claim.

        Returns:
            Of the claim: its head, its rest, encoded (`jobs_shim.launcher`), the descriptors of
            `jobs_shim.claim`. If it was refused, the head is empty, and the rest says why in words,
            or is empty: the supervisor went, or the launcher was killed, and there is no job.
        """
        flags = socket.MSG_CMSG_CLOEXEC
        packet, ancillary, _, _ = self._start.recvmsg(_CLAIM_SIZE, _CLAIM_ROOM, flags)
        head, _, rest = packet.partition(b"\0")
        return head, rest, launcher.CLAIMED.unpack(ancillary[-1][2]) if head else ()

    def hear(self) -> None:
        """Learn who the leader is, what failed, or, by the channel's end, that it executes.

        Raises:
            BlockingIOError: nothing was said.
        """
        packet, ancillary, _, _ = self._start.recvmsg(_WORD_SIZE, _UCRED, socket.MSG_DONTWAIT)
        if packet == launcher.LEADER:
            self.leader = int.from_bytes(ancillary[0][2][:4], "little")  # struct ucred
        elif packet:
            self.failed = files.decode(packet)  # type: ignore[assignment]
        else:
            self.started = True

    def end_start(self) -> None:
        """Close the start channel; its number may soon be that of something else."""
        self._start.close()
        self.start = -1


def make_pipe() -> tuple[int, int]:
    """Make a pipe whose reading end does not block, and that a job can open as /dev/stdout."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    os.fchmod(write, 0o622)  # it is ours, and the job another user's
    try:
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # over the user's pipe-user-pages-soft, pipe(7): a smaller pipe is only slower
    return read, write

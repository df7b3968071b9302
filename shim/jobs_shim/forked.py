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
_CLAIM_ROOM = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(launcher.CLAIMED.size)  # 12: struct ucred


class ForkedInit:
    """What a shim has of its init.

    Attributes:
        pid: None if it could not be forked.
        failed: why, then: [step, errno, path].
        channel: to it, for the job's life.
        start: where its launcher, and then the leader, say how the start goes.
        pipes: the reading ends of the job's output → stream.
    """

    __slots__ = ("channel", "failed", "pid", "pipes", "start")

    def __init__(self, steps: object, directory: str, plan: int, supervisor: int) -> None:
        """Fork it into the namespaces that only a fork enters.

        Args:
            steps: enter them.
            directory: the job's.
            plan: descriptor of the plan, which the launcher reads.
            supervisor: a descriptor that is not for init.
        """
        self.pid: int | None = None
        self.failed: list[object] | None = None
        job = (directory, plan, os.getpid())
        self.channel, init_channel = socket_pair(socket.SOCK_NONBLOCK)
        start, init_start = socket_pair()
        self.start = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, start)
        self.start.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        out_r, out_w = make_pipe()
        err_r, err_w = make_pipe()
        self.pipes = {out_r: files.STDOUT, err_r: files.STDERR}
        theirs = (init_channel, init_start, *socket_pair(), out_w, err_w)
        signal.pthread_sigmask(signal.SIG_BLOCK, init.AWAITED)  # for init, see there
        try:
            execute(steps)
            self.pid = syscalls.fork()
        except StepError as error:
            self.failed = [error.step, error.errno, error.path]
        except OSError as error:
            self.failed = ["fork", error.errno, None]
        if self.pid == 0:
            try:
                shims = (self.channel, start, out_r, err_r, supervisor)
                init.run(job, theirs, shims, own_pids=os.getpid() == 1)
                os._exit(0)
            finally:
                os._exit(EX_SOFTWARE)
        if self.pid is None:
            launcher.claim_for(init_start, job)  # there has to be a record of what failed
        for fd in theirs:
            os.close(fd)

    def claimed(self) -> tuple[object, object]:
        """Wait for what has come of the claim.

        Returns:
            What we have to know of the plan, and the descriptors of `jobs_shim.claim`; or None and
            why it was refused, in words, or None: the launcher was killed, and there is no job.
        """
        packet, ancillary, _flags, _address = self.start.recvmsg(
            _CLAIM_SIZE, _CLAIM_ROOM, socket.MSG_CMSG_CLOEXEC
        )
        if not packet:
            return None, None
        answer: tuple[object, object] = files.decode(packet)  # type: ignore[assignment]
        plan, why = answer
        return plan, why if plan is None else launcher.CLAIMED.unpack(ancillary[-1][2])


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

"""A shim's conversation with supervisors; what is said is defined in `jobs_proto.shim`.

Usually there is one; after it was killed there is none, until one comes back and connects.
"""

import os

from jobs_proto import shim as protocol
from jobs_proto.failpoint import failpoint
from jobs_shim.lean import TYPE_CHECKING, signal, socket

if TYPE_CHECKING:
    from jobs_shim.shim import Shim

MAX_WISH = 12288
"""Bytes of what a supervisor says: the longest name that kills has 8192, and the rest has room."""


class Supervisors:
    """Those that are connected.

    Args:
        job: whose shim this is.
        listener: descriptor of the socket where one that comes back connects.
    """

    __slots__ = ("_job", "_listener", "_watches")

    def __init__(self, job: "Shim", listener: int) -> None:
        self._job = job
        self._listener = listener
        self._watches: dict[int, int | None] = {}  # supervisor → the total that it has seen
        job.events.on(listener, self.accept)

    def accept(self, _fd: int, _events: int) -> None:
        """A supervisor came back."""
        fd = accept(self._listener)
        if fd < 0:
            return
        self.add(fd)
        job = self._job
        say_hello(
            fd,
            str(job.plan["job"]),
            job.forked.leader,
            job.started_ns,
            frozen=job.frozen,
            total=job.output.indexed,
        )

    def add(self, fd: int) -> None:
        """Hear one supervisor's wishes."""
        os.set_blocking(fd, False)
        self._watches[fd] = None
        self._job.events.on(fd, self.hear)

    def drop(self, fd: int) -> None:
        """Forget a supervisor that is gone or does not read."""
        self._job.events.off(fd)
        del self._watches[fd]
        os.close(fd)

    def tell(self, fd: int, kind: str, body: protocol.Body) -> None:
        """Send a packet; never wait."""
        try:
            os.write(fd, protocol.pack(kind, body))
        except OSError:
            self.drop(fd)

    def tell_all(self, kind: str, body: protocol.Body) -> None:
        """Send every supervisor a packet."""
        for fd in tuple(self._watches):
            self.tell(fd, kind, body)

    def tell_grown(self) -> None:
        """Tell each supervisor that waits for more output than it has seen, once."""
        total = self._job.output.indexed
        for fd, seen in tuple(self._watches.items()):
            if seen is not None and total > seen:
                self._watches[fd] = None
                self.tell(fd, protocol.GREW, {"total": total})

    def hear(self, fd: int, _events: int) -> None:
        """One packet of a supervisor; one that is no packet of ours ends its connection."""
        try:
            packet = os.read(fd, MAX_WISH)
        except BlockingIOError:
            return  # the descriptor is new; what there was to read was the last one's of its number
        except OSError:
            packet = b""
        if packet:
            self.take(fd, packet)
        else:
            self.drop(fd)

    def take(self, fd: int, packet: bytes) -> None:
        """Do what a packet asks for."""
        try:
            self.obey(fd, *protocol.unpack(packet))
        except (OSError, ValueError, LookupError, TypeError, OverflowError):
            self.drop(fd)

    def obey(self, fd: int, kind: str, body: protocol.Body) -> None:
        """Do what a supervisor asks for.

        Raises:
            ValueError, LookupError, TypeError, OverflowError: it is none of this protocol.
        """
        job = self._job
        if kind == protocol.WATCH:
            self._watches[fd] = int(body["offset"])  # type: ignore[call-overload]
            self.tell_grown()
        elif kind == protocol.KILL:
            number, grace_s, by = signal_of(body), float(body["grace_s"]), str(body["by"])  # type: ignore[arg-type]
            if not grace_s >= 0:  # nor NaN
                raise ValueError("no such grace period")
            if job.killed_by is None:
                job.killed_by = by
            failpoint("shim.kill-heard")
            job.begin_kill(number, grace_s)
            failpoint("shim.kill-begun")
        elif kind == protocol.SIGNAL:
            job.signal(signal_of(body))
        elif kind == protocol.FREEZE:
            job.freeze(frozen=bool(body["frozen"]))
            failpoint("shim.frozen")
            self.tell_all(protocol.FROZEN, {"frozen": job.frozen})
        elif kind == protocol.UPDATE:
            self.update(body)
            failpoint("shim.updated")
        elif kind == protocol.USAGE:
            answer: protocol.Body = {"usage": job.usage(), "output": job.output.counts()}
            self.tell(fd, protocol.USAGE, answer)

    def update(self, body: protocol.Body) -> None:
        """Have other limits than the plan's.

        Raises:
            ValueError, TypeError: they are none.
        """
        job = self._job
        limit, timeout_s = body.get("output_max_bytes"), body.get("timeout_s")
        if limit is not None:
            if not int(limit) > 0:  # type: ignore[call-overload]
                raise ValueError("no such cap")
            job.output.allow(int(limit))  # type: ignore[call-overload]
            for pipe in job.pipes:
                if pipe not in job.events and not job.output.blocked:
                    job.events.on(pipe, job.take)  # one that had ended does so again
        job.plan["timeout_s"] = None if timeout_s is None else float(timeout_s)  # type: ignore[arg-type]
        job.set_deadline()


def signal_of(body: protocol.Body) -> int:
    """Give the number of a signal that a supervisor names.

    Raises:
        ValueError, LookupError, TypeError: it names none.
    """
    number = int(body["signal"])  # type: ignore[call-overload]
    if not 0 < number < signal.NSIG:
        raise ValueError("no such signal")
    return number  # type: ignore[no-any-return]


def accept(listener: int) -> int:
    """Take on a supervisor that has connected; -1 if it went away again."""
    borrowed = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, listener)
    try:
        fd, _address = borrowed._accept()  # type: ignore[attr-defined]  # noqa: SLF001  # the C name for accept(2)
    except OSError:
        return -1
    finally:
        borrowed.detach()
    return fd  # type: ignore[no-any-return]


def say_hello(
    fd: int,
    job: str,
    leader: int | None,
    started_ns: int | None,
    *,
    frozen: bool = False,
    total: int = 0,
) -> None:
    """Tell one supervisor whose shim this is; what it has not time to read it will not hear."""
    hello: protocol.Body = {
        "protocol": protocol.PROTOCOL,
        "job": job,
        "pid": os.getpid(),
        "leader": leader,
        "started_ns": started_ns,
        "frozen": frozen,
        "total": total,
    }
    say(fd, protocol.HELLO, hello)


def say_started(fd: int, leader: int, started_ns: int) -> None:
    """Tell one supervisor that the leader executes."""
    say(fd, protocol.STARTED, {"pid": leader, "time_ns": started_ns})


def say(fd: int, kind: str, body: protocol.Body) -> None:
    """Send a packet to one that has just connected; if it has gone, that will be seen."""
    try:
        os.write(fd, protocol.pack(kind, body))
    except OSError:
        pass

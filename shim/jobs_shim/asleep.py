"""A shim that waits: all that it does for a job which starts and then sleeps.

Theory. A page that this process has not written to is one with its fork server, and any code that
runs writes to the pages of what it uses. A job may sleep for months, and supervisors come and go
meanwhile; so what happens to each job is done here, by little code, without a look into
the plan and without making the objects of `jobs_shim.shim`. Whatever else happens is left to those:
poll(2) will say it again. There is no way back, since what was written to stays written to.
"""

import os
import select
import time

from jobs_proto.failpoint import failpoint
from jobs_shim.forked import ForkedInit
from jobs_shim.supervisors import MAX_WISH, accept, say_hello, say_started

LONGEST_WAIT_S = 86400.0  # poll(2) cannot wait longer than 24 days; to wake once a day is nothing


class Asleep:
    """What it knows.

    Args:
        head: of the claim: the job's timeout, or nothing, a space, and its id.
        forked: init.
        listener: the socket where a supervisor that comes back connects.
        supervisor: the connection that the launch came on.

    Attributes:
        clock: what makes of the monotonic clock a wall clock that never goes back, in ns.
        started_ns: when the leader was executed.
        supervisors: connections.
        wish: who has asked for something, and the packet.
    """

    __slots__ = (
        "_job",
        "_poll",
        "_until",
        "clock",
        "forked",
        "listener",
        "started_ns",
        "supervisors",
        "wish",
    )

    def __init__(self, head: bytes, forked: ForkedInit, listener: int, supervisor: int) -> None:
        self.clock = time.time_ns() - time.monotonic_ns()
        self.started_ns: int | None = None
        self.supervisors = [supervisor]
        self.wish: tuple[int, bytes] | None = None
        self.listener = listener
        timeout, self._job = head.split(b" ")
        self._until = float(timeout) if timeout else None  # of the job's time, then of the clock's
        self.forked = forked
        self._poll = poll = select.poll()
        for fd in (supervisor, listener, forked.start, forked.channel, *forked.pipes):
            poll.register(fd, select.POLLIN)

    def sleep(self) -> None:
        """Return when there is something to do that is not done here."""
        while ready := self._poll.poll(self._wait_ms()):
            for fd, _events in ready:
                if fd == self.listener:
                    self._accept()
                elif fd == self.forked.start:
                    if not self._hear_start():
                        return
                elif fd not in self.supervisors or not self._has_gone(fd):
                    return

    def _wait_ms(self) -> float | None:
        if self._until is None or self.started_ns is None:
            return None
        return min(max(self._until - time.monotonic(), 0.0), LONGEST_WAIT_S) * 1000 + 1

    def _hear_start(self) -> bool:
        """Take a word of the start; False if it has failed."""
        forked = self.forked
        forked.hear()
        if forked.failed is not None:
            return False
        if not forked.started:
            return True
        if forked.leader is None:
            return False
        self._poll.unregister(forked.start)
        forked.end_start()
        self.started_ns = time.monotonic_ns() + self.clock
        if self._until is not None:
            self._until += time.monotonic()
        failpoint("shim.started")
        for fd in self.supervisors:
            say_started(fd, forked.leader, self.started_ns)
        return True

    def _accept(self) -> None:
        """A supervisor came back."""
        fd = accept(self.listener)
        if fd >= 0:
            self._poll.register(fd, select.POLLIN)
            self.supervisors.append(fd)
            say_hello(fd, self._job.decode(), self.forked.leader, self.started_ns)

    def _has_gone(self, fd: int) -> bool:
        """Hear a supervisor; False if it has asked for something."""
        try:
            packet = os.read(fd, MAX_WISH)
        except ConnectionResetError:
            packet = b""  # it went, and had not read all
        if packet:
            self.wish = fd, packet
            return False
        self._poll.unregister(fd)
        self.supervisors.remove(fd)
        os.close(fd)
        return True

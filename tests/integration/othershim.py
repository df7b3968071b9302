"""A shim that is not this version's: what it says are bytes that were recorded."""

import fcntl
import os
import socket
from pathlib import Path

import harness

from jobs_proto import files
from jobs_proto import shim as protocol


class OtherShim:
    """Holds a job's directory as a shim of another version does, and says what it would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = os.open(directory / files.LOCK, os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (directory / files.SOCKET).unlink()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.settimeout(harness.START_S)
        folder = os.open(directory, os.O_PATH)
        self._listener.bind(f"/proc/self/fd/{folder}/{files.SOCKET}")
        os.close(folder)
        self._listener.listen()
        self.connection = None

    def accept(self, hello: bytes) -> None:
        """Wait for a supervisor and greet it."""
        self.connection, _address = self._listener.accept()
        self.connection.settimeout(harness.START_S)
        self.connection.send(hello)

    def end(self, record: bytes) -> None:
        """Leave an exit record and go."""
        (self.directory / files.EXIT).write_bytes(record)
        self.close()

    def close(self) -> None:
        for each in (self.connection, self._listener):
            if each is not None:
                each.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def hear(self) -> tuple[str, dict]:
        """Give the next packet of the supervisor; ("", {}) if it has gone."""
        packet = self.connection.recv(protocol.MAX_PACKET)
        return protocol.unpack(packet) if packet else ("", {})

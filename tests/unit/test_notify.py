"""What systemd is told, on real sockets."""

import os
import socket

import pytest
from structlog.testing import capture_logs

from jobs_supervisor.notify import notify


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_a_state_arrives(kind, tmp_path, monkeypatch):
    name = str(tmp_path / "notify") if kind == "path" else f"@jobs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0", 1) if kind == "abstract" else name)
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        notify("STOPPING=1")
        assert [manager.recv(100), manager.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_a_manager_that_is_not_there_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with capture_logs() as said:
        notify("READY=1")
    assert [(each["log_level"], each["why"]) for each in said] == [
        ("warning", "No such file or directory")
    ]


def test_nobody_wants_to_know(monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with capture_logs() as said:
        notify("READY=1")
    assert said == []

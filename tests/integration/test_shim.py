"""Shims, by a fork server of their own: supervisors, output, cost."""

import hashlib
import os
import select
import signal
import socket
import subprocess
import sys

import proctable
import pytest
import shims

from jobs_proto import files
from jobs_proto import shim as protocol

MEMORY_LIMIT_KB = 976
"""Of a shim and its init together, when there are many."""

MANY = 100


# -- supervisors ----------------------------------------------------------------------------------


def test_a_supervisor_comes_back(server, stack):
    job = server.launch(["sleep", "1000"])
    started = job.expect(protocol.STARTED)
    job.connection.close()
    back = job.reattach(stack)
    assert back.expect(protocol.HELLO) == {
        "protocol": protocol.PROTOCOL,
        "job": "a-job",
        "pid": job.shim,
        "leader": started["pid"],
        "started_ns": started["time_ns"],
        "frozen": False,
        "total": 0,
    }
    back.kill()
    assert back.end()["killed_by"] == "tester"


def test_supervisors_come_and_go_while_the_job_sleeps(server, stack):
    job = server.launch(["sleep", "1000"])
    started = job.expect(protocol.STARTED)
    others = [job.reattach(stack) for _ in range(3)]
    for other in others:
        assert other.expect(protocol.HELLO)["leader"] == started["pid"]
    others[0].connection.close()
    last = job.reattach(stack)
    assert last.expect(protocol.HELLO)["started_ns"] == started["time_ns"]
    job.connection.close()
    others[1].tell(protocol.WATCH, offset=0)
    last.kill()
    assert last.end()["killed_by"] == "tester"
    others[2].expect(protocol.EXITED)


def test_the_fork_server_may_die(server):
    job = server.launch(["sleep", "1000"])
    job.expect(protocol.STARTED)
    server.connection.close()
    assert server.process.wait(shims.WAIT_S) == 0
    job.kill(signal.SIGTERM, grace_s=1000)
    assert job.end()["status"] == signal.SIGTERM


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xc1",
        b"\x00" * 100,
        files.encode([protocol.KILL, {}]),
        files.encode([protocol.KILL, {"signal": 0, "grace_s": 0, "by": "x"}]),
        files.encode([protocol.KILL, {"signal": 9, "grace_s": float("nan"), "by": "x"}]),
        files.encode([protocol.KILL, {"signal": "TERM", "grace_s": 1, "by": "x"}]),
        files.encode([protocol.SIGNAL, {"signal": 999}]),
        files.encode([protocol.SIGNAL, {"signal": float("inf")}]),
        files.encode([protocol.WATCH, {"offset": None}]),
    ],
)
def test_whoever_does_not_speak_the_protocol_is_dropped_and_the_job_goes_on(plain, stack, packet):
    job = plain.launch(["sleep", "1000"])
    job.expect(protocol.STARTED)
    other = job.reattach(stack)
    other.expect(protocol.HELLO)
    other.connection.send(packet)
    assert other.hear() == ("", {})
    job.tell("a kind of another version", key=1)
    job.kill(signal.SIGTERM, grace_s=1000)
    assert job.end()["status"] == signal.SIGTERM


# -- output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65537, 100 << 20])
def test_output_is_exact_whatever_the_bytes(server, tmp_path, size):
    data = tmp_path / "data"
    with data.open("wb") as file:
        for _ in range(size // 65536):
            file.write(os.urandom(65536))
        file.write(os.urandom(size % 65536))
    leader = [["exec", ["sh", "-c", 'cat "$0"; echo end >&2', str(data)], {"PATH": shims.PATH}]]
    job = server.launch(None, leader=leader)
    record = job.end()
    assert record["output"]["stdout"] == size
    out, err, before = hashlib.sha256(), b"", 0
    with (job.directory / files.OUTPUT).open("rb") as file:
        for end, _time, kind, _ in job.chunks:
            portion = file.read(end - before)
            before = end
            if kind == files.STDOUT:
                out.update(portion)
            else:
                err += portion
        assert file.read() == b""
    assert before == record["output"]["total"] == size + 4
    assert err == b"end\n"
    with data.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == out.digest()


def test_whoever_sees_output_was_told_of_the_start(server):
    os.sched_setaffinity(server.process.pid, {min(os.sched_getaffinity(0))})  # a leader overtakes
    for _ in range(MANY):
        job = server.launch(["echo", "at once"])
        job.tell(protocol.WATCH, offset=0)
        job.expect(protocol.STARTED)
        assert job.end()["started_ns"] <= job.chunks[0][1]


def test_the_index_tells_the_streams_apart(server):
    script = "for i in 1 2 3; do echo out$i; echo err$i >&2; done"
    job = server.launch(["sh", "-c", script])
    record = job.end()
    text, before, times = {files.STDOUT: b"", files.STDERR: b""}, 0, []
    for end, time_ns, kind, reserved in job.chunks:
        assert before < end
        assert reserved == 0
        text[kind] += job.output[before:end]
        before = end
        times.append(time_ns)
    assert text == {files.STDOUT: b"out1\nout2\nout3\n", files.STDERR: b"err1\nerr2\nerr3\n"}
    assert times == sorted(times)
    assert before == record["output"]["total"] == 30


@pytest.mark.root
def test_a_full_disk_makes_gaps_and_the_end_is_still_known(isolated, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    os.system(f"mount -t tmpfs -o size=1m none {disk}")
    try:
        directory = disk / "job"
        directory.mkdir()
        script = "head -c 3000000 /dev/zero; echo done >&2"
        job = isolated.launch(["sh", "-c", script], directory=directory)
        record = job.end()
        assert record["status"] == 0
        assert record["output"]["total"] == 3000005
        assert record["output"]["lost"] > 1_000_000
        assert any(kind & files.GAP for _, _, kind, _ in job.chunks)
    finally:
        os.system(f"umount {disk}")


# -- cost -----------------------------------------------------------------------------------------


def test_a_waiting_shim_and_its_init_do_nothing(server):
    job = server.launch(["sleep", "1000"])
    job.expect(protocol.STARTED)
    (init,) = shims.children(job.shim)
    before, after = None, _sleeps(job.shim, init)
    while before != after:  # until both have come to their rest
        select.select([], [], [], 0.1)
        before, after = after, _sleeps(job.shim, init)
    select.select([], [], [], 0.5)  # the time in which nothing must happen
    assert _sleeps(job.shim, init) == before


def _sleeps(*pids):
    return [proctable.sleeps(pid) for pid in pids]


@pytest.mark.root
def test_many_shims_are_light(isolated):
    jobs = [isolated.launch(["sleep", "1000"]) for _ in range(MANY)]
    for job in jobs:
        job.expect(protocol.STARTED)
    pairs = [(job.shim, *shims.children(job.shim)) for job in jobs]
    each = [sum(map(proctable.pss_kb, pair)) for pair in pairs]
    mean = sum(each) / MANY
    print(f"shim and init: {mean:.0f} kB PSS, mean of {MANY}")  # noqa: T201
    assert mean <= MEMORY_LIMIT_KB, sorted(each)


def test_a_shim_imports_what_it_needs_and_nothing_else():
    script = f"""
import sys
before = set(sys.modules)
sys.path[:0] = {shims._ROOTS}
import jobs_shim.__main__
ours = ("jobs_", "msgpack", "ctypes", "_ctypes", "_cython", "cython")
print(*sorted(m for m in set(sys.modules) - before if not m.startswith(ours)))
"""
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, check=True)
    assert set(done.stdout.decode().split()) <= {
        *("_collections", "collections", "_operator", "operator", "itertools", "keyword"),
        *("reprlib", "types", "_struct", "struct"),  # ctypes and msgpack need these
        *("_datetime", "datetime", "math", "collections.abc"),  # msgpack
        *("_socket", "errno", "fcntl", "gc", "resource", "select"),
    }


# -- pipes in other hands -------------------------------------------------------------------------

_HAND_ON = """
import socket
friend = socket.socket(socket.AF_UNIX)
friend.connect({address!r})
socket.send_fds(friend, [b"."], [1])
friend.recv(1)
"""


def test_a_job_ends_though_others_write_to_its_pipe_for_ever(plain, stack):
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.settimeout(shims.WAIT_S)
    address = f"\0{plain.folder}"
    listener.bind(address)
    listener.listen()
    job = plain.launch([sys.executable, "-I", "-c", _HAND_ON.format(address=address)])
    friend = stack.enter_context(listener.accept()[0])
    _, (pipe,), *_ = socket.recv_fds(friend, 1, 1)
    writers = [stack.enter_context(subprocess.Popen(["yes"], stdout=pipe)) for _ in range(4)]
    os.close(pipe)
    friend.send(b".")
    assert job.end()["status"] == 0
    assert {writer.wait(shims.WAIT_S) for writer in writers} <= {-signal.SIGPIPE, 1}


@pytest.mark.root
def test_a_job_can_open_its_standard_streams_but_not_read_them(isolated):
    script = "echo out >/dev/stdout; cat /dev/stdout; echo err >/dev/stderr"
    job = isolated.launch(["sh", "-c", script])
    job.end()
    assert b"out\n" in job.output
    assert b"err\n" in job.output
    assert b"ermission denied" in job.output

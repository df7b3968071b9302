"""Shims, by a fork server of their own: a job starts at most once, or says why not."""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import proctable
import pytest
import shims

from jobs_proto import files
from jobs_proto import shim as protocol

# -- starts ---------------------------------------------------------------------------------------


def test_a_job_runs_and_ends_with_its_status(server):
    job = server.launch(["sh", "-c", "echo out; exit 3"])
    started = job.expect(protocol.STARTED)
    record = job.end()
    assert os.waitstatus_to_exitcode(record["status"]) == 3
    assert record["error"] is None
    assert record["pid"] == started["pid"]
    assert record["started_ns"] == started["time_ns"] <= record["finished_ns"]
    assert (record["killed"], record["killed_by"], record["timed_out"]) == (False, None, False)
    counts = record["output"]
    assert (counts["total"], counts["stdout"], counts["stderr"], counts["lost"]) == (4, 4, 0, 0)
    assert job.output == b"out\n"


@pytest.mark.parametrize(
    ("argv", "changes", "error"),
    [
        (["no-such-program"], {}, ["exec", errno.ENOENT, "no-such-program"]),
        (["/etc/passwd"], {}, ["exec", errno.EACCES, "/etc/passwd"]),
        (["/etc/passwd/x"], {}, ["exec", errno.ENOTDIR, "/etc/passwd/x"]),
        (["passwd"], {"env": {"PATH": "/etc"}}, ["exec", errno.EACCES, "passwd"]),
        (["true"], {"cwd": "/no/where"}, ["chdir", errno.ENOENT, "/no/where"]),
        (["true"], {"shim": [["unshare", 1 << 31]]}, ["unshare", errno.EINVAL, None]),
        (["true"], {"ahead": [["chdir", "/no/where"]]}, ["chdir", errno.ENOENT, "/no/where"]),
        (["true"], {"ahead": [["mount", "x", "/no", "", 0, ""]]}, ["mount", None, "/no"]),
        (["/" + "a" * 100_000], {}, ["exec", errno.ENAMETOOLONG, "/" + "a" * 999]),
        (["true"], {"cwd": "/" * 100_000}, ["chdir", errno.ENAMETOOLONG, "/" * 1000]),
        (["tr\0ue"], {}, ["exec", errno.EINVAL, None]),
        (["true"], {"env": {"A=B": ""}}, ["exec", errno.EINVAL, None]),
        (["true"], {"before": [["no_such_step"]]}, ["no_such_step", errno.EINVAL, None]),
    ],
)
def test_what_failed_at_the_start_is_known_exactly(server, argv, changes, error):
    job = server.launch(argv, **changes)
    record = job.end()
    step, number, path = record["error"]
    assert (step, record["started_ns"]) == (error[0], None)
    assert error[1] in (None, number)
    assert error[2] in (None, path)
    assert job.output == b""


def test_a_launcher_that_cannot_be_forked_is_a_failed_start(tmp_path):
    """In a process of its own, whose grandchildren have no children."""
    script = f"""
import errno, os, socket, sys
sys.path[:0] = {shims._ROOTS}
from jobs_proto import files, shim as protocol
from jobs_shim import __main__, init, syscalls
def fail(*_birthplace):
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
def run(*args, run=init.run, **kwargs):
    syscalls.fork = fail
    run(*args, **kwargs)
init.run = run
plan, ahead = os.memfd_create("plan"), os.memfd_create("ahead")
os.write(plan, files.encode({{
    "job": "a-job", "boot": "", "cgroup": None, "own_pids": False, "timeout_s": None,
    "grace_s": 5.0, "leader": [],
}}))
mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
socket.send_fds(theirs, [protocol.pack(protocol.PREPARE, {{"soon": True}})], [ahead])
launch = protocol.pack(protocol.LAUNCH, {{"dir": {str(tmp_path)!r}}})
socket.send_fds(theirs, [launch], [plan, os.open({str(tmp_path)!r}, os.O_PATH)])
__main__.be_shim([], mine.fileno(), os.dup(0))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    record = files.decode((tmp_path / files.EXIT).read_bytes())
    assert record["error"] == ["fork", errno.EAGAIN, None]


@pytest.mark.root
def test_a_user_who_may_not_is_a_failed_start(isolated, tmp_path):
    tmp_path.chmod(0o700)
    assert isolated.launch(["true"], cwd=str(tmp_path)).end()["error"] == [
        "chdir",
        errno.EACCES,
        str(tmp_path),
    ]


def test_a_plan_that_is_none_is_refused(plain):
    assert "no plan" in plain.launch(None, plan=b"\xc1").expect(protocol.REFUSED)["why"]
    assert "KeyError" in plain.launch(None, plan=files.encode({})).expect(protocol.REFUSED)["why"]
    plain.launch(["true"]).end()


@pytest.mark.root
def test_the_leader_is_in_its_cgroup_before_it_executes(isolated):
    job = isolated.launch(["cat", "/proc/self/cgroup"])
    job.end()
    assert job.cgroup is not None
    assert job.output.decode().splitlines()[-1].endswith(f"/{job.cgroup.name}")


# 32 and 33 are libc's own, and nobody can set them through it. What starts our tests may have them
# ignored: a posix_spawn(3) of glibc 2.36, as make uses it, leaves them so.
LIBC_SIGNALS = 0b11 << 31


def test_a_job_starts_with_a_clean_slate(server):
    names = ("SigBlk", "SigIgn", "SigCgt")
    job = server.launch(["cat", "/proc/self/status"])
    job.end()
    status = dict(line.split(":\t", 1) for line in job.output.decode().splitlines())
    found = {name: int(status[name], 16) & ~LIBC_SIGNALS for name in names}
    assert found == dict.fromkeys(names, 0)
    assert status["SigPnd"] == status["ShdPnd"]


def test_a_job_has_its_three_streams_and_nothing_else(server):
    job = server.launch(["sh", "-c", "echo up; kill -STOP $$"])
    pid = job.expect(protocol.STARTED)["pid"]
    job.tell(protocol.WATCH, offset=0)
    job.expect(protocol.GREW)  # the loader has closed what it had opened
    open_in_leader = shims.descriptors(pid)
    assert sorted(open_in_leader) == [0, 1, 2]
    assert open_in_leader[0] == "/dev/null"
    assert open_in_leader[1] != open_in_leader[2]
    assert (
        Path(f"/proc/{pid}/stat").read_text().split()[5]
        == Path(f"/proc/{pid}/stat").read_text().split()[4]
    ), "the leader leads a session of its own"


@pytest.mark.root
def test_shim_and_init_hold_what_they_need_and_no_more(isolated):
    first = isolated.launch(["sleep", "1000"])
    first.expect(protocol.STARTED)
    job = isolated.launch(["sleep", "1000"])
    job.expect(protocol.STARTED)
    kinds = sorted(what.split(":")[0] for what in shims.descriptors(job.shim).values())
    folder = str(job.directory)
    assert [what.removeprefix(folder) for what in kinds if what.startswith("/")] == (
        ["/dev/null"] * 3 + ["/exit.new", "/lock", "/output", "/output.idx"]
    )
    assert kinds.count("pipe") == 2
    assert kinds.count("socket") == 3  # supervisor, listener, init
    assert len(kinds) == 3 + 4 + 2 + 3
    (init,) = shims.children(job.shim)
    kinds = sorted(what.split(":")[0] for what in shims.descriptors(init).values())
    assert kinds == ["/dev/null"] * 3 + ["socket"]
    for pid, name in ((job.shim, "jobs-shim"), (init, "jobs-init")):
        assert Path(f"/proc/{pid}/comm").read_text().strip() == name


# -- a shim that waits for its job ---------------------------------------------------------------


@pytest.mark.parametrize("role", ["shim", "init", "launcher"])
def test_who_waits_for_a_job_goes_with_each_of_the_three(server, role):
    with server.fork() as connection:
        family = dict(zip(("shim", "init", "launcher"), _waiting(server), strict=True))
        os.kill(family[role], signal.SIGKILL)
        for pid in family.values():
            assert proctable.wait_gone(pid, shims.WAIT_S)
        assert connection.recv(protocol.MAX_PACKET) == b""


def test_who_waits_for_a_job_goes_with_the_supervisor(server):
    with server.fork():
        family = _waiting(server)
    for pid in family:
        assert proctable.wait_gone(pid, shims.WAIT_S)


def _waiting(server) -> list[int]:
    """Give the pids of a shim, its init and its launcher, once there is a launcher."""
    end = time.monotonic() + shims.WAIT_S
    family = []
    while len(family) < 3 or proctable.look_at(family[2]).comm != "jobs-launcher":
        assert time.monotonic() < end
        family = [each.pid for each in proctable.descendants(server.process.pid)]
    return family


def test_a_shim_that_could_not_be_made_ahead_of_its_job_costs_no_job(server):
    with server.fork([["chdir", "/no/such/directory"]]) as connection:
        connection.settimeout(shims.WAIT_S)
        kind, body = protocol.unpack(connection.recv(protocol.MAX_PACKET))
        assert (kind, body["why"]) == (protocol.REFUSED, "chdir: No such file or directory")
        assert connection.recv(protocol.MAX_PACKET) == b""
    server.launch(["true"]).end()


# -- at most once ---------------------------------------------------------------------------------


def test_a_job_that_ran_is_not_launched_again(server):
    job = server.launch(["true"])
    job.end()
    again = server.launch(["sh", "-c", "echo twice"], directory=job.directory)
    assert again.expect(protocol.REFUSED) == {"why": "this job was launched before"}
    assert again.hear() == ("", {})
    assert job.output == b""


def test_a_job_that_runs_is_not_launched_again(server):
    job = server.launch(["sleep", "1000"])
    job.expect(protocol.STARTED)
    again = server.launch(["true"], directory=job.directory)
    assert again.expect(protocol.REFUSED) == {"why": "another shim holds this job"}
    assert again.hear() == ("", {})
    job.kill()
    assert job.end()["status"] == signal.SIGKILL


def test_what_a_shim_left_that_never_launched_is_overwritten(plain, tmp_path):
    directory = tmp_path / "left"
    directory.mkdir()
    for name in (files.LOCK, files.OUTPUT, files.INDEX, "identity.new", "exit.new", files.SOCKET):
        (directory / name).write_bytes(b"left over")
    job = plain.launch(["echo", "fresh"], directory=directory)
    assert job.end()["status"] == 0
    assert job.output == b"fresh\n"


def test_a_directory_that_cannot_be_used_is_refused(plain, tmp_path):
    job = plain.launch(["true"], directory=tmp_path / "missing")
    assert "No such file" in job.expect(protocol.REFUSED)["why"]


@pytest.mark.root
def test_a_shim_is_told_apart_where_others_processes_are_hidden(tmp_path):
    hide = "mount -t proc -o hidepid=2 proc /proc"  # from all who may not trace
    drop = "setpriv --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all"
    within = ["unshare", "-m", "sh", "-c", f'{hide} && exec {drop} "$@"', "sh"]
    with contextlib.closing(shims.ForkServer(tmp_path, isolated=False, within=within)) as server:
        job = server.launch(["sleep", "1000"])
        job.expect(protocol.STARTED)
        identity = files.decode((job.directory / files.IDENTITY).read_bytes())
        assert identity["start"] == files.start_time(identity["pid"])


def test_the_lock_is_held_for_life_and_the_identity_names_the_shim(server):
    job = server.launch(["sleep", "1000"])
    job.expect(protocol.STARTED)
    identity = files.decode((job.directory / files.IDENTITY).read_bytes())
    assert identity == {
        "boot": files.boot_id(),
        "pid": job.shim,
        "start": files.start_time(job.shim),
        "protocol": protocol.PROTOCOL,
    }
    with (job.directory / files.LOCK).open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        job.kill()
        job.end()
        assert shims.gone(identity["pid"])
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)

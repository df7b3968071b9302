"""Shims, by a fork server of their own: what they promise, without a supervisor."""

import compileall
import contextlib
import errno
import fcntl
import hashlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import proctable
import pytest
import shims

import jobs_proto
import jobs_shim
from jobs_proto import files
from jobs_proto import shim as protocol

MEMORY_LIMIT_KB = 976
"""Of a shim and its init together, when there are many."""

MANY = 100

TRIES = 50
"""To stop a shim at a moment that is over in a few ms."""


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Have the shim's modules compiled, as an installed wheel has them: compiling leaves its mark.

    A fork server that compiles has a larger and more scattered heap, and so have all its shims.
    """
    for package in (jobs_proto, jobs_shim):
        assert compileall.compile_dir(next(iter(package.__path__)), quiet=1)


@pytest.fixture
def plain(tmp_path):
    """A fork server whose jobs have no namespaces and no cgroup: what everybody can have."""
    server = shims.ForkServer(tmp_path, isolated=False)
    yield server
    server.close()


@pytest.fixture
def isolated(tmp_path):
    """A fork server whose jobs are isolated."""
    server = shims.ForkServer(tmp_path, isolated=True)
    yield server
    server.close()


@pytest.fixture(params=["plain", pytest.param("isolated", marks=pytest.mark.root)])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def stack():
    """What is to be closed at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


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
        (["true"], {"init": [["chdir", "/no/where"]]}, ["chdir", errno.ENOENT, "/no/where"]),
        (["true"], {"init": [["mount", "x", "/no", "", 0, ""]]}, ["mount", None, "/no"]),
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
def fail():
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
def run(*args, run=init.run, **kwargs):
    syscalls.fork = fail
    run(*args, **kwargs)
init.run = run
plan = os.memfd_create("plan")
os.write(plan, files.encode({{
    "job": "a-job", "boot": "", "cgroup": None, "own_pids": False, "timeout_s": None,
    "grace_s": 5.0, "init": [], "leader": [],
}}))
mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
launch = protocol.pack(protocol.LAUNCH, {{"dir": {str(tmp_path)!r}}})
socket.send_fds(theirs, [launch], [plan])
__main__.be_shim([], mine.fileno())
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


@pytest.mark.root
def test_a_cgroup_that_cannot_be_is_a_failed_start(isolated):
    cgroup = {"unified": False, "directories": [["unified", "/proc/no-such", []]]}
    job = isolated.launch(["true"], cgroup=cgroup)
    job.cgroup = None
    step, _number, path = job.end()["error"]
    assert (step, path) == ("cgroup", "/proc/no-such")


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


# -- ends -----------------------------------------------------------------------------------------


def test_term_goes_to_the_whole_group(server):
    job = server.launch(["sh", "-c", "sleep 1000 & sleep 1000"])
    job.expect(protocol.STARTED)
    job.kill(signal.SIGTERM, grace_s=1000)
    record = job.end()
    assert (record["status"], record["killed"]) == (signal.SIGTERM, False)
    assert record["killed_by"] == "tester"


def test_what_was_executed_has_a_start_however_soon_it_was_killed(server, stack):
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jobs-test-")))
    folder.chmod(0o777)  # for the job's user
    for n in range(TRIES):
        mark = folder / str(n)
        job = server.launch(["sh", "-c", f"echo > {mark}; sleep 1000"])
        assert _until((job.directory / files.IDENTITY).exists)
        os.kill(job.shim, signal.SIGSTOP)
        assert _until(mark.exists)
        in_time = not select.select([job.connection], [], [], 0)[0]  # it has told of no start yet
        job.kill()
        os.kill(job.shim, signal.SIGCONT)
        assert job.end()["started_ns"] is not None
        if in_time:
            return
    raise AssertionError(f"a shim was never stopped in time, in {TRIES} tries")


def _until(holds):
    deadline = time.monotonic() + shims.WAIT_S
    while not holds() and time.monotonic() < deadline:
        os.sched_yield()
    return holds()


def test_what_ignores_term_dies_when_the_grace_period_is_over(server):
    job = server.launch(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1000; done"])
    job.expect(protocol.STARTED)
    job.tell(protocol.WATCH, offset=0)
    job.expect(protocol.GREW)
    job.kill(signal.SIGTERM, grace_s=0.05)
    record = job.end()
    assert (record["status"], record["killed"]) == (signal.SIGKILL, True)


def test_daemons_stopped_ones_and_double_forks_die_with_the_job(server):
    script = """
        setsid sleep 1000 &
        (setsid sh -c 'sleep 1000 & echo $!; exec sleep 1000' &)
        sleep 1000 & kill -STOP $!
        trap '' TERM HUP INT; echo ready; wait
        while :; do sleep 1000; done
    """
    job = server.launch(["sh", "-c", script])
    leader = job.expect(protocol.STARTED)["pid"]
    while b"ready" not in job.output or job.output.count(b"\n") < 2:
        job.tell(protocol.WATCH, offset=len(job.output))
        job.expect(protocol.GREW)
    (init,) = shims.children(job.shim)
    family = {leader, init, *shims.children(init), *shims.children(leader)}
    assert len(family) >= 4
    job.kill(signal.SIGTERM, grace_s=0.05)
    job.end()
    assert not [pid for pid in family if shims.alive(pid)]


def test_the_deadline_is_kept(server):
    record = server.launch(["sleep", "1000"], timeout_s=0.05).end()
    assert (record["status"], record["timed_out"]) == (signal.SIGTERM, True)
    record = server.launch(
        ["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"], timeout_s=0.2, grace_s=0.05
    ).end()
    assert (record["status"], record["timed_out"], record["killed"]) == (9, True, True)


def test_a_deadline_may_be_further_than_poll_can_count(server):
    record = server.launch(["true"], timeout_s=1e9).end()
    assert (record["status"], record["timed_out"]) == (0, False)


def test_a_kill_while_the_job_starts(server):
    for grace_s in (0.0, 0.01, 1000.0) * 5:
        job = server.launch(["sleep", "1000"])
        job.kill(signal.SIGTERM, grace_s=grace_s)
        record = job.end()
        assert record["status"] in (signal.SIGTERM, signal.SIGKILL)
        assert (record["killed_by"], record["error"]) == ("tester", None)


@pytest.mark.root
def test_a_kill_of_a_leader_that_is_stopped_before_init_knows_of_it(plain):
    place = shims.v2_parent() / f"jobs-test-{os.getpid()}-frozen"
    place.mkdir()
    (place / "cgroup.freeze").write_text("1")
    cgroup = {"unified": False, "directories": [["unified", str(place), []]]}
    job = plain.launch(["sleep", "1000"], cgroup=cgroup)
    job.cgroup = place
    assert _until((place / "cgroup.procs").read_text)
    job.kill()
    record = job.end()
    assert (record["status"], record["started_ns"]) == (signal.SIGKILL, None)


def test_signals_that_come_as_the_leader_ends_lose_nothing(server):
    for _ in range(60):
        job = server.launch(["true"])
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(100):
                job.tell(protocol.SIGNAL, signal=signal.SIGCONT)
        record = job.end_on_disk()
        assert (record["status"], record["error"]) == (0, None)


@pytest.mark.root
def test_a_killed_init_takes_its_namespace_along(isolated):
    job = isolated.launch(["sh", "-c", "setsid sleep 1000 & sleep 1000"])
    leader = job.expect(protocol.STARTED)["pid"]
    (init,) = shims.children(job.shim)
    os.kill(init, signal.SIGKILL)
    record = job.end()
    assert (record["status"], record["killed"], record["killed_by"]) == (9, False, None)
    assert not shims.alive(leader)


def test_a_killed_init_without_a_namespace_leaves_nothing_either(plain):
    job = plain.launch(["sh", "-c", "setsid sleep 1000 & echo up; sleep 1000"])
    leader = job.expect(protocol.STARTED)["pid"]
    job.tell(protocol.WATCH, offset=0)
    job.expect(protocol.GREW)
    family = {leader, *shims.children(leader)}
    (init,) = shims.children(job.shim)
    os.kill(init, signal.SIGKILL)
    assert job.end()["status"] == signal.SIGKILL
    assert not [pid for pid in family if shims.alive(pid)]


def test_a_job_dies_with_its_shim(server):
    job = server.launch(["sh", "-c", "setsid sleep 1000 & echo up; sleep 1000"])
    leader = job.expect(protocol.STARTED)["pid"]
    job.tell(protocol.WATCH, offset=0)
    job.expect(protocol.GREW)
    family = {leader, *shims.children(leader)}
    (init,) = shims.children(job.shim)
    os.kill(job.shim, signal.SIGKILL)
    assert all(shims.gone(pid) for pid in (init, *family))
    assert not (job.directory / files.EXIT).exists()
    if job.cgroup is not None:
        job.cgroup.rmdir()


def test_signals_for_the_job_do_not_touch_init(server):
    job = server.launch(["sh", "-c", "trap 'echo hup; exit 5' HUP; echo up; sleep 1000 & wait"])
    job.expect(protocol.STARTED)
    job.tell(protocol.WATCH, offset=0)
    job.expect(protocol.GREW)
    (init,) = shims.children(job.shim)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
        os.kill(init, number)
    job.tell(protocol.SIGNAL, signal=signal.SIGHUP)
    assert os.waitstatus_to_exitcode(job.end()["status"]) == 5
    assert job.output == b"up\nhup\n"


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
    before, after = None, _all_switches(job.shim, init)
    while before != after:  # until both have come to their rest
        select.select([], [], [], 0.1)
        before, after = after, _all_switches(job.shim, init)
    select.select([], [], [], 0.5)  # the time in which nothing must happen
    assert _all_switches(job.shim, init) == before


def _all_switches(*pids):
    return [_switches(pid) for pid in pids]


def _switches(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line for line in lines if line.startswith("voluntary_ctxt_switches")]


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

"""What a job can see, reach and do, tried from inside; for the default user and for root."""

import contextlib
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path

import harness
import pytest
from harness import collect, finish, program, until_running

from jobs_proto.errors import JobsError
from jobs_proto.isolation import CAPABILITIES, Isolation
from jobs_supervisor.isolation import COVERED, DEVICES, ROOT_CAPABILITIES, SEALED

pytestmark = [pytest.mark.root, pytest.mark.v2]

BUSYBOX = program("busybox")
SECRET = "the state of the supervisor"

EITHER = pytest.mark.parametrize("user", [None, "root"])

CALL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for name, number, *arguments in {calls}:
    result = libc.syscall(number, *(ctypes.c_long(a) for a in arguments))
    print(name, os.strerror(ctypes.get_errno()) if result == -1 else "done", flush=True)
"""


@pytest.fixture(scope="module")
def apart():
    """Give a supervisor that insists, and whose files are not below a /tmp that jobs do not see."""
    folder = Path(tempfile.mkdtemp(dir="/var/lib", prefix="jobs-test-"))
    folder.chmod(0o755)
    supervisor = harness.Supervisor(folder / "supervisor", jobs={"isolation": "required"})
    try:
        supervisor.start()
        (supervisor.state / "mark").write_text(SECRET)
        yield supervisor
        assert supervisor.end() == []
    finally:
        supervisor.end_clients()
        if supervisor.running:
            supervisor.kill()
        shutil.rmtree(folder)


@pytest.fixture
def folder():
    """Give a folder of the default user's, on a disk that jobs see."""
    path = Path(tempfile.mkdtemp(dir="/var/lib", prefix="jobs-test-"))
    path.chmod(0o755)
    os.chown(path, 65534, 65534)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def rootfs(folder):
    """Give a root directory with nothing but busybox."""
    if BUSYBOX is None:
        pytest.skip("needs busybox: apt-get install busybox-static")
    root = folder / "root"
    for name in ("bin", "proc", "sys", "dev", "tmp", "run", "etc", "data"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin/busybox")
    for name in (
        "sh",
        "ls",
        "cat",
        "cut",
        "wc",
        "id",
        "mount",
        "touch",
        "echo",
        "true",
        "readlink",
        "stat",
    ):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nworker:x:4321:4322::/data:/bin/sh\n")
    (root / "etc/group").write_text("worker:x:4322:\nmore:x:4323:worker\n")
    return root


async def ask(supervisor, script: str, *, by: tuple = ("sh", "-c"), **options) -> str:
    """Run a script, of a shell unless otherwise said; give its output; if it fails, fail."""
    async with supervisor.client() as client:
        job, said = await finish(client, [*by, script], **options)
    assert job.outcome == "completed", (job.exit, said.stdout, said.stderr)
    return said.stdout.decode()


PYTHON = ("python3", "-c")


async def refused(supervisor, **options) -> str:
    """Give why a job could not start."""
    async with supervisor.client() as client:
        job, _ = await finish(client, ["true"], **options)
    assert job.outcome == "start_failed", job
    return job.exit.error


# -- others ----------------------------------------------------------------------------------


@EITHER
async def test_no_other_process_is_seen(apart, user):
    async with apart.client() as client:
        other = await client.run(["sh", "-c", "echo here; exec sleep 1000"], user=user)
        await until_running(client, other)
        pids = await ask(apart, "echo /proc/[0-9]*; cat /proc/1/comm; echo $$", user=user)
        seen, init, own = pids.splitlines()
        assert init.startswith("jobs-")
        assert set(seen.split()) == {"/proc/1", f"/proc/{own}"}
        await client.kill(other.id, grace_s=0)


@EITHER
async def test_signals_reach_nothing_outside(apart, user):
    async with apart.client() as client:
        other = await client.run(["sh", "-c", "echo here; exec sleep 1000"], user=user)
        other = await until_running(client, other)
        targets = [apart.pid, apart.forkserver(), apart.shim(other), other.pid]
        script = "; ".join(f"kill -9 {pid} && echo killed" for pid in targets)
        assert await ask(apart, f"{{ {script}; }} 2>/dev/null; kill -9 -1; true", user=user) == ""
        assert (await client.inspect(other.id)).phase == "running"
        await client.kill(other.id, grace_s=0)
    assert apart.running


@EITHER
async def test_init_survives_its_job_and_cannot_be_looked_into(apart, user):
    script = (
        "kill -9 1; ls /proc/1/root /proc/1/cwd; cat /proc/1/environ; readlink /proc/1/fd/*;"
        "head -c 1 /proc/1/mem; echo alive"
    )
    assert await ask(apart, f"{{ {script}; }} 2>/dev/null", user=user) == "alive\n"


@EITHER
async def test_others_cannot_be_traced(apart, user):
    calls = [("trace", 101, 16, pid, 0, 0) for pid in (1, apart.pid)]  # PTRACE_ATTACH, x86-64
    said = await ask(apart, CALL.format(calls=calls), by=PYTHON, user=user)
    assert said.splitlines() == ["trace Operation not permitted", "trace No such process"]


# -- the supervisor's files ------------------------------------------------------------------


@EITHER
async def test_state_keys_and_settings_cannot_be_read(apart, user):
    paths = [
        apart.state / "mark",
        apart.state / "jobs.sqlite",
        apart.state / "audit.log",
        apart.certs / "server.key",
        apart.certs / "admin.key",
        apart.directory / "supervisor.toml",
        apart.directory / "config.toml",
    ]
    assert all(path.exists() for path in paths)
    script = (
        f"cat {' '.join(map(str, paths))} 2>/dev/null; ls -A {apart.directory} 2>/dev/null; true"
    )
    assert await ask(apart, script, user=user) == ""
    ways = ["/proc/self/root", "/proc/1/root", "/proc/self/cwd", "/dev/fd/../root"]
    script = "; ".join(f"cat {way}{paths[0]} 2>/dev/null" for way in ways)
    assert await ask(apart, f"{script}; true", user=user) == ""


@EITHER
async def test_the_sockets_of_shims_cannot_be_reached(apart, user):
    async with apart.client() as client:
        other = await client.run(["sh", "-c", "echo here; exec sleep 1000"], user=user)
        await until_running(client, other)
        path = apart.job_directory(other) / "shim.sock"
        assert path.is_socket()
        assert await ask(apart, f"test -e {path} || echo hidden", user=user) == "hidden\n"
        await client.kill(other.id, grace_s=0)


@EITHER
async def test_only_standard_descriptors_are_open(apart, user):
    said = await ask(apart, "exec ls -l /proc/self/fd", user=user)
    links = {line.split()[-3]: line.split()[-1] for line in said.splitlines() if "->" in line}
    assert links.pop("0") == "/dev/null"
    assert [links.pop(n).split(":")[0] for n in "12"] == ["pipe", "pipe"]
    assert all(link.startswith("/proc/") for link in links.values())  # that of ls itself


@EITHER
async def test_a_bind_of_what_lies_around_them_shows_them_no_more(apart, user):
    around = str(apart.directory.parent.parent)
    name = apart.directory.relative_to(around)
    isolation = Isolation(binds=(f"{around}:/tmp/around", "/:/tmp/all", "/proc:/tmp/proc"))
    script = (
        f"find /tmp/around/{name} /tmp/all{apart.directory} -mindepth 1 2>/dev/null;"
        f"cat /tmp/around/{name}/state/mark /tmp/all{apart.state}/mark 2>/dev/null;"
        "ls -d /tmp/proc/[0-9]* | wc -l; ls -d /tmp/all/proc/[0-9]* | wc -l; ls /tmp/all/bin/sh"
    )
    said = (await ask(apart, script, user=user, isolation=isolation)).split()
    assert (int(said[0]) <= 5, int(said[1]) <= 5, said[2:]) == (True, True, ["/tmp/all/bin/sh"])


@EITHER
async def test_a_bind_from_within_them_fails(apart, user):
    isolation = Isolation(binds=(f"{apart.state}:/tmp/x",))
    why = await refused(apart, user=user, isolation=isolation)
    assert why.startswith(f"cannot find {apart.state} for the job")


# -- the kernel ------------------------------------------------------------------------------

DANGEROUS = [
    ("mount", 165, 0, 0, 0, 0, 0),
    ("umount2", 166, 0, 0),
    ("unshare", 272, 0x10000000),
    ("setns", 308, 0, 0),
    ("pivot_root", 155, 0, 0),
    ("clone", 56, 0x10000000 | 17, 0, 0, 0, 0),
    ("init_module", 175, 0, 0, 0),
    ("finit_module", 313, 0, 0, 0),
    ("kexec_load", 246, 0, 0, 0, 0),
    ("reboot", 169, 0xFEE1DEAD, 672274793, 0, 0),
    ("bpf", 321, 0, 0, 0),
    ("keyctl", 250, 0, 0, 0),
    ("perf_event_open", 298, 0, 0, 0, 0, 0),
    ("io_uring_setup", 425, 1, 0),
    ("open_by_handle_at", 304, 0, 0, 0),
    ("userfaultfd", 323, 0),
    ("settimeofday", 164, 0, 0),
    ("ioctl", 16, 0, 0x5412, 0),
    ("ioctl", 16, 0, 0x1_0000_5412, 0),
    ("personality", 135, 0x0400000),
]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86-64's system calls")
@EITHER
async def test_dangerous_system_calls_fail(apart, user):
    said = await ask(apart, CALL.format(calls=DANGEROUS), by=PYTHON, user=user)
    assert said.splitlines() == [f"{call[0]} Operation not permitted" for call in DANGEROUS]
    harmless = [("clone3", 435, 0, 0), ("personality", 135, 0xFFFFFFFF), ("getpid", 39)]
    said = await ask(apart, CALL.format(calls=harmless), by=PYTHON, user=user)
    assert said.splitlines() == [
        "clone3 Function not implemented",
        "personality done",
        "getpid done",
    ]


@EITHER
async def test_programs_that_use_them_fail(apart, user):
    script = (
        "mount -t tmpfs none /mnt; umount /proc; unshare -r true; unshare -n true;"
        "nsenter -t 1 -m true; mknod /tmp/disk b 254 0; chroot / true; exit 0"
    )
    async with apart.client() as client:
        _, said = await finish(client, ["sh", "-c", script], user=user)
    failures = [line for line in said.stderr.decode().splitlines() if ":" in line]
    assert len([line for line in failures if "dmesg" not in line]) >= 7


@EITHER
async def test_the_hosts_settings_cannot_be_written(apart, user):
    writable = (
        "find /proc/sys /proc/irq /proc/bus /sys -xdev -type f -perm /222 | head -2000 | {"
        " n=0; while read -r file; do n=$((n + 1)); true >> $file && echo $file; done; echo $n; }"
    )
    (tried,) = (await ask(apart, f"{{ {writable}; }} 2>/dev/null", user=user)).split()
    assert int(tried) > 100


@EITHER
async def test_covered_and_sealed_paths(apart, user):
    said = await ask(apart, "cat /proc/self/mountinfo", user=user)
    mounts = {line.split()[4]: line.split() for line in said.splitlines()}
    for path in SEALED:
        assert path not in mounts or "ro" in mounts[path][5].split(","), path
        assert Path(path).exists() == (path in mounts)
    script = "; ".join(f"cat {path} 2>/dev/null; ls -A {path} 2>/dev/null" for path in COVERED)
    said = await ask(apart, f"{{ {script}; }} | grep -v ^/; true", user=user)
    assert said == ""


@EITHER
async def test_cgroups_cannot_be_written(apart, user):
    script = (
        "find /sys/fs/cgroup -name cgroup.procs | while read -r f; do echo 0 > $f && echo $f; done"
    )
    assert await ask(apart, f"{{ {script}; }} 2>/dev/null; true", user=user) == ""


# -- rights ----------------------------------------------------------------------------------


async def status(apart, **options) -> dict[str, str]:
    said = await ask(apart, "cat /proc/self/status", **options)
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in said.splitlines())
    }


def capability_sets(status: dict[str, str]) -> dict[str, set[str]]:
    return {
        key.removeprefix("Cap"): {
            name for name, number in CAPABILITIES.items() if int(value, 16) >> number & 1
        }
        for key, value in status.items()
        if key.startswith("Cap")
    }


async def test_the_default_user_has_no_capabilities(apart):
    found = await status(apart)
    assert capability_sets(found) == {key: set() for key in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert found["Uid"].split() == ["65534"] * 4


async def test_root_has_a_few(apart):
    found = await status(apart, user="root")
    few = set(ROOT_CAPABILITIES)
    sets = {"Inh": set(), "Prm": few, "Eff": few, "Bnd": few, "Amb": set()}
    assert capability_sets(found) == sets
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


async def test_capabilities_added_and_dropped(apart):
    isolation = Isolation(cap_add=("CAP_NET_RAW", "net_bind_service"), cap_drop=("NET_RAW",))
    found = capability_sets(await status(apart, isolation=isolation))
    assert found == {key: {"NET_BIND_SERVICE"} for key in found}
    isolation = Isolation(cap_drop=("ALL",), cap_add=("KILL",))
    found = capability_sets(await status(apart, user="root", isolation=isolation))
    assert (found["Eff"], found["Bnd"], found["Amb"]) == ({"KILL"}, {"KILL"}, set())


async def test_privileged(apart):
    isolation = Isolation(privileged=True)
    found = await status(apart, user="root", isolation=isolation)
    (own,) = (
        line.split()[1]
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("CapEff")
    )
    assert found["CapEff"] == own
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("0", "0")
    script = "mount -t tmpfs none /mnt && touch /mnt/file && unshare -n true && echo could"
    assert await ask(apart, script, user="root", isolation=isolation) == "could\n"
    assert not Path("/mnt/file").exists()


async def test_a_set_user_id_program_gives_nothing(apart, folder):
    copy = folder / "id"
    shutil.copy(program("id"), copy)
    copy.chmod(0o4755)
    os.chown(copy, 0, 0)
    copy.chmod(0o4755)
    assert await ask(apart, f"{copy} -u") == "65534\n"


async def test_who_may_run_with_privileges(apart):
    async with apart.client("dev-alice") as alice:
        for isolation in (Isolation(privileged=True), Isolation(cap_add=("NET_RAW",))):
            with pytest.raises(JobsError, match="may not run_privileged") as caught:
                await alice.run(["true"], isolation=isolation)
            assert caught.value.code == "permission_denied"
            with pytest.raises(JobsError, match="may not run_privileged"):
                await alice.rehearse(["true"], isolation=isolation)
        with pytest.raises(JobsError, match="may not run_as"):
            await alice.rehearse(["true"], user="root")
        job, _ = await finish(alice, ["true"], isolation=Isolation(cap_drop=("ALL",)))
        assert job.outcome == "completed"


# -- a view of its own -----------------------------------------------------------------------


@EITHER
async def test_temporary_directories_are_private(apart, user):
    name = f"jobs-test-{os.getpid()}"
    for parent in ("/tmp", "/var/tmp", "/dev/shm"):
        (Path(parent) / name).write_text("the host's")
        try:
            said = await ask(apart, f"ls -A {parent}; stat -c '%a %u' {parent}", user=user)
            assert said == "1777 0\n"
            await ask(apart, f"echo mine > {parent}/other-{name}", user=user)
            assert not (Path(parent) / f"other-{name}").exists()
        finally:
            (Path(parent) / name).unlink()


@EITHER
async def test_devices(apart, user):
    said = await ask(apart, "ls /dev", user=user)
    links = {"fd", "stdin", "stdout", "stderr", "ptmx"}
    assert set(said.split()) == {*DEVICES, *links, "pts", "shm"}
    script = (
        "echo x > /dev/null && head -c 3 /dev/zero | wc -c && head -c 9 /dev/urandom | wc -c &&"
        "echo into > /dev/stderr && cat < /dev/stdin | wc -c; ls -A /dev/pts;"
        "echo full > /dev/full || echo cannot"
    )
    said = await ask(apart, f"{{ {script}; }} 2>/dev/null", user=user)
    assert said.split() == ["3", "9", "0", "ptmx", "cannot"]
    opened = "import os; m, s = os.openpty(); print(os.ttyname(s))"
    assert await ask(apart, opened, by=PYTHON, user=user) == "/dev/pts/0\n"


@EITHER
async def test_the_host_name_stays_inside(apart, user):
    before = socket.gethostname()
    async with apart.client() as client:
        job, said = await finish(client, ["uname", "-n"], user=user)
    assert said.stdout.decode() == f"job-{job.id[:12]}\n"
    isolation = Isolation(hostname="other.example")
    assert await ask(apart, "uname -n", user=user, isolation=isolation) == "other.example\n"
    assert "cannot" in await ask(apart, "hostname mine 2>/dev/null || echo cannot", user=user)
    assert socket.gethostname() == before


TALK = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
print("up")
try:
    socket.create_connection(("127.0.0.1", {port}))
except ConnectionRefusedError:
    print("refused")
"""


@EITHER
async def test_no_network(apart, user):
    isolation = Isolation(network="none")
    script = "tail -n +3 /proc/net/dev | cut -d: -f1; ls /sys/class/net; cat /proc/net/route"
    said = await ask(apart, script, user=user, isolation=isolation)
    assert said.split()[:2] == ["lo", "lo"]
    assert len(said.splitlines()) <= 3  # at most the head of an empty table of routes
    said = await ask(apart, TALK.format(port=apart.port), by=PYTHON, user=user, isolation=isolation)
    assert said.split() == ["up", "refused"]


# -- binds and the like ----------------------------------------------------------------------


async def test_binds(apart, folder):
    (folder / "file").write_text("content")
    isolation = Isolation(
        binds=(f"{folder}:/tmp/a/rw", f"{folder}:/tmp/ro:ro", f"{folder}/file:/tmp/f")
    )
    script = (
        "cat /tmp/f /tmp/ro/file; echo new > /tmp/a/rw/new; cat /tmp/ro/new;"
        "touch /tmp/ro/x 2>/dev/null || echo cannot"
    )
    assert await ask(apart, script, isolation=isolation) == "contentcontentnew\ncannot\n"
    assert (folder / "new").stat().st_uid == 65534


async def test_a_bind_gives_nothing_that_the_user_cannot_reach(apart, folder):
    os.chown(folder, 0, 0)
    (folder / "public").mkdir()
    (folder / "public/file").write_text("for all")
    folder.chmod(0o700)
    isolation = Isolation(binds=(f"{folder}/public:/tmp/x",))
    why = await refused(apart, isolation=isolation)
    assert why == f"cannot find {folder}/public for the job: the job's user may not reach it"
    said = await ask(apart, "cat /tmp/x/file", user="root", isolation=isolation)
    assert said == "for all"
    (folder / "public/true").write_bytes(Path("/bin/true").read_bytes())
    (folder / "public/true").chmod(0o755)
    rootfs = Isolation(rootfs=f"{folder}/public")
    async with apart.client() as client:  # and is not told what is there
        for command in ("/true", "/nothing"):
            with pytest.raises(JobsError, match="there is no program"):
                await client.run([command], isolation=rootfs)


async def test_links_lead_a_bind_nowhere_else(apart, folder):
    """A link is followed with the rights of the job's user, and no further than those go."""
    (folder / "state").symlink_to(apart.state)
    (folder / "root").symlink_to("/root")
    (folder / "magic").symlink_to("/proc/1/root")
    for name in ("state", "root/.ssh", "magic"):
        isolation = Isolation(binds=(f"{folder}/{name}:/tmp/x",))
        assert (await refused(apart, isolation=isolation)).startswith("cannot find")


async def test_where_nothing_can_be_mounted(apart, folder):
    isolation = Isolation(binds=(f"{folder}:{folder}/missing",))
    why = await refused(apart, isolation=isolation)
    assert why.startswith(f"cannot mount {folder}/missing for the job: there is no such file")
    assert not (folder / "missing").exists()


async def test_tmpfs(apart, folder):
    isolation = Isolation(tmpfs=("/mnt:64k", "/mnt/deeper", "/tmp/new"))
    script = (
        "head -c 100000 /dev/zero > /mnt/file 2>/dev/null || stat -c %s /mnt/file;"
        "echo a > /mnt/deeper/file; echo b > /tmp/new/file; cat /mnt/deeper/file /tmp/new/file"
    )
    assert (await ask(apart, script, isolation=isolation)).split() == ["65536", "a", "b"]
    assert list(Path("/mnt").glob("file")) == []


@EITHER
async def test_read_only(apart, folder, user):
    isolation = Isolation(read_only=True, binds=(f"{folder}:/mnt",), tmpfs=("/srv",))
    script = (
        f"for d in / /etc /root /usr {folder}; do touch $d/x && echo $d; done 2>/dev/null;"
        "for d in /tmp /var/tmp /dev/shm /mnt /srv; do touch $d/x || echo $d; done;"
        "echo 5 > /proc/self/oom_score_adj && echo mine"
    )
    assert await ask(apart, script, user=user, isolation=isolation) == "mine\n"


# -- another root ----------------------------------------------------------------------------


@EITHER
async def test_a_root_directory(apart, rootfs, user):
    isolation = Isolation(rootfs=str(rootfs), tmpfs=("/run/mine",))
    script = (
        "ls /; ls /dev | wc -l; cut -c-5 /proc/1/comm; ls -d /sys/class; ls -A /tmp;"
        " touch /tmp/x /run/mine/x; pwd;"
        f"cat {apart.state}/mark {apart.directory}/supervisor.toml 2>/dev/null; true"
    )
    said = await ask(apart, script, user=user, isolation=isolation)
    there = ["bin", "data", "dev", "etc", "proc", "run", "sys", "tmp"]
    count = str(len(DEVICES) + 7)
    assert said.split() == [*there, count, "jobs-", "/sys/class", "/"]
    assert list((rootfs / "tmp").iterdir()) == list((rootfs / "dev").iterdir()) == []
    said = await ask(apart, "cat /proc/mounts", user=user, isolation=isolation)
    assert str(apart.directory) not in said  # the host's mounts are gone, not only covered


async def test_users_of_a_root_directory(apart, rootfs):
    isolation = Isolation(rootfs=str(rootfs))
    script = "id -u; id -g; id -G; echo $HOME $USER"
    said = await ask(apart, script, user="worker", isolation=isolation)
    assert said.split() == ["4321", "4322", "4322", "4323", "/data", "worker"]
    said = await ask(apart, "id -u; echo $HOME", user="7777", isolation=isolation)
    assert said.split() == ["7777", "/"]
    (rootfs / "etc/passwd").write_text("nobody:x:0:0::/:/bin/sh\nroot:x:5:5::/:/bin/sh\n")
    assert await ask(apart, "id -u", isolation=isolation) == "65534\n"
    assert await ask(apart, "id -u", user="nobody", isolation=isolation) == "65534\n"
    async with apart.client() as client:
        with pytest.raises(JobsError, match="the user root is 0 on this host and 5 in"):
            await client.run(["true"], user="root", isolation=isolation)
        with pytest.raises(JobsError, match="there is no user 'stranger' in"):
            await client.run(["true"], user="stranger", isolation=isolation)


async def test_links_in_a_root_directory_lead_nowhere(apart, rootfs, folder):
    """Where a mount is to go, a link that leads out of the root is taken as from the root."""
    outside = folder / "outside"
    outside.mkdir()
    shutil.rmtree(rootfs / "data")
    (rootfs / "data").symlink_to(outside)
    isolation = Isolation(rootfs=str(rootfs), binds=(f"{folder}:/data",))
    assert "no such file or directory to mount on" in await refused(apart, isolation=isolation)
    for name in ("tmp", "dev", "proc"):
        (rootfs / name).rmdir()
        (rootfs / name).symlink_to(f"../../../../../..{outside}")
        assert "cannot" in await refused(apart, isolation=Isolation(rootfs=str(rootfs)))
        (rootfs / name).unlink()
        (rootfs / name).mkdir()
    assert list(outside.iterdir()) == []


async def test_a_root_directory_without_the_command(apart, rootfs):
    missing = Isolation(rootfs=f"{rootfs}/nowhere")
    async with apart.client() as client:
        before = await client.list(all=True)
        for isolation, command in ((Isolation(rootfs=str(rootfs)), "perl"), (missing, "true")):
            with pytest.raises(JobsError, match="there is no program") as raised:
                await client.run([command], isolation=isolation)
            assert raised.value.code == "invalid_argument"
        assert await client.list(all=True) == before
        for command in ("true", "/bin/true", "busybox"):
            job, _ = await finish(client, [command], isolation=Isolation(rootfs=str(rootfs)))
            assert job.exit.error is None
    (rootfs / "proc").rmdir()
    why = await refused(apart, isolation=Isolation(rootfs=str(rootfs)))
    assert why.startswith("cannot mount /proc for the job: there is no such file or directory")


@EITHER
async def test_a_read_only_root_directory(apart, rootfs, user):
    isolation = Isolation(rootfs=str(rootfs), read_only=True)
    script = "touch /x /etc/x 2>/dev/null || echo cannot; touch /tmp/x /run/x 2>/dev/null; echo $?"
    said = await ask(apart, script, user=user, isolation=isolation)
    assert said.split() == ["cannot", "0" if user else "1"]


# -- secrets ---------------------------------------------------------------------------------

VALUE = b"correct horse\x00battery\xff"


@EITHER
async def test_secrets(apart, user):
    async with apart.client() as client:
        script = (
            "cat /run/secrets/password; stat -c '%a %u' /run/secrets/password;"
            "touch /run/secrets/x 2>/dev/null || echo cannot; env"
        )
        job, said = await finish(
            client, ["sh", "-c", script], user=user, secrets={"password": VALUE}
        )
    assert said.stdout.startswith(VALUE + f"400 {0 if user else 65534}\ncannot\n".encode())
    assert b"horse" not in said.stdout.removeprefix(VALUE)
    assert job.spec.isolation.secrets == ("password",)
    assert not (apart.job_directory(job) / "secrets").exists()
    for path in apart.state.rglob("*"):
        if path.is_file() and path.name != "output":
            assert b"horse" not in path.read_bytes(), path
    assert not list(Path("/run/secrets").iterdir())


async def test_secrets_of_a_root_directory(apart, rootfs):
    async with apart.client() as client:
        isolation = Isolation(rootfs=str(rootfs))
        argv = ["cat", "/run/secrets/a", "/run/secrets/b"]
        _, said = await finish(client, argv, isolation=isolation, secrets={"a": b"1", "b": b"2"})
    assert said.stdout == b"12"


async def test_a_request_made_twice_with_secrets(apart):
    async with apart.client() as client:
        options = {"request_id": "twice", "secrets": {"a": b"1"}}
        first = await client.run(["cat", "/run/secrets/a"], **options)
        assert (await client.run(["cat", "/run/secrets/a"], **options)).id == first.id
        with pytest.raises(JobsError, match="was used for another request"):
            await client.run(["cat", "/run/secrets/a"], request_id="twice", secrets={"b": b"1"})
        assert (await collect(client, first.id)).stdout == b"1"


async def test_secrets_wait_with_their_job(make_supervisor, gates):
    """What waits in the queue across a crash has its secrets; what is killed there leaves none."""
    supervisor = make_supervisor(jobs={"max_running": 1})
    gate = gates()
    orphan = supervisor.state / "jobs" / "nobodys"
    async with supervisor.client() as client:
        first = await client.run(["sh", "-c", f"read -r line < {gate.path}"])
        waiting = await client.run(["cat", "/run/secrets/a"], secrets={"a": VALUE})
        killed = await client.run(["cat", "/run/secrets/a"], secrets={"a": VALUE})
        kept = [supervisor.job_directory(job) / "secrets" for job in (waiting, killed)]
        assert [path.stat().st_mode & 0o777 for path in kept] == [0o600, 0o600]
        orphan.mkdir()
        (orphan / "secrets").write_bytes(VALUE)
    await harness.in_thread(supervisor.restart)
    await harness.until_said(supervisor, "tidied")
    assert len(list(supervisor.state.rglob("secrets"))) == 2
    async with supervisor.client() as client:
        await client.kill(killed.id)
        await client.wait(killed.id)
        assert not kept[1].exists()
        gate.say("go")
        await client.wait(first.id)
        assert (await collect(client, waiting.id)).stdout == VALUE
        assert not kept[0].exists()


# -- the command line ------------------------------------------------------------------------


async def test_a_dry_run_starts_nothing(apart, tmp_path):
    (tmp_path / "password").write_bytes(VALUE)
    options = ["--secret", f"password={tmp_path}/password", "--network", "none", "--env", "A=b c"]
    before = len(list((apart.state / "jobs").iterdir()))
    said = await harness.in_thread(
        lambda: apart.cli("run", "--dry-run", *options, "--", "ls", "-l")
    )
    assert (said.returncode, said.stderr) == (0, b"")
    lines = [line.split() for line in said.stdout.decode().splitlines()]
    assert lines[0] == ["shim", "unshare", "pid"]
    assert ["init", "loopback"] in lines
    assert any(line[1:4] == ["place", "proc", "/proc"] for line in lines)
    assert lines[-1][:4] == ["leader", "exec", "ls", "-l"]
    raw = await harness.in_thread(
        lambda: apart.cli("run", "--dry-run", "--json", *options, "--", "ls", "-l")
    )
    steps = json.loads(raw.stdout)
    assert [step["by"] for step in steps] == [line[0] for line in lines]
    assert b"horse" not in said.stdout + raw.stdout
    assert len(list((apart.state / "jobs").iterdir())) == before


async def test_the_options(apart, folder, rootfs):
    (folder / "s").write_text("psst")
    options = [
        *("--rootfs", rootfs, "--bind", f"{folder}:/data:ro", "--tmpfs", "/run/a:1M"),
        *("--hostname", "box", "--user", "worker", "--cap-drop", "ALL", "--read-only"),
        *("--secret", f"s={folder}/s", "--network", "none", "--cap-add", "kill"),
    ]
    script = "cat /data/s /run/secrets/s; id -u; cat /proc/sys/kernel/hostname; touch /x || echo ro"
    said = await harness.in_thread(
        lambda: apart.cli("run", "-f", *map(str, options), "--", "sh", "-c", script)
    )
    assert said.stdout.split() == [b"psstpsst4321", b"box", b"ro"], said.stderr


async def test_usage_errors(apart, tmp_path):
    for options, why in {
        ("--network", "bridge"): "a network is host or none",
        ("--bind", "here:/there"): "must be an absolute path",
        ("--bind", "/a:/b:rx"): "a bind is SRC:DST",
        ("--tmpfs", "/proc/x"): "a job has its own there",
        ("--cap-add", "FLY"): "there is no capability 'FLY'",
        ("--hostname", "a b"): "cannot be a host's name",
        ("--secret", f"x={tmp_path}/none"): "cannot read the secret",
        ("--secret", "../x=/etc/passwd"): "cannot name a secret",
    }.items():
        said = await harness.in_thread(lambda o=options: apart.cli("run", *o, "--", "true"))
        assert said.returncode == 2
        assert why in said.stderr.decode()


async def test_what_isolation_a_job_has_is_seen(apart):
    isolation = Isolation(network="none", read_only=True)
    async with apart.client() as client:
        job, _ = await finish(client, ["true"], isolation=isolation)
        assert (await client.inspect(job.id)).spec.isolation == isolation


def test_nothing_was_mounted_on_the_host(apart):
    with contextlib.suppress(FileNotFoundError):
        assert "jobs-test" not in Path("/proc/self/mounts").read_text()

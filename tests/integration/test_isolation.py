"""What a job cannot see, reach or do, tried from inside; for the default user and for root."""

import contextlib
import os
import shutil
from pathlib import Path

import pytest
from harness import finish, program, until_running
from isolated import EITHER, PYTHON, ask, refused

from jobs_proto.errors import JobsError
from jobs_proto.isolation import CAPABILITIES, Isolation
from jobs_supervisor.isolation import COVERED, ROOT_CAPABILITIES, SEALED

pytestmark = [pytest.mark.root, pytest.mark.v2]

CALL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for name, number, *arguments in {calls}:
    result = libc.syscall(number, *(ctypes.c_long(a) for a in arguments))
    print(name, os.strerror(ctypes.get_errno()) if result == -1 else "done", flush=True)
"""


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


def test_nothing_was_mounted_on_the_host(apart):
    with contextlib.suppress(FileNotFoundError):
        assert "jobs-test" not in Path("/proc/self/mounts").read_text()

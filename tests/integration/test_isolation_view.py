"""What a job sees: files, devices, names and roots of its own, and how they are asked for."""

import json
import os
import shutil
import socket
from pathlib import Path

import harness
import pytest
from harness import finish
from isolated import EITHER, PYTHON, VALUE, ask, refused

from jobs_proto.errors import JobsError
from jobs_proto.isolation import Isolation
from jobs_supervisor.isolation import DEVICES

pytestmark = [pytest.mark.root, pytest.mark.v2]


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
    assert ["leader", "loopback"] in lines
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

"""A supervisor that insists on isolation, and what tests ask of it from inside of jobs."""

import os
import shutil
import tempfile
from pathlib import Path

import harness
import pytest
from harness import finish, program

BUSYBOX = program("busybox")
SECRET = "the state of the supervisor"
VALUE = b"correct horse\x00battery\xff"

EITHER = pytest.mark.parametrize("user", [None, "root"])
"""The default user, and root."""


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

"""Directories on a file system that never answers: whoever names them waits, and nobody else."""

import os
import subprocess

import pytest
import trio
from harness import JobsError, finish

from jobs_proto.isolation import Isolation
from jobs_proto.job import Limits
from jobs_shim import syscalls

pytestmark = pytest.mark.root

HUNG = 6
"""More requests at a time than one owner has threads."""

SOON_S = 30


@pytest.fixture
def hung(tmp_path):
    """Give a directory that a file system is mounted on whose server (FUSE) says nothing, ever."""
    try:
        server = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"needs /dev/fuse: {error.strerror}")
    directory = tmp_path / "hung"
    directory.mkdir()
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0,allow_other"
    syscalls.mount("hung", str(directory), "fuse", 0, options)
    yield directory
    os.close(server)  # whoever waits for it gets an error
    subprocess.run(["umount", "-l", directory], check=True)


async def refused(client, words: str, code: str, **options) -> None:
    with pytest.raises(JobsError, match=words) as refusal:
        await client.run(["true"], **options)
    assert refusal.value.code == code


async def test_a_root_directory_that_hangs_holds_up_its_owner_only(supervisor, hung, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    answered = []
    async with supervisor.client() as admin, supervisor.client("dev-alice") as alice:

        async def wait_in_vain():
            there = Isolation(rootfs=str(hung))
            await refused(alice, "gave no answer within", "failed_precondition", isolation=there)
            answered.append(there)

        with trio.fail_after(SOON_S):
            async with trio.open_nursery() as nursery:
                for _ in range(HUNG):
                    nursery.start_soon(wait_in_vain)
                # Another owner's directory is looked at meanwhile, and jobs without one run.
                missing = {"isolation": Isolation(rootfs=str(empty))}
                await refused(admin, "there is no program", "invalid_argument", **missing)
                assert (await finish(alice, ["true"]))[0].outcome == "completed"
                assert not answered
        assert len(answered) == HUNG


async def test_a_disk_that_hangs(supervisor, hung):
    """The disk that limits of I/O are about is looked for where its path leads to."""
    limits = Limits(io_read_bps=1 << 20, io_device=str(hung / "disk"))
    async with supervisor.client() as client, supervisor.client("dev-alice") as alice:
        with trio.fail_after(SOON_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait_in_vain, client, limits)
                assert (await finish(alice, ["true"]))[0].outcome == "completed"


async def wait_in_vain(client, limits) -> None:
    await refused(client, "gave no answer within", "failed_precondition", limits=limits)

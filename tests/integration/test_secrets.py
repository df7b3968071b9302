"""Secrets reach their job, and nobody else, at no time."""

from pathlib import Path

import harness
import pytest
from harness import collect, finish
from isolated import EITHER, VALUE

from jobs_proto.errors import JobsError
from jobs_proto.isolation import Isolation

pytestmark = [pytest.mark.root, pytest.mark.v2]


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

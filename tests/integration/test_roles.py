"""Who may do what, across the whole of it; and that each decision was written down."""

import pytest
from harness import JobsError, collect, finish, in_thread

ACTIONS = ("inspect", "follow", "kill", "signal", "wait")


async def attempt(client, action: str, job) -> str | None:
    """Give the code of the refusal; None: it was done."""
    try:
        if action == "follow":
            await collect(client, job.id, wait=False)
        elif action == "signal":
            await client.signal(job.id, "CONT")
        elif action == "kill":
            await client.kill(job.id, grace_s=0)
        elif action == "wait":
            await client.wait(job.id, timeout_s=0)
        else:
            await client.inspect(job.id)
    except JobsError as error:
        return error.code
    return None


async def test_who_sees_and_does_what(supervisor):
    async with (
        supervisor.client() as admin,
        supervisor.client("dev-alice") as alice,
        supervisor.client("dev-viewer") as viewer,
    ):
        admins = await admin.run(["sleep", "1000"])
        alices = await alice.run(["sleep", "1000"])
        both = {admins.id, alices.id}
        assert (admins.owner, alices.owner) == ("admin", "alice")
        assert {job.id for job in await admin.list()} == both
        assert {job.id for job in await viewer.list()} == both
        assert {job.id for job in await alice.list()} == {alices.id}
        assert {job.id for job in await admin.list(own=True)} == {admins.id}
        assert await viewer.list(own=True) == []

        for action in ("inspect", "follow", "wait", "signal"):
            assert await attempt(alice, action, alices) is None
        for action in ACTIONS:
            assert await attempt(alice, action, admins) == "not_found"
        for job in (admins, alices):
            for action in ("inspect", "follow"):
                assert await attempt(viewer, action, job) is None
            for action in ("kill", "signal"):
                assert await attempt(viewer, action, job) == "permission_denied"
        for job in (alices, admins):
            assert await attempt(admin, "kill", job) is None
            assert (await admin.wait(job.id)).exit.killed_by == "admin"


async def test_whoami(shared):
    for context, name, role in (
        ("dev", "admin", "admin"),
        ("dev-alice", "alice", "operator"),
        ("dev-viewer", "viewer", "viewer"),
    ):
        async with shared.client(context) as client:
            who = await client.whoami()
        assert (who["identity"], list(who["roles"])) == (name, [role])


async def test_the_audit_log(supervisor):
    """One line for each decision: who, what, which job, which way, who decided, and why."""
    async with (
        supervisor.client() as admin,
        supervisor.client("dev-alice") as alice,
        supervisor.client("dev-viewer") as viewer,
    ):
        fingerprint = (await alice.whoami())["fingerprint"]
        job, _ = await finish(alice, ["true"])
        with pytest.raises(JobsError):
            await viewer.run(["true"])
        with pytest.raises(JobsError):
            await viewer.kill(job.id)
        await admin.kill(job.id)
    lines = supervisor.decisions()
    for line in lines:
        assert line.keys() >= {"who", "certificate", "action", "job", "verdict", "plugin", "why"}
        assert line["timestamp"].endswith("Z")
        assert line["why"]
        assert line["plugin"] or line["verdict"] == "deny"  # nobody's answer is a denial
    told = [(line["who"], line["action"], line["job"], line["verdict"]) for line in lines]
    for expected in [
        ("alice", "whoami", None, "allow"),
        ("alice", "run", None, "allow"),
        ("alice", "follow", job.id, "allow"),
        ("alice", "wait", job.id, "allow"),
        ("viewer", "run", None, "deny"),
        ("viewer", "kill", job.id, "deny"),
        ("admin", "kill", job.id, "allow"),
    ]:
        assert expected in told
    assert {line["certificate"] for line in lines if line["who"] == "alice"} == {fingerprint}


async def test_the_audit_log_goes_on_after_a_restart(supervisor):
    async with supervisor.client() as client:
        await client.whoami()
        await in_thread(supervisor.restart)
        await client.call("list", {})
    told = [line["action"] for line in supervisor.decisions()]
    assert (told[0], told[-1]) == ("whoami", "list")


def test_a_renewed_certificate_keeps_its_jobs(supervisor):
    """What owns a job is the name, not the certificate."""
    ran = supervisor.cli("run", "sleep", "1000", context="dev-alice")
    (supervisor.certs / "alice.crt").unlink()
    (supervisor.certs / "alice.key").unlink()
    supervisor.restart()  # --dev issues another
    killed = supervisor.cli(
        "kill", ran.stdout.decode().strip(), "--grace", "0", context="dev-alice"
    )
    assert (killed.returncode, killed.stdout) == (0, ran.stdout)

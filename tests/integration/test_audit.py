"""The audit log of a supervisor that ends: what it says of many reads, and what it does not."""

from harness import in_thread

READS = 100


async def ask(supervisor):
    """Change one thing, and read many times."""
    async with supervisor.client() as client:
        job = await client.run(["true"])
        for _ in range(READS):
            await client.whoami()
        await client.wait(job.id)


def told(supervisor):
    """Give what the audit log, which is whole, says of the two: how often, in so many lines."""
    done = supervisor.cli("audit", "verify", str(supervisor.state))
    assert (done.returncode, done.stderr) == (0, b"")
    decided = [line for line in supervisor.audit() if line.get("action") in ("run", "whoami")]
    return [(line["action"], line.get("count", 1)) for line in decided]


async def test_counts_survive_a_stop(supervisor):
    await ask(supervisor)
    await in_thread(supervisor.stop)
    assert told(supervisor) == [("run", 1), ("whoami", 1), ("whoami", READS - 1)]


async def test_counts_are_all_that_a_kill_takes_along(supervisor):
    await ask(supervisor)
    await in_thread(supervisor.restart)
    assert told(supervisor) == [("run", 1), ("whoami", 1)]
    await ask(supervisor)
    await in_thread(supervisor.stop)
    assert told(supervisor)[2:] == [("run", 1), ("whoami", 1), ("whoami", READS - 1)]

"""`jobsctl owners`: who has how many jobs on a host."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from cyclopts import App

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.escape import escape
from jobs_cli.session import ask
from jobs_plugins import hookimpl
from jobs_proto.job import Job
from jobs_proto.methods import MAX_LIST
from jobs_proto.phases import Phase


@hookimpl
def jobs_cli(app: App) -> None:
    """Add the verb."""
    app.command(owners)


def owners(*, json: bool = False, endpoint: Endpoint = DEFAULT) -> None:  # noqa: D417  # the verbs' own
    """Say who has how many jobs that have not ended, those with the most first.

    One line for each owner: the owner, jobs that run, and jobs that wait in the queue.

    Args:
        json: as a JSON array of {"owner": …, "running": …, "queued": …}.
    """
    rows = count(ask(endpoint, lambda client: client.list(limit=MAX_LIST)))
    if json:
        names = ("owner", "running", "queued")
        output.write_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        output.write_lines(
            f"{escape(owner)}\t{running}\t{queued}" for owner, running, queued in rows
        )


def count(jobs: Iterable[Job]) -> list[tuple[str, int, int]]:
    """Give each owner with the number of their jobs that run, and that wait."""
    found: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    for job in jobs:
        found[job.owner][job.phase is Phase.QUEUED] += 1
    rows = [(owner, each[False], each[True]) for owner, each in found.items()]
    return sorted(rows, key=lambda row: (-row[1], -row[2], row[0]))

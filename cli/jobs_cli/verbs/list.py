"""`jobsctl list`."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

from cyclopts import Parameter

from jobs_cli import output
from jobs_cli.account import command_line
from jobs_cli.duration import span
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.escape import escape
from jobs_cli.failure import checking_usage
from jobs_cli.session import ask
from jobs_cli.verdict import condition
from jobs_proto import methods
from jobs_proto.job import Job

COLUMNS: Final = ("ID", "NAME", "OWNER", "PHASE", "AGE", "COMMAND")


def list_(
    *,
    all: bool = False,
    limit: Annotated[int, Parameter(metavar="N")] = 1000,
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> None:
    """List the jobs that have not ended, newest first.

    It is also called ls and ps. On a terminal as a table. Otherwise one line each, without a
    heading: the first 12 characters of the id, name (or -), owner, phase (once ended: the outcome),
    age and command, separated by tabs.

    For example:

        jobsctl list --all --limit 20
        jobsctl list | cut -f1
        jobsctl list --all --json | jq -r '.[] | select(.outcome == "failed") | .id'

    Args:
        all: also those that have ended.
        limit: at most so many; default: 1000.
        json: as a JSON array of what `inspect --json` prints.
    """
    with checking_usage():
        methods.List(all=all, limit=limit)
    jobs = ask(endpoint, lambda client: client.list(all=all, limit=limit))
    if json:
        output.write_jobs(jobs)
    elif output.stdout_is_terminal():
        _write_table([_row(job) for job in jobs])
    else:
        output.write_lines("\t".join(_row(job)) for job in jobs)


def _row(job: Job) -> Sequence[str]:
    name, owner = escape(job.name or "-"), escape(job.owner)
    return (job.short_id, name, owner, condition(job), _age(job), command_line(job))


def _age(job: Job) -> str:
    created = datetime.fromisoformat(job.created_at)
    return span((datetime.now(UTC) - created).total_seconds())


def _write_table(rows: Sequence[Sequence[str]]) -> None:
    """Write a table as wide as the terminal: of the columns only the command is cut to fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in COLUMNS:
        # What is too wide, rich takes from the columns that may wrap: from the command alone. Its
        # cells do not, each by itself.
        table.add_column(heading, no_wrap=heading != COLUMNS[-1])
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    Console().print(table)

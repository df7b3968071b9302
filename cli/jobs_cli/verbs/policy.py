"""`jobsctl policy`: what the supervisor goes by when it decides."""

from typing import Final

from cyclopts import App

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.escape import escape
from jobs_cli.prose import prose
from jobs_cli.session import ask

policy: Final = App(
    name="policy",
    help=prose("""Look at what the supervisor goes by when it decides who may do what.

The rules are the built-in ones and those of its settings (`[policy]`); plugins may allow and forbid
more. jobsctl can-i asks for one decision, with all of them."""),
)


@policy.command
def show(*, json: bool = False, endpoint: Endpoint = DEFAULT) -> None:
    """Print the rules: for each role, what it may do to its own jobs, and to any.

    One line each, tab-separated: role, own or any, actions; * is every action. What is about no job
    (run, list) stands with any.

    Args:
        json: as JSON: an array of {"role": …, "action": …, "whose": …}.
    """
    rules = ask(endpoint, lambda client: client.policy())["rules"]
    if json:
        output.write_json(rules)
        return
    lines: dict[tuple[str, str], list[str]] = {}
    for rule in rules:
        lines.setdefault((rule["role"], rule["whose"]), []).append(rule["action"])
    output.write_lines(
        "\t".join(map(escape, (role, whose, " ".join(actions))))
        for (role, whose), actions in lines.items()
    )

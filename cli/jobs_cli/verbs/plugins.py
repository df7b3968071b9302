"""`jobsctl plugins`."""

from collections.abc import Iterator
from typing import Any

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.escape import escape
from jobs_cli.session import ask


def plugins(*, json: bool = False, endpoint: Endpoint = DEFAULT) -> None:
    """List the supervisor's plugins: each hook, who is asked first, and where it comes from.

    One line for each hook of each plugin: the hook, the place in its order, the plugin, and its
    origin, which is built-in, a distribution with its version, or a file; separated by tabs. For
    admins.

    For example:

        jobsctl plugins
        jobsctl plugins --json | jq -r '.order.jobs_authorize[]'

    Args:
        json: as JSON: {"plugins": [{"name": …, "origin": …, "hooks": […]}, …], "order": {…}}.
    """
    answer = ask(endpoint, lambda client: client.plugins())
    if json:
        output.write_json(answer)
    else:
        output.write_lines("\t".join(map(escape, row)) for row in _rows(answer))


def _rows(answer: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    origins = {plugin["name"]: plugin["origin"] for plugin in answer["plugins"]}
    for hook, names in answer["order"].items():
        for place, name in enumerate(names, 1):
            yield hook, str(place), name, origins[name]

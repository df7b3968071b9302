"""`jobsctl whoami`."""

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.escape import escape
from jobs_cli.session import ask


def whoami(*, json: bool = False, endpoint: Endpoint = DEFAULT) -> None:
    """Say who you are to the supervisor.

    Roles are those of your certificate; or, if you are bound, those that the supervisor's settings
    give you instead. jobsctl policy show says what roles may, jobsctl can-i what you may.

    The connection is the one named by options (--server, --ca, --cert and --key; or --context, of
    a file --config); without them by the environment (JOBS_CONFIG and JOBS_CONTEXT; or JOBS_SERVER,
    JOBS_CA, JOBS_CERT and JOBS_KEY); without that by ~/.config/jobs/config.toml.

    For example:

        jobsctl whoami
        jobsctl --context dev-alice whoami --json

    Args:
        json: as JSON: {"identity": …, "roles": […], "groups": […], "bound": …, "fingerprint": …,
            "not_after": …}.
    """
    answer = ask(endpoint, lambda client: client.whoami())
    if json:
        output.write_json(answer)
    else:
        output.write_lines(f"{key}: {escape(_text(value))}" for key, value in answer.items())


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(value) or "-") if isinstance(value, list) else str(value)

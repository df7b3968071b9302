"""`jobsctl whoami`."""

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.escape import escape
from jobs_cli.session import ask


def whoami(*, json: bool = False, endpoint: Endpoint = DEFAULT) -> None:
    """Say who you are to the supervisor, and how much you have of what you may have there.

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
            "not_after": …, "quotas": {"running": {"limit": …, "used": …}, …}}; a limit
            of null is none.
    """
    answer = ask(endpoint, lambda client: client.whoami())
    if json:
        output.write_json(answer)
    else:
        quotas = answer.pop("quotas", {})
        lines = {**answer, **{key: _use(quota) for key, quota in quotas.items()}}
        output.write_lines(f"{key}: {escape(_text(value))}" for key, value in lines.items())


def _use(quota: dict[str, float | None]) -> str:
    limit, used = quota["limit"], quota["used"]
    most = "no limit" if limit is None else f"{limit:.15g}"
    return most if used is None else f"{used:.15g} of {most}"


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (", ".join(value) or "-") if isinstance(value, list) else str(value)

"""`jobsctl version`."""

from jobs_cli import output
from jobs_proto.methods import PROTOCOL_VERSION


def version(*, json: bool = False) -> None:
    """Say which version this is.

    It asks no supervisor: `jobsctl whoami` does.

    Args:
        json: as JSON: {"version": …, "protocol": …}.
    """
    if json:
        output.write_json({"version": version_number(), "protocol": PROTOCOL_VERSION})
    else:
        output.write(version_text() + "\n")


def version_text() -> str:
    """Give the line that `--version` prints."""
    return f"jobs {version_number()} (protocol {PROTOCOL_VERSION})"


def version_number() -> str:
    """Give the installed version; a source tree that nobody installed has none."""
    from importlib import metadata

    try:
        return metadata.version("jobs")
    except metadata.PackageNotFoundError:
        return "unknown"

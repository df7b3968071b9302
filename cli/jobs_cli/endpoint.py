"""Which supervisor a verb talks to, and as whom: the options that every such verb has."""

from typing import Annotated, Final

from attrs import fields, frozen
from cyclopts import Group, Parameter

_FILE: Final = Parameter(metavar="FILE")


@Parameter(name="*", group=Group("Connection", sort_key=1))
@frozen(kw_only=True)
class Endpoint:
    """Where the supervisor is, and who asks; what is not given comes from the environment.

    Attributes:
        config: the file with contexts; else JOBS_CONFIG, else ~/.config/jobs/config.toml.
        context: the context of that file to use; else JOBS_CONTEXT, else its default.
        server: the supervisor's HOST:PORT, instead of a context; else JOBS_SERVER.
        ca: the CA certificate that the supervisor must be of; else JOBS_CA.
        cert: your certificate; else JOBS_CERT.
        key: your private key; else JOBS_KEY.
    """

    config: Annotated[str | None, _FILE] = None
    context: Annotated[str | None, Parameter(metavar="NAME")] = None
    server: Annotated[str | None, Parameter(metavar="HOST:PORT")] = None
    ca: Annotated[str | None, _FILE] = None
    cert: Annotated[str | None, _FILE] = None
    key: Annotated[str | None, _FILE] = None


DEFAULT: Final = Endpoint()

OPTIONS: Final = tuple(f"--{field.name}" for field in fields(Endpoint))
"""These may also stand before the verb; each takes a value."""

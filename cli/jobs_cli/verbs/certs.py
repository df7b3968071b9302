"""`jobsctl certs`: the installation's certificate authority."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from attrs import asdict
from cyclopts import App, Parameter

from jobs_cli import output
from jobs_cli.escape import escape
from jobs_cli.failure import Failure
from jobs_cli.prose import prose

if TYPE_CHECKING:
    from jobs_certs import Issued

certs: Final = App(
    name="certs",
    help=prose("""Make an installation's certificate authority, and certificates of it.

The authority's key can make anybody anything: keep its folder off the supervisor's host if you
can. Certificates and their keys are written beside it; copy them where they belong.

For example:

    jobsctl certs init --dir ca
    jobsctl certs issue host.example.com --role server --san 192.0.2.7 --dir ca
    jobsctl certs issue alice --role operator --dir ca
    jobsctl certs verify ca/alice.crt"""),
)

Directory = Annotated[Path, Parameter(metavar="DIR")]
Days = Annotated[int | None, Parameter(metavar="N")]
File = Annotated[Path, Parameter(metavar="FILE")]

HERE: Final = Path("jobs-ca")


@certs.command
def init(
    *,
    dir: Directory = HERE,
    days: Days = None,
    json: bool = False,
) -> None:
    """Make an authority: ca.crt, for everybody, and ca.key, for nobody else.

    Args:
        dir: the authority's folder, made if missing, and closed to others; default: jobs-ca.
        days: how long it is valid; default: 3650.
        json: as JSON: {"certificate": …, "key": …}.
    """
    import jobs_certs

    with _telling_failure():
        made = jobs_certs.init(dir) if days is None else jobs_certs.init(dir, days=days)
    _write_made(made, json=json)


@certs.command
def issue(
    name: Annotated[str, Parameter(metavar="NAME")],
    /,
    *,
    role: Annotated[tuple[str, ...], Parameter(metavar="ROLE")],
    san: Annotated[tuple[str, ...], Parameter(metavar="SAN")] = (),
    days: Days = None,
    dir: Directory = HERE,
    json: bool = False,
) -> None:
    """Make a key and a certificate: NAME.crt and NAME.key, beside the authority's.

    Args:
        name: whom it is for; a client's identity, unless --san gives it another.
        role: server, or what a client may: admin, operator, viewer; may be repeated.
        san: a server's DNS name or address (default: NAME), or a client's SPIFFE ID.
        days: how long it is valid; default: 365 for a server, 90 for a client.
        dir: the authority's folder; default: jobs-ca.
        json: as JSON: {"certificate": …, "key": …}.
    """
    import jobs_certs

    with _telling_failure():
        made = jobs_certs.issue(dir, name, role=role, days=days, sans=san)
    _write_made(made, json=json)


@certs.command
def show(file: File, /, *, json: bool = False) -> None:
    """Say what a certificate says: for whom, from whom, how long.

    Args:
        file: the certificate.
        json: as JSON, with the same fields.
    """
    import jobs_certs

    with _telling_failure():
        description = asdict(jobs_certs.show(file))
    if json:
        output.write_json(description)
    else:
        output.write_lines(f"{key}: {escape(_text(value))}" for key, value in description.items())


@certs.command
def verify(
    file: File,
    /,
    *,
    ca: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    host: Annotated[str | None, Parameter(metavar="HOST")] = None,
    json: bool = False,
) -> None:
    """Check a certificate as its peers will.

    If it will not do, the reason is told, and the exit status is 1.

    Args:
        file: the certificate. Its key is checked too, if it lies beside it.
        ca: the authority's certificate; default: ca.crt beside it.
        host: for a server, the name or address that clients will ask for.
        json: as JSON: {"kind": …}.
    """
    import jobs_certs

    with _telling_failure():
        kind = jobs_certs.verify(file, ca=ca, host=host)
    if json:
        output.write_json({"kind": kind})
    else:
        output.write_lines([f"good for a {kind}"])


@contextmanager
def _telling_failure() -> Iterator[None]:
    from jobs_certs import CertsError

    try:
        yield
    except CertsError as error:
        raise Failure(str(error)) from None


def _write_made(made: "Issued", *, json: bool) -> None:
    """Say which files were made; paths that are no UTF-8 come out as they are."""
    if json:
        output.write_json({"certificate": str(made.certificate), "key": str(made.key)})
    else:
        output.write_lines([str(made.certificate), str(made.key)])


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value)
    return "-" if value is None else str(value)

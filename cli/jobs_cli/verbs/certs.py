"""`jobsctl certs`: the installation's certificate authority."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from attrs import asdict
from cyclopts import App, Parameter

from jobs_cli import output
from jobs_cli.escape import escape
from jobs_cli.failure import USAGE, Failure
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
    jobsctl certs verify ca/alice.crt
    jobsctl certs renew alice --dir ca
    jobsctl certs revoke ca/alice.crt --dir ca"""),
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
        role: server, or what a client may: admin, operator, viewer, or a role that the supervisor's
            settings or a plugin know; may be repeated.
        san: a server's DNS name or address (default: NAME), or a client's SPIFFE ID.
        days: how long it is valid; default: 365 for a server, 90 for a client.
        dir: the authority's folder; default: jobs-ca.
        json: as JSON: {"certificate": …, "key": …}.
    """
    import jobs_certs

    with _telling_failure():
        made = jobs_certs.issue(dir, name, role=role, days=days, sans=san)
    _write_made(made, json=json)
    for unknown in _not_built_in(role):
        output.say(unknown)


def _not_built_in(roles: tuple[str, ...]) -> Iterator[str]:
    """Warn of roles that may have been mistyped: they may do nothing, where nobody knows them."""
    from difflib import get_close_matches

    from jobs_certs.names import SERVER
    from jobs_plugins.rules import RULES

    known = sorted({SERVER, *(rule.role for rule in RULES)})
    for role in roles:
        if role not in known:
            near = get_close_matches(role, known, 1)
            meant = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}."
            yield (
                f"warning: no built-in role is called {role}; {meant} Who has no other may do "
                "nothing, unless the supervisor's settings or a plugin know that role"
            )


@certs.command
def show(file: File, /, *, json: bool = False) -> None:
    """Say what a certificate says: for whom, from whom, how long.

    Args:
        file: the certificate.
        json: as JSON, with the same fields.
    """
    import jobs_certs

    with _telling_failure():
        _write_fields(asdict(jobs_certs.show(file)), json=json)


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
        ca: the authority's certificate; default: ca.crt beside it. Its list of what it has revoked
            counts, if it lies beside that (ca.crl).
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


@certs.command
def renew(
    name: Annotated[str, Parameter(metavar="NAME")],
    /,
    *,
    revoke_old: bool = False,
    days: Days = None,
    dir: Directory = HERE,
    json: bool = False,
) -> None:
    """Put a new key and certificate in the place of NAME.crt and NAME.key.

    Name, roles and hosts stay the same, and so the jobs stay its own. The old pair is kept in old/,
    and stays good until it ends or is revoked. If this is interrupted, do it again.

    Args:
        name: as it was issued.
        revoke_old: revoke the old certificate as well, see `certs revoke`.
        days: how long it is valid; default: 365 for a server, 90 for a client.
        dir: the authority's folder; default: jobs-ca.
        json: as JSON: {"certificate": …, "key": …}.
    """
    import jobs_certs

    with _telling_failure():
        made = jobs_certs.renew(dir, name, days=days, revoke_old=revoke_old)
    _write_made(made, json=json)
    if revoke_old:
        _say_where_it_counts()


@certs.command(usage="Usage: jobsctl certs revoke [OPTIONS] FILE… | --serial HEX")
def revoke(
    *files: File,
    serial: Annotated[tuple[str, ...], Parameter(metavar="HEX")] = (),
    days: Days = None,
    dir: Directory = HERE,
    json: bool = False,
) -> None:
    """Revoke certificates: put them on the authority's list, ca.crl, for ever.

    They are refused, and what they do is cut off, by each supervisor that has the new list: copy it
    to where its setting `crl` says, and send it SIGHUP.

    Args:
        files: the certificates.
        serial: a certificate's serial number, as `certs show` prints it; may be repeated.
        days: after how many days supervisors warn that the list is old; default: 30.
        dir: the authority's folder; default: jobs-ca.
        json: as JSON: the list, as `certs crl --json` prints it.
    """
    import jobs_certs

    with _telling_failure():
        days = jobs_certs.CRL_DAYS if days is None else days
        revoked = jobs_certs.revoke(dir, files, serials=serial, days=days)
    _write_list(revoked.path, json=json)
    for number in revoked.already:
        output.say(f"{number} was on the list already")
    _say_where_it_counts()


@certs.command
def crl(
    *,
    refresh: bool = False,
    days: Days = None,
    dir: Directory = HERE,
    json: bool = False,
) -> None:
    """Say what the authority's list ca.crl holds, or make it anew.

    Args:
        refresh: make the list anew, with the same entries; or the first one, with none.
        days: with --refresh: after how many days supervisors warn that it is old; default: 30.
        dir: the authority's folder; default: jobs-ca.
        json: as JSON, with the same fields.
    """
    import jobs_certs

    if days is not None and not refresh:
        raise Failure("--days is about a new list; say --refresh too", USAGE)
    with _telling_failure():
        if refresh:
            jobs_certs.refresh(dir, days=jobs_certs.CRL_DAYS if days is None else days)
    _write_list(dir / "ca.crl", json=json)


def _write_list(path: Path, *, json: bool) -> None:
    import jobs_certs

    with _telling_failure():
        _write_fields(asdict(jobs_certs.show_crl(path)), json=json)


def _say_where_it_counts() -> None:
    output.say(
        "copy ca.crl to each supervisor's `crl`, and send it SIGHUP; until then nothing changes"
    )


@contextmanager
def _telling_failure() -> Iterator[None]:
    from jobs_certs import CertsError

    try:
        yield
    except CertsError as error:
        raise Failure(str(error)) from None


def _write_fields(fields: dict[str, object], *, json: bool) -> None:
    if json:
        output.write_json(fields)
    else:
        output.write_lines(f"{key}: {escape(_text(value))}" for key, value in fields.items())


def _write_made(made: "Issued", *, json: bool) -> None:
    """Say which files were made; paths that are no UTF-8 come out as they are."""
    if json:
        output.write_json({"certificate": str(made.certificate), "key": str(made.key)})
    else:
        output.write_lines([str(made.certificate), str(made.key)])


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)

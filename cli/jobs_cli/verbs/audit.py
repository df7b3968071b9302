"""`jobsctl audit`: the supervisor's audit log, checked where its files are."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from jobs_cli import output
from jobs_cli.auditlog import read_chain
from jobs_cli.escape import escape
from jobs_cli.failure import USAGE, Failure
from jobs_cli.prose import prose

if TYPE_CHECKING:
    from jobs_proto.audit import Chain

audit: Final = App(
    name="audit",
    help=prose("""Check the supervisor's audit log: that no line was changed, removed or moved.

No supervisor is asked: these read files, and so need the right to; copies will do.

For example:

    jobsctl audit verify
    jobsctl audit head /var/lib/jobs
    jobsctl audit verify --expect HASH:SEQ /var/lib/jobs"""),
)

STATE: Final = Path("/var/lib/jobs")

Paths = Annotated[tuple[Path, ...], Parameter(metavar="FILE|DIR")]


@audit.command(usage="Usage: jobsctl audit verify [OPTIONS] [FILE|DIR…]")
def verify(
    paths: Paths = (),
    /,
    *,
    expect: Annotated[str | None, Parameter(metavar="HASH:SEQ")] = None,
    json: bool = False,
) -> None:
    """Check that the lines are those that were written, all of them, in their order.

    What is wrong first is told, with file and line, and the exit status is 1. That the log's end
    was cut off, or all of it written anew, only a head can show that was noted before, from
    `jobsctl audit head` or the supervisor's own log: give it with --expect.

    Args:
        paths: files, in any order, or a state directory, for all in it; default: /var/lib/jobs.
        expect: a line that has to be there, as it was noted.
        json: as JSON: {"ok": …, "lines": …, "first": …, "head": …, "torn": …, "fault": …}.
    """
    from jobs_proto.audit import AuditError

    chain = _chain(expect)
    fault = None
    try:
        read_chain(chain, paths or (STATE,))
    except AuditError as error:
        fault = error
    if json:
        told = fault and {"file": fault.file, "line": fault.line, "what": fault.what}
        output.write_json({"ok": fault is None, **_summary(chain), "fault": told})
    if fault is not None:
        raise Failure(f"the audit log is not as it was written: {escape(str(fault))}")
    if not json:
        torn = f"; {chain.torn} bytes of a line that is not whole follow" if chain.torn else ""
        output.write_lines([f"good: seq {chain.first} to {chain.head.seq}{torn}", str(chain.head)])


@audit.command(usage="Usage: jobsctl audit head [OPTIONS] [FILE|DIR…]")
def head(paths: Paths = (), /, *, json: bool = False) -> None:
    """Print the last line's hash and number, to be noted elsewhere and given to verify --expect.

    Args:
        paths: files, in any order, or a state directory, for all in it; default: /var/lib/jobs.
        json: as JSON: {"hash": …, "seq": …}.
    """
    from jobs_proto.audit import AuditError

    chain = _chain(None)
    try:
        read_chain(chain, paths or (STATE,))
    except AuditError as error:
        raise Failure(f"the audit log is not as it was written: {escape(str(error))}") from None
    if json:
        output.write_json(chain.head._asdict())
    else:
        output.write_lines([str(chain.head)])


def _chain(expect: str | None) -> "Chain":
    from jobs_proto.audit import Chain, Head

    try:
        return Chain(None if expect is None else Head.parse(expect))
    except ValueError as error:
        raise Failure(f"--expect: {escape(str(error))}", USAGE) from None


def _summary(chain: "Chain") -> dict[str, object]:
    return {
        "lines": 0 if chain.first is None else chain.head.seq - chain.first + 1,
        "first": chain.first,
        "head": chain.head._asdict(),
        "torn": chain.torn,
    }

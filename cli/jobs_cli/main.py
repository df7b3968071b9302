"""The program: reads what was typed, runs the verb, and turns how it ended into an exit status."""

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cyclopts import CoercionError, CycloptsError, Token, UnusedCliTokensError

from jobs_cli import output
from jobs_cli.app import WITH_COMMAND, make_app
from jobs_cli.arguments import arrange, verb_of
from jobs_cli.failure import INTERRUPTED, OURS, STDOUT_CLOSED, USAGE, Failure, StdoutClosed
from jobs_cli.output import say
from jobs_cli.plugins import add_verbs

NOT_WRITTEN: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What comes of writing a help text, which alone goes through Python's own standard output."""


def main() -> int:
    """Run `jobsctl` as it was typed; give its exit status."""
    output.occupy()
    program = Path(sys.argv[0]).name
    try:
        status = call(sys.argv[1:], program if program in ("jobs", "jobsctl") else "jobsctl")
        _flush()
    except (StdoutClosed, BrokenPipeError, SystemExit):  # rich exits when its output is closed
        status = STDOUT_CLOSED
        _forget_stdout()
    except OSError as error:
        say(f"cannot write to standard output: {error.strerror}")
        status = OURS
        _forget_stdout()
    return status


def call(words: Sequence[str], program: str) -> int:
    """Run one verb; every way to fail ends as one line on standard error.

    Args:
        words: what was typed after the program's name.
        program: the name it was called by.

    Raises:
        StdoutClosed: nobody reads our output.
        BrokenPipeError: the same, of help texts.
        SystemExit: the same, as rich puts it.
        OSError: a help text cannot be written.
    """
    try:
        return _dispatch(words, program)
    except Failure as failure:
        say(failure.message)
        return failure.status
    except CycloptsError as error:
        say(f"{_one_line(error)} See {_help_for(error)}.")
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (StdoutClosed, BrokenPipeError):
        raise
    except Exception as error:
        if os.environ.get("JOBS_DEBUG") or getattr(error, "errno", None) in NOT_WRITTEN:
            raise
        say(f"a fault of jobsctl: {error!r}; JOBS_DEBUG=1 shows where. Please report it")
        return OURS


def _dispatch(words: Sequence[str], program: str) -> int:
    app = make_app(program)
    verb = verb_of(words)
    if verb is None or verb.startswith("-") or verb not in app:
        add_verbs(app)
    arranged = arrange(app, words, with_command=WITH_COMMAND)
    status: int | None = app(arranged, exit_on_error=False, print_error=False)
    return status or 0


def _one_line(error: CycloptsError) -> str:
    """Give the parser's sentence on one line, with one stop."""
    line = " ".join(_words(error).split()).removesuffix(".")
    return line if line.endswith("?") else f"{line}."


def _words(error: CycloptsError) -> str:
    """Give the parser's sentence; ours, where it speaks of types and tokens."""
    match error:
        case UnusedCliTokensError(unused_tokens=[_, *_] as words):
            return f"too much was typed: {' '.join(words)}"
        case CoercionError(msg=None, token=Token(keyword=str(option), value=value)):
            wanted = {int: "a whole number", float: "a number"}.get(error.target_type or str)
            if wanted is not None:
                return f"{option} wants {wanted}, not {value!r}"
    return str(error)


def _help_for(error: CycloptsError) -> str:
    return " ".join(["jobsctl", *(error.command_chain or ()), "--help"])


def _flush() -> None:
    """Write out what the help formatter left with Python, while failing can still be told."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _forget_stdout() -> None:
    """Give Python somewhere to flush to when it ends, or it complains of the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

"""What was typed, arranged so that it can be read in one way only.

Two things that a parser of options cannot know by itself are settled here, by rewriting:

- The connection's options may stand before the verb; they are moved behind it.
- From the first word that is neither option nor option's value, all belongs to the job's command:
  in `run --name a ls --help`, `--help` is for ls. A `--` is put before that word.

Which options of a verb take a value is asked of the verb, so there is nothing to keep in step.
"""

from collections.abc import Sequence

from cyclopts import App, ArgumentCollection
from cyclopts.utils import UNSET

from jobs_cli import endpoint
from jobs_cli.failure import USAGE, Failure

END = "--"


def arrange(app: App, tokens: Sequence[str], *, with_command: Sequence[str]) -> list[str]:
    """Rewrite the words after the program's name for `app` to parse.

    Args:
        app: the verbs.
        tokens: the words.
        with_command: the verbs whose last argument is a command.

    Raises:
        Failure: only connection options were given.
    """
    leading, rest = _split_leading(tokens)
    if leading and not rest:
        raise Failure(f"a verb is missing after {leading[0]}; see jobsctl --help", USAGE)
    if not rest or rest[0] not in app:
        return rest  # for the help, or to be told which verbs there are
    verb, *words = rest
    words = [*leading, *words]
    if verb in with_command:
        words = _mark_command(app[verb].assemble_argument_collection(), words)
    return [verb, *words]


def verb_of(tokens: Sequence[str]) -> str | None:
    """Give the word that stands where the verb does; None: there is none."""
    _, rest = _split_leading(tokens)
    return rest[0] if rest else None


def _split_leading(tokens: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split connection options, with their values, from what follows them."""
    position = 0
    while position < len(tokens):
        name, equals, _ = tokens[position].partition("=")
        if name not in endpoint.OPTIONS:
            break
        position += 1 if equals else 2
    return list(tokens[:position]), list(tokens[position:])


def _mark_command(options: ArgumentCollection, words: Sequence[str]) -> list[str]:
    """Put `--` before the first word of the command, if the user has not."""
    position = 0
    while position < len(words):
        word = words[position]
        if word == END:
            return list(words)
        if not word.startswith("-") or word == "-":
            return [*words[:position], END, *words[position:]]
        position += 2 if _takes_next(options, word) else 1
    return list(words)


def _takes_next(options: ArgumentCollection, word: str) -> bool:
    """Whether the word after this option is its value; an unknown option is taken for a flag."""
    try:
        argument, _, implicit = options.match(word)
    except ValueError:
        return False
    return implicit is UNSET and argument.parameter.parse is not False

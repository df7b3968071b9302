"""What was typed, arranged so that it can be read in one way only.

Two things that a parser of options cannot know by itself are settled here, by rewriting:

- The connection's options may stand before the verb, and between it and the verb within it
  (`policy show`); they are moved behind.
- From the first word that is neither option nor option's value, all belongs to the job's command:
  in `run --name a ls --help`, `--help` is for ls. A `--` is put before that word.

Which options of a verb take a value is asked of the verb, so there is nothing to keep in step.
"""

from collections.abc import Sequence
from functools import reduce

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
    path, options, rest = _split_path(app, tokens)
    if not path:
        if options and not rest:
            raise Failure(f"a verb is missing after {options[0]}; see jobsctl --help", USAGE)
        return rest  # for the help, or to be told which verbs there are
    verb = reduce(App.__getitem__, path, app)
    if verb.default_command is None:
        return [*path, *rest]  # likewise, of the verbs within this one
    words = [*options, *rest]
    if path[0] in with_command:
        words = _mark_command(verb.assemble_argument_collection(), words)
    return [*path, *words]


def verb_of(tokens: Sequence[str]) -> str | None:
    """Give the word that stands where the verb does; None: there is none."""
    _, rest = _split_leading(tokens)
    return rest[0] if rest else None


def _split_path(app: App, tokens: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Split the verb (with the one within it), connection options around it, and what follows."""
    path: list[str] = []
    options, rest = _split_leading(tokens)
    while rest and not rest[0].startswith("-") and rest[0] in app:
        app = app[rest[0]]
        path.append(rest[0])
        more, rest = _split_leading(rest[1:])
        options += more
    return path, options, rest


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

"""What of a command line is ours, and what is the job's."""

import pytest
from cyclopts import CycloptsError

from jobs_cli.app import WITH_COMMAND, make_app
from jobs_cli.arguments import arrange
from jobs_cli.endpoint import Endpoint
from jobs_cli.failure import USAGE, Failure

ODD = ("printf", "", "{}", "[1]", "@file", "-1", "a=b", "*")


def parse(*words):
    """Give the arguments that a verb would be called with."""
    app = make_app("jobsctl")
    arranged = arrange(app, words, with_command=WITH_COMMAND)
    _, bound, _ = app.parse_args(arranged, exit_on_error=False, print_error=False)
    return bound


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["ls", "-la"], ("ls", "-la")),
        (["--", "ls", "-la"], ("ls", "-la")),
        (["ls", "--", "-x"], ("ls", "--", "-x")),
        (["--", "git", "log", "--", "f"], ("git", "log", "--", "f")),
        (["ls", "--follow", "--name", "x"], ("ls", "--follow", "--name", "x")),
        (["ls", "--help"], ("ls", "--help")),
        (["ls", "--version", "-h"], ("ls", "--version", "-h")),
        (["--", "--help"], ("--help",)),
        (["-f", "ls", "-f"], ("ls", "-f")),
        (["--name", "n", "ls", "--context", "c"], ("ls", "--context", "c")),
        (["--name=n", "ls"], ("ls",)),
        (["--env", "A=1", "--env", "B=2", "env"], ("env",)),
        (["--timeout", "1.5", "--json", "sleep", "1"], ("sleep", "1")),
        (["-", "x"], ("-", "x")),
        ([*ODD], ODD),
        (["printf", "\udcff", "ü"], ("printf", "\udcff", "ü")),
        (["version"], ("version",)),
        (["run", "list"], ("run", "list")),
    ],
)
def test_the_command_is_what_was_typed_from_its_first_word_on(words, command):
    assert parse("run", *words).args == command


@pytest.mark.parametrize(
    "words",
    [
        ["--bogus", "ls"],
        ["--bogus", "--", "ls"],
        ["--bogus=1", "ls"],
        ["-x", "ls"],
        ["--name"],
        ["--timeout", "soon", "ls"],
    ],
)
def test_an_option_that_is_none_is_never_swallowed_into_the_command(words):
    with pytest.raises(CycloptsError):
        parse("run", *words)


def test_options_of_the_spec_are_made_of_its_fields():
    spec = parse(
        "run",
        "--env",
        "A=b=c",
        "--env",
        "E=",
        "--cwd",
        "/srv",
        "--user",
        "u",
        "--timeout",
        "10m",
        "x",
    ).kwargs["spec"]
    assert spec.env == ("A=b=c", "E=")
    assert (spec.cwd, spec.user, spec.timeout_s) == ("/srv", "u", 600.0)


@pytest.mark.parametrize(
    "words",
    [
        ["--context", "dev", "--server=h:1", "run", "ls"],
        ["--context", "dev", "run", "--server", "h:1", "ls"],
        ["run", "--context=dev", "--server", "h:1", "--", "ls"],
    ],
)
def test_the_connection_may_be_named_before_and_after_the_verb(words):
    bound = parse(*words)
    assert bound.kwargs["endpoint"] == Endpoint(context="dev", server="h:1")
    assert bound.args == ("ls",)


@pytest.mark.parametrize(
    "words",
    [
        ["--context", "dev", "policy", "show", "--json"],
        ["policy", "--context", "dev", "show", "--json"],
        ["policy", "show", "--json", "--context=dev"],
    ],
)
def test_the_connection_may_be_named_before_a_verb_of_two_words(words):
    assert parse(*words).kwargs == {"endpoint": Endpoint(context="dev"), "json": True}


@pytest.mark.parametrize(
    ("words", "arranged"),
    [
        (["--context", "dev", "policy"], ["policy"]),
        (["--context", "dev", "policy", "--help"], ["policy", "--help"]),
        (["--context", "dev", "policy", "shw"], ["policy", "shw"]),
    ],
)
def test_half_a_verb_is_met_with_its_help_or_the_verbs_there_are(words, arranged):
    assert arrange(make_app("jobsctl"), words, with_command=WITH_COMMAND) == arranged


@pytest.mark.parametrize("words", [["--context", "dev"], ["--context"], ["--key=k"]])
def test_a_connection_without_a_verb_is_a_usage_error(words):
    with pytest.raises(Failure, match="a verb is missing") as failed:
        parse(*words)
    assert failed.value.status == USAGE


@pytest.mark.parametrize("alias", ["list", "ls", "ps"])
def test_aliases_are_the_verb(alias):
    assert parse(alias, "--all", "--limit", "3").kwargs == {"all": True, "limit": 3}


def test_several_ids_and_options_in_any_order():
    bound = parse("stop", "a", "--signal", "INT", "b", "--grace", "500ms", "c")
    assert bound.args == ("a", "b", "c")
    assert bound.kwargs == {"signal": "INT", "grace": 0.5}
    assert parse("wait", "a", "b", "--timeout", "2h").args == ("a", "b")

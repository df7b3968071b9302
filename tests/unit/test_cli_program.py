"""The program as it is called: exit statuses, and one line for whatever went wrong."""

import json
import os
import re
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest
from cyclopts import App

HEAVY = ("trio", "OpenSSL", "cryptography", "rich", "cattrs")


def jobsctl(*words, stdin="", **environment):
    return subprocess.run(
        [sys.executable, "-m", "jobs_cli", *words],
        env={**os.environ, **environment},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["bogus"], 'Unknown command "bogus"'),
        (["run"], "the command is empty"),
        (["run", ""], "the command is empty"),
        (["run", "--bogus", "ls"], "Unknown option: --bogus"),
        (["run", "--label", "x", "ls"], "--label wants KEY=VALUE"),
        (["run", "--name", "9", "ls"], "cannot be a job's name"),
        (["run", "--timeout", "0", "ls"], "a timeout is more than 0 s"),
        (["run", "--timeout", "x", "ls"], "'x' is no duration"),
        (["run", "--output-max", "0", "ls"], "1 at least, not 0"),
        (["run", "--output-max", "64Q", "ls"], "'64Q' is no size"),
        (["run", "--output-policy", "drop", "ls"], "one of keep-tail, keep-head, block"),
        (["update", "a"], "say what to change"),
        (["update", "a", "--output-max", "0"], "1 at least, not 0"),
        (["update", "a", "--timeout", "0"], "a timeout is more than 0 s"),
        (["run", "--cwd", "here", "ls"], "absolute path"),
        (["run", "-f", "--json", "ls"], "drop --json"),
        (["kill"], "name the jobs to kill"),
        (["kill", "a", "--all"], "name the jobs to kill"),
        (["kill", "a", "--signal", "FOO"], "there is no signal 'FOO'"),
        (["list", "--limit", "0"], "a limit is 1 to"),
        (["follow", "a", "--from", "-1"], "an offset counts bytes"),
        (["wait"], "name the jobs to wait for"),
        (["remove"], "name the jobs to remove"),
        (["inspect"], "requires an argument"),
        (["run", "--secret", "foo", "ls"], "--secret wants NAME=FILE, not 'foo'"),
        (["run", "--secret", "=foo", "ls"], "--secret wants NAME=FILE, not '=foo'"),
        (["run", "--secret", "a=/no/such", "ls"], "cannot read the secret /no/such: No such file"),
        (["shell-init", "tcsh"], 'Choose from: "bash"'),
        (["list", "more", "words"], "too much was typed: more words. See jobsctl list --help."),
        (["run", "--pids", "x", "ls"], "--pids wants a whole number, not 'x'."),
        (["run", "--cpus", "x", "ls"], "--cpus wants a number, not 'x'."),
        (["run", "--pids", "0", "ls"], "the limit pids must be more than 0"),
        (["certs", "issue", "x"], "--role requires an argument"),
        (["audit", "verify", "--expect", "1"], "a head is HASH:SEQ"),
    ],
)
def test_what_was_typed_wrong_is_said_on_one_line(words, said):
    done = jobsctl(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("jobsctl: ")
    assert done.stderr.count("\n") == 1


def every_verb():
    """Give the words of each verb, those within families too."""
    from jobs_cli.app import make_app, verb_names

    app = make_app("jobsctl")
    for name in verb_names(app):
        if app[name].default_command is None:
            yield from ((name, within) for within in verb_names(app[name]))
        else:
            yield (name,)


def test_every_verb_explains_itself_with_each_of_its_options():
    from jobs_cli.app import make_app

    app = make_app("jobsctl")
    for words in every_verb():
        verb = reduce(App.__getitem__, words, app)
        assert verb.help, verb.name
        for argument in verb.assemble_argument_collection(parse_docstring=True):
            assert argument.parameter.help or argument.name == "*", (verb.name, argument.name)


@pytest.mark.parametrize("words", tuple(every_verb()))
def test_no_help_speaks_of_types_or_arguments(words):
    """`STR` and `[ARGS...]` are what a program makes of its own names."""
    shown = jobsctl(*words, "--help").stdout
    assert not re.findall(r"\[ARGS|^  -[^:]* (?:STR|INT|FLOAT)\b", shown, re.MULTILINE)


def test_help_has_no_boxes_where_nobody_looks():
    done = jobsctl("--help")
    assert done.returncode == 0
    assert "Usage: jobsctl COMMAND" in done.stdout
    assert not set("╭│╰\x1b") & set(done.stdout)


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version(words):
    assert jobsctl(*words).stdout.startswith("jobs ")
    assert set(json.loads(jobsctl("version", "--json").stdout)) == {"version", "protocol"}


@pytest.mark.parametrize("words", [["version"], ["shell-init", "bash"], ["run", "--timeout", "x"]])
def test_quick_verbs_import_nothing_heavy(words):
    program = (
        "import sys; from jobs_cli.main import call; call(sys.argv[1:], 'jobsctl');"
        f"sys.exit(repr([m for m in {HEAVY} if m in sys.modules and m != 'rich']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_closed_standard_output_ends_us_quietly():
    for words in (["shell-init", "bash"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "wb") as sink:
            done = subprocess.run(
                [sys.executable, "-m", "jobs_cli", *words],
                stdout=sink,
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
        assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["version"]])
def test_a_full_disk_is_told_and_no_fault_of_ours(words):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jobs_cli", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == 125
    assert done.stderr == b"jobsctl: cannot write to standard output: No space left on device\n"


def test_certs_from_authority_to_verification(tmp_path):
    ca = str(tmp_path / "ca")
    assert jobsctl("certs", "init", "--dir", ca).stdout.split() == [f"{ca}/ca.crt", f"{ca}/ca.key"]
    issued = jobsctl("certs", "issue", "alice", "--role", "operator", "--dir", ca, "--json")
    alice = json.loads(issued.stdout)["certificate"]
    shown = json.loads(jobsctl("certs", "show", alice, "--json").stdout)
    assert (shown["name"], shown["roles"]) == ("alice", ["operator"])
    assert jobsctl("certs", "verify", alice).stdout == "good for a client\n"
    again = jobsctl("certs", "issue", "alice", "--role", "operator", "--dir", ca)
    assert again.returncode == 1
    assert again.stderr.startswith("jobsctl: ")


@pytest.fixture
def authority(tmp_path):
    ca = str(tmp_path / "ca")
    jobsctl("certs", "init", "--dir", ca)
    return ca


@pytest.mark.parametrize(
    ("role", "said"),
    [
        ("viewr", "no built-in role is called viewr; did you mean viewer?"),
        ("backup", "is called backup; there are: admin, operator, server, viewer."),
        ("viewer", None),
        ("server", None),
    ],
)
def test_a_role_that_is_not_built_in_is_issued_with_a_warning(authority, role, said):
    done = jobsctl("certs", "issue", "bob", "--role", role, "--dir", authority)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 2
    if said is None:
        assert done.stderr == ""
    else:
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_revoking_twice_says_so_and_the_authority_itself_is_refused(authority):
    jobsctl("certs", "issue", "bob", "--role", "viewer", "--dir", authority)
    revoking = ["certs", "revoke", f"{authority}/bob.crt", "--dir", authority]
    first, second = jobsctl(*revoking), jobsctl(*revoking)
    assert (second.returncode, second.stdout) == (0, first.stdout)
    assert "was on the list already" in second.stderr
    assert "already" not in first.stderr
    own = jobsctl("certs", "revoke", f"{authority}/ca.crt", "--dir", authority)
    assert (own.returncode, own.stdout, own.stderr.count("\n")) == (1, "", 1)
    assert "the authority's own certificate" in own.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["can-i"], "not found. Exit status: 0 for yes, 1 for no."),
        (["certs", "renew"], "The old pair is kept in old/, and stays good"),
        (["audit", "verify"], "all of it written anew, only a head can show"),
        (["run"], "SRC:DST or SRC:DST:ro; with whatever is mounted below it. May be repeated."),
        (["run"], "their index may take as much again. Beyond, --output-policy says"),
        (["whoami"], '"fingerprint": …, "not_after": …, "quotas": {"running": '),
        (["certs", "verify"], "Its list of what it has revoked counts, if it lies beside"),
    ],
)
def test_the_lines_of_a_help_are_cut_by_the_width_of_the_terminal_alone(words, line):
    assert line in jobsctl(*words, "--help", COLUMNS="500").stdout


def test_a_mistyped_option_is_met_with_one_stop():
    done = jobsctl("list", "--al")
    assert done.stderr.endswith("Did you mean --all? See jobsctl list --help.\n")

"""The function that lets `jobs` be both, in the real shells."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from jobs_cli.app import make_app, verb_names
from jobs_cli.verbs.shell_init import function

SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(params=SHELLS)
def shell(request, tmp_path):
    """A shell that has the function, and `jobsctl` on its PATH."""
    name = request.param
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    program = tmp_path / "jobsctl"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m jobs_cli "$@"\n')
    program.chmod(0o755)
    load = {
        "fish": "jobsctl shell-init fish | source",
        "bash": 'eval "$(jobsctl shell-init bash)"',
        "zsh": 'eval "$(jobsctl shell-init zsh)"',
    }[name]
    bare = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[name]

    def run(script, *, loaded=True):
        return subprocess.run(
            [name, *bare, "-c", f"{load}\n{script}" if loaded else script],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    run.last_pid = "$last_pid" if name == "fish" else "$!"
    return run


def test_verbs_reach_the_program_with_their_words_unharmed(shell):
    assert shell("jobs version").stdout.startswith("jobs ")
    done = shell("""jobs run --label 'a b  $HOME *' ls""")
    assert done.stderr == "jobsctl: --label wants KEY=VALUE, not 'a b  $HOME *'\n"
    assert done.returncode == 2


def test_a_connection_before_the_verb_reaches_the_program(shell):
    assert "a verb is missing" in shell("jobs --context dev").stderr
    assert "a verb is missing" in shell("jobs --context=dev").stderr


@pytest.mark.parametrize("words", ["jobs", "jobs -l", "jobs %1", 'echo "$(jobs)"'])
def test_the_rest_stays_the_shells_own(shell, words):
    script = f"sleep 60 &\n{words}\nkill {shell.last_pid}"
    with_it, without = (shell(script, loaded=loaded) for loaded in (True, False))
    assert told(with_it) == told(without)
    assert "sleep" in without.stdout or words != "jobs"


def told(done):
    """What a shell said, but for process ids and percentages of CPU."""
    return re.sub(r"[0-9]+", "N", done.stdout), re.sub(r"[0-9]+", "N", done.stderr)


def test_it_may_be_loaded_twice(shell):
    load = "jobs shell-init bash > /dev/null"
    assert shell(f"{load}\njobs version").returncode == 0


@pytest.mark.parametrize("name", SHELLS)
def test_every_verb_is_in_the_function(name):
    verbs = verb_names(make_app("jobsctl"))
    assert {"run", "kill", "stop", "ps", "certs"} <= set(verbs)
    text = function(name, verbs)
    assert all(verb in text for verb in verbs)

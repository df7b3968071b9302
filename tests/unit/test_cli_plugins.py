"""Verbs that plugins add to `jobsctl`: found when they are wanted, and harmless when broken."""

import subprocess
import sys

import pytest

from jobs_cli.main import call

HELLO = """
from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_plugins import hookimpl

@hookimpl
def jobs_cli(app):
    app.command(greet)

def greet(name, *, endpoint: Endpoint = DEFAULT):
    "Greet somebody."
    output.write_lines([f"hello, {name}", str(endpoint.context)])
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a module with an entry point for jobsctl, as a wheel would leave it."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(module, source):
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[jobs.cli]\n{module} = {module}\n")

    return install


def test_a_verb_of_a_plugin(install, capfd):
    install("hello_plugin", HELLO)
    assert call(["greet", "you"], "jobsctl") == 0
    assert call(["--context", "dev", "greet", "you"], "jobsctl") == 0
    out, err = capfd.readouterr()
    assert (out, err) == ("hello, you\nNone\nhello, you\ndev\n", "")


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_it_is_in_the_list_of_verbs(install, capfd, words):
    install("hello_plugin", HELLO)
    assert call(words, "jobsctl") == 0
    assert "Greet somebody" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import nowhere_at_all", "No module named 'nowhere_at_all'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("", "has no attribute 'jobs_cli'"),
        ("def jobs_cli(app): app.command(jobs_cli, name='list')", "cannot add its verbs"),
    ],
)
def test_a_broken_one_is_one_line_and_the_rest_works(install, capfd, source, why):
    install("broken_cli", source)
    install("hello_plugin", HELLO)
    assert call(["greet", "you"], "jobsctl") == 0
    out, err = capfd.readouterr()
    assert out == "hello, you\nNone\n"
    (line,) = err.splitlines()
    assert line.startswith("jobsctl: warning: ")
    assert why in line
    assert "broken_cli" in line


def test_a_verb_of_ours_looks_for_no_plugin(install, capfd):
    install("broken_cli", "import nowhere_at_all")
    assert call(["version"], "jobsctl") == 0
    assert capfd.readouterr().err == ""


def test_nothing_of_plugins_is_imported_for_a_verb_of_ours():
    check = (
        "import sys; from jobs_cli.main import call; call(['version'], 'jobsctl');"
        "sys.exit(any(name.split('.')[0] in ('pluggy', 'jobs_plugins') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0

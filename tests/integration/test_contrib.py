"""The plugins of contrib as anybody would have them: built, installed from wheels, and used.

In a virtual environment of its own, with the project's wheel: their own tests, then a supervisor
and a `jobsctl` with all of them.
"""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = ("jobs-opa-policy", "jobs-office-limits", "jobs-cli-owners")
DECIDE_S = 3.0


def run(*command, **options):
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Give the programs of an environment with the wheels in it."""
    dist = tmp_path_factory.mktemp("dist")
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install")
    for source in (ROOT, *(ROOT / "contrib" / name for name in PLUGINS)):
        run(sys.executable, "-m", "build", "--wheel", "--outdir", dist, source)
    place = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", place)
    wheels = sorted(dist.glob("*.whl"))
    assert len(wheels) == 1 + len(PLUGINS)
    run(place / "bin" / "python", *pip, *wheels, "pytest", "pytest-trio")
    return place / "bin"


@pytest.mark.parametrize("name", PLUGINS)
def test_their_own_tests(scripts, name, tmp_path):
    """Run where neither this repository's settings nor its sources are in the way."""
    tests = ROOT / "contrib" / name / "tests"
    options = ("-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, "-o", "trio_mode=true")
    said = run(
        scripts / "python", "-I", "-m", "pytest", *options, "-c", "/dev/null", tests, cwd="/"
    )
    assert " passed" in said


class Policy(BaseHTTPRequestHandler):
    """Speaks OPA's data API; the rules are the server's, for the test to change."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        body = self.server.rule(asked)
        if body is None:
            self.server.gate.wait()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def open_hours(asked):
    frozen = (asked["labels"] or {}).get("frozen") == "yes"
    if frozen and asked["action"] == "run":
        return b'{"result": {"allow": false, "reason": "nothing frozen is run today"}}'
    return b'{"result": {"allow": true}}'


@pytest.fixture
def opa():
    with ThreadingHTTPServer(("127.0.0.1", 0), Policy) as server:
        server.rule, server.gate = open_hours, threading.Event()
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.gate.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def plugged(scripts, opa, make_supervisor, tmp_path):
    rules = tmp_path / "office.toml"
    rules.write_text('[teams.operator]\nnofile = 77\nenforcement = "best-effort"\n')
    url = f"http://127.0.0.1:{opa.server_port}/v1/data/jobs/decision"
    supervisor = make_supervisor(
        scripts=scripts,
        plugins={
            "decide_s": DECIDE_S,
            "config": {
                "opa": {"url": url, "timeout_s": 2.0, "cache_s": 0.0},
                "office": {"file": str(rules)},
            },
        },
    )
    yield supervisor
    opa.rule = open_hours


def output_of(done):
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_a_supervisor_with_all_of_them(plugged, opa):
    def alices(*words):
        return plugged.cli(*words, context="dev-alice")

    listed = json.loads(output_of(plugged.cli("plugins", "--json")))
    origins = {plugin["name"]: plugin["origin"] for plugin in listed["plugins"]}
    assert origins["opa"] == "jobs-opa-policy 1.0.0"
    assert origins["office"] == "jobs-office-limits 1.0.0"
    assert listed["order"]["jobs_limits"] == ["office"]

    assert output_of(alices("run", "-f", "--", "sh", "-c", "ulimit -n")) == "77\n"
    denied = alices("run", "--label", "frozen=yes", "true")
    assert denied.returncode != 0
    assert b"nothing frozen is run today" in denied.stderr

    ident = output_of(alices("run", "sleep", "1000")).strip()
    assert json.loads(output_of(alices("inspect", ident, "--json")))["limited_by"] == {
        "nofile": "office"
    }
    assert output_of(plugged.cli("owners")) == "alice\t1\t0\n"
    assert "owners" in output_of(plugged.cli("--help"))
    output_of(alices("kill", "--grace", "0", ident))

    for rule in (lambda _asked: b"<html>", lambda _asked: b'{"result": "perhaps"}', lambda _: None):
        opa.rule = rule
        denied = plugged.cli("list")
        assert denied.returncode != 0
        assert b"the plugin opa failed when it was asked" in denied.stderr
    opa.rule = open_hours
    output_of(plugged.cli("list"))

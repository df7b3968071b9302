"""What people type wrong, or have wrong: one line that says what to do, and never a traceback."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import harness
import pytest


def ended(process):
    """Give the status of a `jobsctl`, its output, and what it said."""
    out, err = process.communicate(timeout=harness.CLI_S)
    return process.returncode, out, err.decode()


def refusal(done, status=1):
    """Give the one line with which a `jobsctl` ended."""
    assert (done.returncode, done.stdout) == (status, b"")
    said = done.stderr.decode()
    assert said.startswith("jobsctl: ")
    assert said.count("\n") == 1
    return said


def run_without(shared, fd, *words):
    """Run `jobsctl` with one of its descriptors closed."""
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {fd}>&-', "sh", harness.SCRIPTS / "jobsctl", *words],
        env={**os.environ, "JOBS_CONFIG": str(shared.directory / "config.toml")},
        capture_output=True,
        timeout=harness.CLI_S,
        check=False,
    )


@pytest.mark.parametrize("verb", ["inspect", "follow", "logs", "kill", "wait", "remove", "pause"])
def test_an_id_of_a_variable_that_is_not_set(shared, verb):
    for ident in ("", " "):
        assert "an ID is empty; perhaps a variable" in refusal(shared.cli(verb, ident), 2)


def test_an_ambiguous_start_of_an_id(shared):
    ids = [shared.cli("run", "true").stdout.decode().strip() for _ in range(17)]
    first = next(each[0] for each in ids if sum(other[0] == each[0] for other in ids) > 1)
    assert "names more than one job" in refusal(shared.cli("inspect", first), 2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "true"], "viewer may not run: none of viewer's roles allows it; ask an admin"),
        (["plugins"], "viewer may not plugins: none of viewer's roles allows it; ask an admin"),
    ],
)
def test_a_denial_says_what_to_do(shared, words, said):
    line = refusal(shared.cli(*words, context="dev-viewer"))
    assert said in line
    assert "jobsctl policy show" in line


def test_an_error_with_json_is_the_same_line(shared):
    """Standard output is data: a program that reads it finds none, and the status says why."""
    for words in (["inspect", "nobody"], ["pause", "nobody"]):
        assert refusal(shared.cli(*words, "--json")) == refusal(shared.cli(*words))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cert": "alice.key"}, "alice.key: it holds no certificate in PEM form"),
        ({"key": "admin.key"}, "admin.key: this is not the key of the certificate"),
        ({"cert": "ca.crt"}, "alice.key: this is not the key of the certificate"),
        ({"ca": "alice.key"}, "alice.key: it holds no CA certificate in PEM form"),
        ({"ca": "."}, "cannot read the CA certificate"),
        ({"ca": "alice.crt"}, "the server's certificate is not acceptable: it was not issued by"),
        ({"cert": "server.crt", "key": "server.key"}, "issued for another purpose"),
        ({"server": "127.0.0.1:1"}, "connection refused; is the supervisor running there?"),
        ({"server": "nowhere.invalid"}, "no such host is known"),
        ({"server": "a b"}, "a server is HOST or HOST:PORT or [IPV6]:PORT, not 'a b'"),
    ],
)
def test_a_wrong_file_or_address(shared, options, said):
    files = {"ca": "ca.crt", "cert": "alice.crt", "key": "alice.key", **options}
    files["server"] = options.get("server", f"127.0.0.1:{shared.port}")
    words = [
        word
        for name, value in files.items()
        for word in (f"--{name}", value if name == "server" else str(shared.certs / value))
    ]
    assert said in refusal(shared.cli("whoami", *words))


def test_a_key_that_others_may_read(shared, tmp_path):
    key = Path(shutil.copy(shared.certs / "alice.key", tmp_path))
    key.chmod(0o644)
    words = ["--cert", str(shared.certs / "alice.crt"), "--key", str(key)]
    words += ["--ca", str(shared.certs / "ca.crt"), "--server", f"127.0.0.1:{shared.port}"]
    assert f"(mode 0644), and is not used. If nobody can have copied it, chmod 600 {key}" in (
        refusal(shared.cli("whoami", *words))
    )
    key.chmod(0o600)
    assert shared.cli("whoami", *words).stdout.startswith(b"identity: alice\n")


def test_a_closed_standard_error_changes_nothing(shared):
    ran = run_without(shared, 2, "run", "-f", "echo", "out")
    assert (ran.returncode, ran.stdout) == (0, b"out\n")
    assert run_without(shared, 2, "inspect", "nobody").returncode == 1


def test_a_closed_standard_output_is_never_another_file(shared):
    """A socket that got the number 1 would be sent the job's output."""
    ran = run_without(shared, 1, "run", "-f", "echo", "out")
    assert (ran.returncode, ran.stdout) == (125, b"")
    assert ran.stderr == b"jobsctl: cannot write to standard output: Bad file descriptor\n"


def test_a_job_whose_id_cannot_be_written_is_told_all_the_same(shared):
    with Path("/dev/full").open("wb") as full:
        status, _, said = ended(shared.cli_process("run", "true", stdout=full))
    assert status == 125
    assert "was started, but cannot write to standard output: No space left on device" in said
    ident = said.split()[2]
    assert shared.cli("wait", ident).returncode == 0


def until_asked(shared, action, ident):
    """Wait until the supervisor has decided on somebody's request about a job."""
    while not any(d["action"] == action and d["job"] == ident for d in shared.decisions()):
        os.sched_yield()


@pytest.mark.parametrize(
    ("words", "action", "said"),
    [
        (["wait"], "wait", "no longer waiting; nothing was done to the jobs"),
        (["kill", "--grace", "10m"], "wait", "the kills that are under way go on"),
        (["follow"], "follow", "no longer following: job"),
    ],
)
def test_control_c_says_what_goes_on(shared, words, action, said):
    stubborn = "trap '' TERM; while :; do sleep 1; done"
    ident = shared.cli("run", "sh", "-c", stubborn).stdout.decode().strip()
    process = shared.cli_process(*words, ident)
    until_asked(shared, action, ident)
    process.send_signal(signal.SIGINT)
    status, out, told = ended(process)
    assert (status, out) == (130, b"")
    assert said in told
    assert told.count("\n") == 1
    assert shared.cli("kill", "--grace", "0", ident).returncode == 0

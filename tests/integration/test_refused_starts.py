"""A supervisor that cannot start says why, in one line; the one that runs serves on."""

import shutil
import subprocess

import harness
import pytest
import trio
from refusals import refusal_of
from wire import ANSWER_S

from jobs_rpc import Client
from jobs_rpc.config import Settings

pytestmark = pytest.mark.usefixtures("serves_on")


def started(serving, *words) -> tuple[int, str]:
    """Start a supervisor that cannot; give its exit status and what it says."""
    done = subprocess.run(
        [harness.SCRIPTS / "jobs-supervisor", *words],
        capture_output=True,
        text=True,
        timeout=harness.START_S,
        check=False,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_second_supervisor_in_the_same_folder(serving):
    status, said = started(serving, "--dev", "--dir", str(serving.directory))
    assert status == 1
    assert f"another supervisor runs with the state directory {serving.state}" in said


def test_a_port_that_is_taken(serving, tmp_path):
    other = tmp_path / "supervisor.toml"
    text = (serving.directory / "supervisor.toml").read_text()
    other.write_text(text.replace(str(serving.state), str(tmp_path / "state")))
    status, said = started(serving, "--config", str(other))
    assert status == 1
    assert f"cannot listen on 127.0.0.1:{serving.port}: Address already in use" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[server]\nlisten = "127.0.0.1:1\n', "is no TOML: Illegal character '\\n' (at line 3, "),
        ("[jobs]\nmax_runing = 5\n", "jobs: unknown: max_runing"),
        ('[jobs]\nmax_running = "many"\n', "jobs.max_running: must be a whole number, not 'many'"),
        ("[jobs]\nmax_running = 0\n", "max_running must be more than 0, not 0"),
        ('[jobs]\nisolation = "none"\n', "isolation is required or best-effort, not 'none'"),
        ("[serer]\n", "unknown: serer"),
        ('[server]\nlisten = "here"\n', "server: listen is HOST:PORT, not 'here'"),
        ('[server]\nca = "/no/such.crt"\n', "Cannot read /no/such.crt: No such file"),
    ],
)
def test_a_broken_supervisor_toml(serving, tmp_path, text, said):
    path = tmp_path / "supervisor.toml"
    path.write_text(f'state_dir = "{tmp_path / "state"}"\n{text}')
    status, all_said = started(serving, "--config", str(path))
    assert status == 1
    assert all_said.startswith("jobs-supervisor: ")
    assert said in all_said


def test_line_numbers_are_of_the_file(serving, tmp_path):
    path = tmp_path / "supervisor.toml"
    path.write_text("\n\n[jobs]\nmax_running = \n")
    status, said = started(serving, "--config", str(path))
    assert (status, str(path) in said) == (1, True)
    assert "at line 4" in said


def test_no_supervisor_toml(serving, tmp_path):
    status, said = started(serving, "--config", str(tmp_path / "not-there.toml"))
    assert status == 1
    assert "No such file or directory" in said
    assert "--dev" in said


def test_records_that_are_no_database(make_supervisor):
    supervisor = make_supervisor()
    supervisor.stop()
    database = supervisor.state / "jobs.sqlite"
    kept = supervisor.directory / "kept.sqlite"
    shutil.move(database, kept)
    database.write_bytes(b"no database at all " * 100)
    status, said = started(supervisor, "--dev", "--dir", str(supervisor.directory))
    assert status == 1
    assert f"cannot use {database}: file is not a database" in said
    shutil.move(kept, database)
    supervisor.start()


async def test_nobody_there(tmp_path, serving):
    async with Client(
        Settings(
            server=f"127.0.0.1:{harness.free_port()}",
            ca=serving.certs / "ca.crt",
            cert=serving.certs / "admin.crt",
            key=serving.certs / "admin.key",
        )
    ) as client:
        with trio.fail_after(ANSWER_S):
            refused = await refusal_of(client.whoami)
    assert refused.code == "unavailable"
    assert "connection refused; is the supervisor running there?" in refused.message

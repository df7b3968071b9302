"""What is wrong gets its code and a sentence, and the supervisor serves the next one."""

import functools
import os
import shutil
import socket
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import harness
import msgpack
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from harness import JobsError, finish, in_thread
from wire import ANSWER_S, Wire

from jobs_certs import init, issue
from jobs_rpc import Client
from jobs_rpc.config import Settings

HANDSHAKE_S = 0.5
MAX_MESSAGE = 1 << 20


@pytest.fixture(scope="module")
def serving(make_shared):
    """Give a supervisor with limits that a test can reach."""
    return make_shared(server={"handshake_s": HANDSHAKE_S, "max_message": MAX_MESSAGE})


@pytest.fixture(autouse=True)
def _serves_on(serving):
    """Whatever was done to it: the next one is served."""
    yield
    with Wire(serving) as wire:
        error, job = wire.call("run", {"spec": {"argv": ["true"]}})
        assert error is None
        error, job = wire.call("wait", {"id": job["id"]})
    assert (error, job["outcome"]) == (None, "completed")
    assert "Traceback" not in serving.log.read_text()


async def refusal_of(function, *arguments, **options) -> JobsError:
    """Give the refusal that a call ends with."""
    with pytest.raises(JobsError) as refusal:
        await function(*arguments, **options)
    return refusal.value


# -- commands -----------------------------------------------------------------------------------


async def failed_start(serving, argv, **spec):
    """Run what cannot start; give the job, and what `jobsctl run -f` says and exits with."""
    options = [word for key, value in spec.items() for word in (f"--{key}", value)]
    cli = await in_thread(lambda: serving.cli("run", "-f", *options, "--", *argv))
    async with serving.client() as client:
        done, output = await finish(client, argv, **spec)
    assert (done.phase, done.outcome) == ("exited", "start_failed")
    assert (done.pid, done.started_at, output.end.total) == (None, None, 0)
    assert cli.stdout == b""
    assert cli.stderr.decode() == f"jobsctl: the job could not start: {done.exit.error}\n"
    return done, cli.returncode


async def test_a_command_that_does_not_exist(serving):
    done, status = await failed_start(serving, ["no-such-program-here"])
    assert status == done.exit.code == 127
    assert "cannot execute no-such-program-here: no such program" in done.exit.error


async def test_a_command_that_is_not_executable(serving):
    done, status = await failed_start(serving, ["/etc/passwd"])
    assert status == done.exit.code == 126
    assert "cannot execute /etc/passwd: it is not executable" in done.exit.error


async def test_a_command_that_is_a_directory(serving):
    done, status = await failed_start(serving, ["/usr"])
    assert status == done.exit.code == 126
    assert "cannot execute /usr: " in done.exit.error


async def test_a_working_directory_that_does_not_exist(serving):
    done, status = await failed_start(serving, ["true"], cwd="/no/such/place")
    assert (status, done.exit.code) == (125, None)
    assert done.exit.error == (
        "cannot change to the working directory /no/such/place: there is no such directory"
    )


async def test_an_empty_command(serving):
    async with serving.client() as client:
        for argv in ([], [""]):
            refused = await refusal_of(client.run, argv)
            assert refused.code == "invalid_argument"
            assert "the command is empty; give a program to run" in refused.message
    with Wire(serving) as wire:
        error, _ = wire.call("run", {"spec": {"argv": []}})
    assert error["code"] == "invalid_argument"
    assert "params of run: spec: the command is empty" in error["message"]
    cli = await in_thread(serving.cli, "run")
    assert (cli.returncode, cli.stdout) == (2, b"")


async def test_ten_thousand_arguments(serving):
    words = [str(number) for number in range(10_000)]
    async with serving.client() as client:
        done, output = await finish(client, ["printf", "%s\\n", *words])
    assert done.outcome == "completed"
    assert output.stdout.decode().split() == words
    cli = await in_thread(serving.cli, "run", "-f", "--", "printf", "%s\\n", *words)
    assert (cli.returncode, cli.stdout) == (0, output.stdout)


@pytest.mark.parametrize("size", [128 * 1024, 512 * 1024])
async def test_an_argument_over_the_kernels_limit(serving, size):
    async with serving.client() as client:
        done, _ = await finish(client, ["true", "x" * size])
    assert done.outcome == "start_failed"
    assert "larger than the kernel takes" in done.exit.error


async def test_a_nul_in_an_argument(serving):
    async with serving.client() as client:
        refused = await refusal_of(client.run, ["echo", "a\0b"])
    with Wire(serving) as wire:
        error, _ = wire.call("run", {"spec": {"argv": ["echo", "a\0b"]}})
    assert refused.code == error["code"] == "invalid_argument"
    for message in (refused.message, error["message"]):
        assert "argument 1 of the command holds a NUL character" in message


async def test_bytes_that_are_no_text_arrive_as_they_are(serving):
    async with serving.client() as client:
        done, output = await finish(
            client, ["printf", "%s", os.fsdecode(b"\xff\xfe\x80")], env={"X": "\udcff"}
        )
    assert (done.outcome, output.stdout) == ("completed", b"\xff\xfe\x80")
    shown = await in_thread(serving.cli, "inspect", done.id, "--json")
    assert r"\udcff\udcfe\udc80" in shown.stdout.decode()


async def test_a_user_that_does_not_exist(serving):
    async with serving.client() as client:
        refused = await refusal_of(client.run, ["true"], user="nobody-like-this")
    if os.geteuid() == 0:
        assert refused.code == "invalid_argument"
        assert refused.message == "there is no user 'nobody-like-this' on this host"
    else:
        assert refused.code == "failed_precondition"
        assert "does not run as root" in refused.message
    cli = await in_thread(serving.cli, "run", "--user", "nobody-like-this", "--", "true")
    assert cli.returncode == (2 if os.geteuid() == 0 else 1)
    assert cli.stderr.decode() == f"jobsctl: {refused.message}\n"


async def test_a_follow_from_beyond_the_end(serving):
    async with serving.client() as client:
        done, _ = await finish(client, ["echo", "five"])
        items = [item async for item in client.follow(done.id, start=1000)]
    assert [type(item) for item in items] == [harness.End]
    assert (items[0].total, items[0].exit.code) == (5, 0)
    cli = await in_thread(serving.cli, "follow", done.id, "--from", "1000")
    assert (cli.returncode, cli.stdout, cli.stderr) == (0, b"", b"")


# -- certificates -------------------------------------------------------------------------------


def as_holder(serving, folder, name) -> Client:
    """Make a client with another certificate."""
    return Client(
        Settings(
            server=f"127.0.0.1:{serving.port}",
            ca=serving.certs / "ca.crt",
            cert=folder / f"{name}.crt",
            key=folder / f"{name}.key",
        )
    )


async def untrusted(serving, folder, name) -> str:
    async with as_holder(serving, folder, name) as client:
        refused = await refusal_of(client.whoami)
    assert refused.code == "unavailable"
    return refused.message


async def test_a_certificate_of_another_authority(serving, tmp_path):
    init(tmp_path, name="Somebody else's CA")
    issue(tmp_path, "admin", role="admin")
    message = await untrusted(serving, tmp_path, "admin")
    assert "certificate" in message


async def test_another_authority_of_the_same_name(serving, tmp_path):
    """A name is no key: what counts is the signature."""
    init(tmp_path, name="Jobs development CA")
    issue(tmp_path, "admin", role="admin")
    assert "certificate" in await untrusted(serving, tmp_path, "admin")


async def test_a_servers_certificate_is_no_clients(serving, tmp_path):
    assert "certificate" in await untrusted(serving, serving.certs, "server")


async def test_an_expired_certificate(serving, tmp_path):
    issue_expired(serving.certs, tmp_path)
    assert "expired" in await untrusted(serving, tmp_path, "late")


def issue_expired(certs, folder) -> None:
    """Write `late`, which the installation's authority signed, for a day last year."""
    authority = x509.load_pem_x509_certificate((certs / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((certs / "ca.key").read_bytes(), None)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "admin"),
            x509.NameAttribute(NameOID.COMMON_NAME, "late"),
        ]
    )
    start = datetime.now(UTC) - timedelta(days=365)
    certificate = (
        x509.CertificateBuilder(authority.subject, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "late.crt").write_bytes(certificate.public_bytes(pem))
    (folder / "late.key").touch(0o600)
    (folder / "late.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def test_no_certificate(serving):
    """In TLS 1.3 a client learns of it with the first answer."""
    with Wire(serving, None) as wire, pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        wire.call("whoami", {})


def test_tls_1_2(serving):
    with pytest.raises((ssl.SSLError, ConnectionError)) as refusal:
        Wire(serving, version=ssl.TLSVersion.TLSv1_2)
    assert "PROTOCOL_VERSION" in str(refusal.value)


# -- roles --------------------------------------------------------------------------------------


async def test_a_viewer_that_runs(serving):
    async with serving.client("dev-viewer") as viewer:
        refused = await refusal_of(viewer.run, ["true"])
    assert refused.code == "permission_denied"
    assert refused.message.startswith("viewer may not run: ")
    cli = await in_thread(functools.partial(serving.cli, "run", "true", context="dev-viewer"))
    assert (cli.returncode, cli.stdout) == (1, b"")
    assert cli.stderr.decode() == f"jobsctl: {refused.message}\n"


async def test_a_viewer_that_kills(serving):
    async with serving.client() as admin, serving.client("dev-viewer") as viewer:
        job = await admin.run(["sleep", "1000"])
        refused = await refusal_of(viewer.kill, job.id)
        assert refused.code == "permission_denied"
        assert refused.message.startswith(f"viewer may not kill on job {job.short_id}: ")
        assert (await refusal_of(viewer.signal, job.id, "KILL")).code == "permission_denied"
        assert (await admin.inspect(job.id)).phase in ("starting", "running")
        await admin.kill(job.id, grace_s=0)
        await admin.wait(job.id)


async def test_an_operator_that_kills_anothers_job(serving):
    """It cannot even learn that there is one: word for word as for a job that never was."""
    async with serving.client() as admin, serving.client("dev-alice") as alice:
        job = await admin.run(["sleep", "1000"], name="secret")
        never = job.id[:-1] + ("0" if job.id[-1] != "0" else "1")
        for method in (alice.kill, alice.inspect, alice.wait):
            there = await refusal_of(method, job.id)
            not_there = await refusal_of(method, never)
            assert there.code == not_there.code == "not_found"
            assert there.message.replace(job.id, never) == not_there.message
            assert (await refusal_of(method, "secret")).code == "not_found"
            assert (await refusal_of(method, job.id[:8])).code == "not_found"
        with pytest.raises(JobsError) as followed:
            await harness.collect(alice, job.id)
        assert followed.value.code == "not_found"
        assert (await admin.inspect(job.id)).phase in ("starting", "running")
        await admin.kill(job.id, grace_s=0)
        await admin.wait(job.id)


# -- the protocol -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_after_the_handshake(serving, seed):
    data = bytes([0xC1]) + harness.random.Random(seed).randbytes(4000)  # 0xc1 is never MessagePack
    with Wire(serving) as wire:
        wire.send(data)
        words = wire.last_words()
    assert words["code"] == "invalid_argument"
    assert "this is no MessagePack of ours" in words["message"]


def test_bytes_that_are_no_tls(serving):
    with socket.create_connection(("127.0.0.1", serving.port), timeout=ANSWER_S) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while raw.recv(4096):
            pass  # an alert, perhaps


def test_a_handshake_that_never_comes(serving):
    with socket.create_connection(("127.0.0.1", serving.port), timeout=ANSWER_S) as raw:
        assert raw.recv(1) == b""  # closed by the supervisor, not by our timeout


def test_a_message_over_the_limit(serving):
    with Wire(serving) as wire:
        wire.ask("run", {"spec": {"argv": ["x" * (MAX_MESSAGE + 1)]}})
        words = wire.last_words()
    assert words["code"] == "invalid_argument"
    assert f"larger than {MAX_MESSAGE} bytes" in words["message"]


async def test_a_message_over_the_limit_by_our_own_client(serving):
    async with serving.client() as client:
        refused = await refusal_of(client.run, ["true", "x" * (MAX_MESSAGE + 1)])
    assert refused.code == "invalid_argument"
    assert f"larger than {MAX_MESSAGE} bytes" in refused.message


@pytest.mark.parametrize("method", ["fly", "attach", "", "__class__", "answer"])
def test_an_unknown_method(serving, method):
    with Wire(serving) as wire:
        error, _ = wire.call(method, {})
        assert error["code"] == "unimplemented"
        assert wire.call("hello", {})[0] is None  # the connection goes on


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"spec": {"argv": ["true"]}, "colour": "red"}, "unknown: colour"),
        ({"spec": {"argv": ["true"], "shell": True}}, "spec: unknown: shell"),
        ({"spec": {"argv": "true"}}, "spec.argv: must be a list"),
        ({"spec": {"argv": ["true", 5]}}, "spec.argv[1]: must be text"),
        ({"spec": {"argv": [b"true"]}}, "spec.argv[0]: must be text"),
        ({"spec": {"argv": ["true"], "timeout_s": "1"}}, "spec.timeout_s: "),
        ({"spec": {"argv": ["true"], "timeout_s": True}}, "spec.timeout_s: "),
        ({"spec": {"argv": ["true"], "timeout_s": float("nan")}}, "a timeout is more than 0 s"),
        ({"spec": {"argv": ["true"], "env": ["A=b"]}}, "spec.env: "),
        ({"spec": {"argv": ["true"], "cwd": "tmp"}}, "must be an absolute path"),
        ({"spec": None}, "spec"),
        ({}, "spec: is missing"),
        ({"spec": {"argv": ["true"]}, "labels": {"a": 1}}, "labels"),
    ],
)
def test_wrong_params(serving, params, said):
    with Wire(serving) as wire:
        error, _ = wire.call("run", params)
        assert error["code"] == "invalid_argument"
        assert said in error["message"]
        assert wire.call("hello", {})[0] is None


@pytest.mark.parametrize(
    "message",
    [
        [0, 0, "hello", []],
        [0, 0, "hello", None],
        [0, -1, "hello", {}],
        [0, 2**32, "hello", {}],
        [0, "0", "hello", {}],
        [0, 0, 5, {}],
        [0, 0, "hello", {1: 2}],
        [0, 0, "hello"],
        [1, 0, None, None],
        [2, "hello", {}],
        [3, 0],
        "hello",
        {},
        None,
    ],
    ids=repr,
)
def test_a_message_of_wrong_types(serving, message):
    with Wire(serving) as wire:
        wire.send(msgpack.packb(message))
        assert wire.last_words()["code"] == "invalid_argument"


@pytest.mark.parametrize("depth", [17, 900, 10_000])
def test_a_message_too_deep(serving, depth):
    nested = b"\x91" * depth + b"\xc0"
    with Wire(serving) as wire:
        wire.send(b"\x94\x00\x00\xa5hello\x81\xa1x" + nested)
        assert wire.last_words()["code"] == "invalid_argument"


def test_half_a_message_byte_by_byte_and_then_nothing(serving):
    half = msgpack.packb([0, 0, "run", {"spec": {"argv": ["true"]}}])[:-3]
    with Wire(serving) as wire:
        for byte in half:
            wire.send(bytes([byte]))
    assert "Traceback" not in serving.log.read_text()


def test_a_request_in_place_of_silence_on_a_follow(serving):
    with Wire(serving) as wire:
        _, job = wire.call("run", {"spec": {"argv": ["sleep", "1000"]}})
        error, _ = wire.call("follow", {"id": job["id"]})
        assert error is None
        wire.ask("hello", {})
        assert "taken over" in wire.last_words()["message"]
    with Wire(serving) as wire:
        assert wire.call("kill", {"id": job["id"], "grace_s": 0})[0] is None
        assert wire.call("wait", {"id": job["id"]})[0] is None


def test_a_hundred_connections_that_go_in_mid_handshake(serving):
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", serving.port), timeout=ANSWER_S) as raw:
            raw.sendall(b"\x16\x03\x01\x02\x00\x01")


# -- starting -----------------------------------------------------------------------------------


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


# -- text that cannot be what it is for ---------------------------------------------------------


@pytest.mark.parametrize("text", ["\udcff", "\ud7ff", "\U0010ffff", "é", "\0", ""])
def test_what_names_no_job_is_not_found(serving, text):
    with Wire(serving) as wire:
        wire.send(msgpack.packb([0, 0, "inspect", {"id": text}], unicode_errors="surrogateescape"))
        assert wire.receive()[2]["code"] == "not_found"


@pytest.mark.parametrize(
    "params",
    [
        {"request_id": "\udcff"},
        {"request_id": "a\0"},
        {"spec": {"argv": ["true"], "user": ""}},
        {"spec": {"argv": ["true"], "user": "a\0"}},
        {"spec": {"argv": ["true"], "user": "²"}},
        {"spec": {"argv": ["true"], "user": "9" * 256}},
        {"spec": {"argv": ["true"], "limits": {"io_read_bps": 1, "io_device": "/\0"}}},
        {"spec": {"argv": ["true"], "limits": {"io_read_bps": 1, "io_device": "sda"}}},
    ],
)
def test_text_that_no_lookup_takes_is_refused(serving, params):
    request = {"spec": {"argv": ["true"]}, **params}
    with Wire(serving) as wire:
        wire.send(msgpack.packb([0, 0, "run", request], unicode_errors="surrogateescape"))
        assert wire.receive()[2]["code"] in ("invalid_argument", "failed_precondition")


# -- more than one may have ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "isolation",
    [
        {"cap_drop": ["CHOWN"] * 1000},
        {"binds": ["/" + "a" * 5000 + ":/mnt"]},
        {"tmpfs": ["/" + "a" * 5000]},
        {"rootfs": "/" + "a" * 5000},
    ],
)
def test_a_long_wish_for_isolation_is_refused(serving, isolation):
    with Wire(serving) as wire:
        error, _ = wire.call("run", {"spec": {"argv": ["true"], "isolation": isolation}})
    assert error["code"] == "invalid_argument"


def test_lists_that_nobody_reads_are_made_one_by_one(serving):
    with Wire(serving) as wire:
        words = ["true", *["x" * 1000] * 900]
        for _ in range(20):
            error, _ = wire.call("run", {"spec": {"argv": words}})
            assert error is None
        error, _ = wire.call("list", {"all": True})
        assert error is None
        before = resident(serving.pid)
        for ident in range(64):
            wire.ask("list", {"all": True}, ident)
        with Wire(serving) as other:  # by its answers the others would have been made
            for _ in range(100):
                assert other.call("whoami", {})[0] is None
        assert resident(serving.pid) - before < 300 << 20


def resident(pid):
    """Give the bytes of memory that a process has."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def test_the_records_are_their_owners_alone(serving):
    modes = {path.stat().st_mode & 0o077 for path in serving.state.glob("jobs.sqlite*")}
    assert modes == {0}


def test_who_has_an_answer_may_follow_at_once(supervisor):
    with Wire(supervisor) as wire:
        for _ in range(200):  # once is not enough: it is about who is quicker
            assert wire.call("whoami", {})[0] is None
            assert wire.call("follow", {"id": "nothing-of-that-name"})[0]["code"] == "not_found"

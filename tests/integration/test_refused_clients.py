"""Who may not, and bytes that are no request, get their code and a sentence; others are served."""

import functools
import socket
import ssl
from datetime import UTC, datetime, timedelta

import harness
import msgpack
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from harness import JobsError, in_thread
from refusals import MAX_MESSAGE, refusal_of
from wire import ANSWER_S, Wire

from jobs_certs import init, issue
from jobs_rpc import Client
from jobs_rpc.config import Settings

pytestmark = pytest.mark.usefixtures("serves_on")


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

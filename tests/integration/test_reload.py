"""SIGHUP: what counts from then on, for those who come and for those who are here already."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from harness import SCRIPTS, JobsError, in_thread, until_running
from wire import Wire

from jobs_certs import init, issue, refresh, renew, revoke
from jobs_certs.pem import load_certificate, load_key
from jobs_rpc import Chunk

CUT_S = 1.0
"""From the reload until whoever lost a right has lost what it held by it."""

RELOAD_S = 30.0
"""How long a reload may take on a busy machine."""

FOREVER = ["sh", "-c", "echo here; exec sleep 1000"]


class Reloads:
    """Has a supervisor reload, and waits for its word on it.

    Args:
        supervisor: which writes its log as lines for people.
    """

    def __init__(self, supervisor):
        self.supervisor = supervisor
        self._settings = (supervisor.directory / "supervisor.toml").read_text()

    def write(self, text=""):
        """Append to the settings that it was started with."""
        (self.supervisor.directory / "supervisor.toml").write_text(self._settings + text)

    def hup(self):
        """Give what the log says of the reload."""
        log = self.supervisor.log
        before = log.stat().st_size
        os.kill(self.supervisor.pid, signal.SIGHUP)
        end = time.monotonic() + RELOAD_S
        while time.monotonic() < end:
            said = log.read_bytes()[before:].decode()
            if "reloaded" in said and said.endswith("\n"):
                return said
            time.sleep(0.01)
        raise AssertionError(f"it says nothing of a reload: {said}")

    async def __call__(self, text=""):
        self.write(text)
        return await in_thread(self.hup)


@pytest.fixture
def reloads(make_supervisor):
    supervisor = make_supervisor(server={"crl": "ca.crl"}, start=False)
    settings = supervisor.directory / "supervisor.toml"
    settings.write_text(
        settings.read_text().replace('"ca.crl"', json.dumps(str(supervisor.certs / "ca.crl")))
    )
    kept = [supervisor.certs / name for name in ("alice.crt", "alice.key")]
    supervisor.start()
    reloads = Reloads(supervisor)
    before = [path.read_bytes() for path in kept]
    yield reloads
    for path, data in zip(kept, before, strict=True):
        path.write_bytes(data)
    (supervisor.certs / "ca.crl").unlink()  # nobody is revoked any more
    refresh(supervisor.certs)
    reloads.write()
    reloads.hup()


async def ending(awaited):
    """Wait for a refusal; give its code and when it came."""
    try:
        await awaited
    except JobsError as error:
        return error, trio.current_time()
    raise AssertionError("it was not refused")


async def follow_on(client, job, started):
    async for item in client.follow(job.id):
        if isinstance(item, Chunk):
            started.set()


class Held:
    """A follow and a wait that are under way, in a nursery, and how each of them ends."""

    def __init__(self, nursery, client, job):
        self.ends = {}
        self._started = trio.Event()
        self._client, self._job = client, job
        nursery.start_soon(self._hold, "follow", follow_on(client, job, self._started))
        nursery.start_soon(self._hold, "wait", client.wait(job.id))

    async def _hold(self, what, awaited):
        self.ends[what] = await ending(awaited)

    async def under_way(self, supervisor):
        await self._started.wait()
        while not any(
            (line["action"], line["job"]) == ("wait", self._job.id)
            for line in supervisor.decisions()
        ):
            await trio.sleep(0.01)


async def hold_and_reload(reloads, context, prepare, text=""):
    """Follow and wait as somebody, change something, reload; give both ends, and the seconds."""
    supervisor = reloads.supervisor
    async with supervisor.client() as admin, supervisor.client(context) as client:
        job = await (admin if context == "dev-viewer" else client).run(FOREVER)
        await until_running(admin, job)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                held = Held(nursery, client, job)
                await held.under_way(supervisor)
                await in_thread(prepare)
                reloads.write(text)
                asked_at = trio.current_time()
                said = await in_thread(reloads.hup)
                reloaded_at = trio.current_time()
        seconds = {what: at - reloaded_at for what, (_, at) in held.ends.items()}
        assert all(each < CUT_S for each in seconds.values()), (seconds, reloaded_at - asked_at)
        assert (await admin.inspect(job.id)).phase == "running"  # the job has nothing to do with it
    return {what: error for what, (error, _) in held.ends.items()}, said


async def test_a_revoked_certificate_is_cut_off_and_stays_out(reloads):
    """What is open ends with `permission_denied`; the next handshake is refused."""
    supervisor = reloads.supervisor
    certificate = supervisor.certs / "alice.crt"
    ends, said = await hold_and_reload(
        reloads, "dev-alice", lambda: revoke(supervisor.certs, [certificate])
    )
    for error in ends.values():
        assert error.code == "permission_denied"
        assert error.message == "your certificate was revoked; ask for a new one"
    assert "cut=2" in said  # a follow has a connection of its own
    async with supervisor.client("dev-alice") as client:
        error, _ = await ending(client.whoami())
    assert "the server refused our certificate (tls alert certificate revoked)" in error.message
    cli = await in_thread(lambda: supervisor.cli("list", context="dev-alice"))
    assert cli.returncode == 1
    assert cli.stderr.decode().count("\n") == 1
    assert "it was revoked; ask for a new one" in cli.stderr.decode()
    await in_thread(lambda: renew(supervisor.certs, "alice"))
    async with supervisor.client("dev-alice") as client:
        assert [job.owner for job in await client.list()] == ["alice"]


async def test_a_demotion_ends_what_goes_on_and_leaves_the_connection(reloads):
    policy = '[policy.bindings]\nviewer = ["nothing"]\n'
    ends, said = await hold_and_reload(reloads, "dev-viewer", lambda: None, policy)
    for error in ends.values():
        assert error.code == "permission_denied"
        assert "none of viewer's roles allows it; ask an admin" in error.message
    assert "cut=1" in said  # the follow's; the other one may go on asking


async def test_other_requests_on_the_connection_go_on(reloads):
    supervisor = reloads.supervisor
    policy = """
[policy]
roles = [
    {role = "viewer", action = "whoami list", whose = "any"},
    {role = "viewer", action = "inspect wait", whose = "own"},
]
"""
    async with supervisor.client() as admin:
        job = await admin.run(FOREVER)
        with Wire(supervisor, "viewer") as wire:
            wire.ask("wait", {"id": job.id}, ident=1)
            wire.ask("inspect", {"id": job.id}, ident=2)
            assert wire.receive()[:3] == [1, 2, None]
            await reloads(policy)
            kind, ident, error, _ = wire.receive()
            assert (kind, ident, error["code"]) == (1, 1, "permission_denied")
            assert wire.call("whoami", {})[0] is None
            assert wire.call("inspect", {"id": job.id})[0]["code"] == "not_found"


async def test_a_promotion_and_a_demotion_count_at_once_on_an_open_connection(reloads):
    with Wire(reloads.supervisor, "alice") as wire:
        assert wire.call("whoami", {})[1]["roles"] == ["operator"]
        await reloads('[policy.bindings]\nalice = ["admin"]\n[policy.groups]\nx = ["alice"]\n')
        who = wire.call("whoami", {})[1]
        assert (who["roles"], who["bound"], who["groups"]) == (["admin"], True, ["x"])
        await reloads("[policy.bindings]\nalice = []\n")
        assert wire.call("run", {"spec": {"argv": ["true"]}})[0]["code"] == "permission_denied"
        await reloads()
        who = wire.call("whoami", {})[1]
        assert (who["roles"], who["bound"], who["groups"]) == (["operator"], False, [])


async def test_who_has_done_nothing_wrong_notices_nothing(reloads):
    supervisor = reloads.supervisor
    async with supervisor.client("dev-alice") as client:
        job = await client.run(["sh", "-c", "echo a; read line < /dev/null; sleep 1; echo b"])
        got = []
        async for item in client.follow(job.id):
            if isinstance(item, Chunk):
                if not got:
                    assert "cut=0" in await reloads()
                got.append(item.data)
        assert b"".join(got) == b"a\nb\n"
    assert "connection" not in supervisor.said()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[policy.bindings]\nalice = 1\n", "policy.bindings['alice']: must be a list"),
        ("[policy]\nroles = [{role='x', action='kilt', whose='any'}]\n", "'kilt' is no action"),
        ("[policy\n", "is no TOML"),
        ("[nonsense]\n", "unknown: nonsense"),
        ("[policy.bindings]\nalice = []\n[policy.groups]\n'@x' = ['@y']\n", "a group holds names"),
    ],
)
async def test_a_fault_in_the_settings_changes_nothing(reloads, text, why):
    with Wire(reloads.supervisor, "alice") as wire:
        said = await reloads(text)
        assert "nothing was reloaded, all is as it was" in said
        assert why in said
        assert wire.call("whoami", {})[1]["roles"] == ["operator"]


@pytest.mark.parametrize("cut", [b"# \xc3", b"[policy]\nroles = " + b"[" * 100_000])
async def test_settings_that_are_half_written_change_nothing(reloads, cut):
    """A character that is cut in two; what no parser gets to the end of."""
    settings = reloads.supervisor.directory / "supervisor.toml"
    settings.write_bytes(settings.read_bytes() + cut)
    with Wire(reloads.supervisor, "alice") as wire:
        assert "is no TOML" in await in_thread(reloads.hup)
        assert wire.call("whoami", {})[1]["roles"] == ["operator"]


@pytest.mark.parametrize("file", ["ca.crl", "ca.crt", "server.crt", "server.key"])
async def test_a_fault_in_a_file_changes_nothing(reloads, file):
    """Not even the policy that is right: it is all or nothing."""
    supervisor = reloads.supervisor
    path = supervisor.certs / file
    good = path.read_bytes()
    path.write_bytes(b"rubbish")
    said = await reloads("[policy.bindings]\nalice = []\n")
    assert "nothing was reloaded, all is as it was" in said
    assert file in said
    path.write_bytes(good)
    async with supervisor.client("dev-alice") as client:
        assert (await client.whoami())["roles"] == ["operator"]
    path.unlink()
    assert "nothing was reloaded" in await reloads()
    path.touch(0o600)
    path.write_bytes(good)
    assert "cut=0" in await reloads()


async def test_a_list_of_another_authority_changes_nothing(reloads, tmp_path):
    init(tmp_path / "other")
    shutil.copy(refresh(tmp_path / "other"), reloads.supervisor.certs / "ca.crl")
    assert "no authority in" in await reloads()


async def test_what_counts_after_a_restart_only_is_named(reloads):
    said = await reloads("[retention]\nkeep_jobs = 5\n[policy.bindings]\nalice = []\n")
    assert "these settings count only after a restart" in said
    assert "retention.keep_jobs" in said
    assert "policy" not in said
    with Wire(reloads.supervisor, "alice") as wire:
        assert wire.call("whoami", {})[0]["code"] == "permission_denied"


async def test_another_server_certificate_is_shown_to_the_next_who_comes(reloads):
    certs = reloads.supervisor.certs

    def shown():
        with Wire(reloads.supervisor) as wire:
            return wire.socket.getpeercert(binary_form=True)

    with Wire(reloads.supervisor) as before:
        old = shown()
        await in_thread(lambda: renew(certs, "server"))
        assert shown() == old
        await reloads()
        assert before.call("whoami", {})[0] is None
        new = load_certificate(certs / "server.crt").public_bytes(Encoding.DER)
        assert shown() == new != old


async def test_an_authority_that_is_trusted_no_more(reloads, tmp_path):
    """Two while one follows the other; then the old one goes, with those that it signed for."""
    certs = reloads.supervisor.certs
    new = tmp_path / "new"
    init(new)
    issue(new, "alice", role="operator")
    ca, crl = (certs / name for name in ("ca.crt", "ca.crl"))
    old_ca = ca.read_bytes()
    ca.write_bytes(old_ca + (new / "ca.crt").read_bytes())
    assert "0 lists of" in await reloads()  # a list of each
    crl.write_bytes(crl.read_bytes() + refresh(new).read_bytes())
    await reloads()
    with Wire(reloads.supervisor, "alice") as old:
        shutil.copy(ca, certs / "both.crt")
        with Wire(reloads.supervisor, "alice", certs=new) as young:
            assert young.call("whoami", {})[0] is None
            assert old.call("whoami", {})[0] is None
            ca.write_bytes((new / "ca.crt").read_bytes())
            shutil.copy(new / "ca.crl", crl)
            assert "cut=1" in await reloads()
            assert young.call("whoami", {})[0] is None
        assert "not trusted here any more" in old.last_words()["message"]
    ca.write_bytes(old_ca)


@pytest.mark.parametrize("made", [-2, 1])
async def test_a_list_of_another_time_counts(reloads, made):
    """One that should have been followed by a newer one is told of; one of tomorrow is not."""
    certs = reloads.supervisor.certs
    authority, key = load_certificate(certs / "ca.crt"), load_key(certs / "ca.key")
    day, now = timedelta(days=1), datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
    builder = builder.last_update(now + made * day).next_update(now + (made + 1) * day)
    serial = load_certificate(certs / "alice.crt").serial_number
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - 2 * day)
    crl = builder.add_revoked_certificate(entry.build()).sign(key, hashes.SHA256())
    (certs / "ca.crl").write_bytes(crl.public_bytes(Encoding.PEM))
    said = await reloads()
    assert ("the list of the revoked should have been followed by a newer one" in said) is (
        made < 0
    )
    async with reloads.supervisor.client() as admin:
        assert (await admin.whoami())["identity"] == "admin"
    async with reloads.supervisor.client("dev-alice") as alice:
        error, _ = await ending(alice.whoami())
    assert "certificate revoked" in error.message


async def test_who_takes_nothing_from_us_is_cut_all_the_same(reloads):
    """A revoked follower that reads slowly would otherwise be served for as long as it likes."""
    supervisor = reloads.supervisor
    async with supervisor.client("dev-alice") as alice:
        job = await alice.run(["cat", "/dev/zero"])
        with Wire(supervisor, "alice") as wire:
            wire.ask("follow", {"id": job.id})
            await in_thread(lambda: revoke(supervisor.certs, [supervisor.certs / "alice.crt"]))
            assert "cut=2" in await reloads()
            with contextlib.suppress(OSError):
                while wire.socket.recv(1 << 20):
                    pass  # what was on its way; and then it ends
    async with supervisor.client() as admin:
        await admin.kill(job.id, grace_s=0)
        await admin.wait(job.id)


async def test_a_connection_ends_with_its_certificate(supervisor):
    certs = supervisor.certs
    authority, key = load_certificate(certs / "ca.crt"), load_key(certs / "ca.key")
    old, old_key = load_certificate(certs / "alice.crt"), load_key(certs / "alice.key")
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(authority.subject)
        .public_key(old_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(datetime.now(UTC) + timedelta(seconds=6))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    (certs / "alice.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def last_words():
        with Wire(supervisor, "alice") as wire:
            assert wire.call("whoami", {})[0] is None
            return wire.last_words()

    words = await in_thread(last_words)
    assert (words["code"], words["message"]) == ("permission_denied", "your certificate has ended")
    (certs / "alice.crt").write_bytes(old.public_bytes(Encoding.PEM))


async def test_many_signals_at_once(reloads):
    supervisor = reloads.supervisor
    async with supervisor.client() as admin:
        for _ in range(200):
            os.kill(supervisor.pid, signal.SIGHUP)
        reloads.write('[policy.bindings]\nviewer = ["admin"]\n')
        await in_thread(reloads.hup)
        async with supervisor.client("dev-viewer") as viewer:
            while (await viewer.whoami())["roles"] != ["admin"]:
                await trio.sleep(0.01)
        assert (await admin.whoami())["roles"] == ["admin"]


def test_the_end_of_our_terminal_is_our_end(make_supervisor):
    """A terminal that is closed sends the same signal, and nobody wants anything reloaded."""
    supervisor = make_supervisor()
    supervisor.stop()
    master, slave = os.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", SCRIPTS / "jobs-supervisor", "--dev", "--dir", supervisor.directory],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
    )
    with process:
        os.close(slave)
        assert process.stdout.readline()
        os.close(master)
        assert process.wait(RELOAD_S) == -signal.SIGHUP
    supervisor.start()

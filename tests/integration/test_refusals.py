"""A job that cannot be gets its code and a sentence, and the next one is served."""

import os
from pathlib import Path

import harness
import msgpack
import pytest
from harness import finish, in_thread
from refusals import refusal_of
from wire import Wire

pytestmark = pytest.mark.usefixtures("serves_on")


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

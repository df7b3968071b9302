"""The audit log as it is written: on real files, through real ends."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio
from attrs import evolve

from jobs_cli.auditlog import read_chain
from jobs_plugins.decision import Decision
from jobs_proto.audit import AuditError, Chain
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_supervisor import audit as audit_module
from jobs_supervisor import auditfile, repeats
from jobs_supervisor.audit import MAX_WAITING, Audit
from jobs_supervisor.auditfile import AuditFiles
from jobs_supervisor.config import AuditSettings

ALICE = Identity(name="alice", fingerprint="f" * 64, not_after="2030-01-01T00:00:00Z")
ALLOW = Decision(allow=True, why="because", plugin="test")
DENY = Decision(allow=False, why="because", plugin="test")
DENIED = repeats.TOLD["deny"]
DEADLINE_S = 20


@asynccontextmanager
async def running(directory, **settings):
    async with trio.open_nursery() as nursery:
        audit = Audit(directory, AuditSettings(**settings))
        await nursery.start(audit.run)
        with trio.fail_after(DEADLINE_S):
            yield audit
        nursery.cancel_scope.cancel()


def verified(directory, expected=None):
    chain = Chain(expected)
    read_chain(chain, [directory])
    return chain


def counts(told):
    return [(line["of"], line["count"]) for line in told if line["event"] == "repeated"]


def lines(directory):
    paths = [*sorted(directory.glob("audit-*.log")), directory / "audit.log"]
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


@contextmanager
def full_disk(room):
    """Let no file of this process grow beyond `room` bytes: write(2) fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


async def test_the_chain_goes_on_after_a_restart(tmp_path):
    for number in range(3):
        async with running(tmp_path) as audit:
            audit(ALICE, "run", None, ALLOW)
            await audit.settle()
            chain = verified(tmp_path)
            assert chain.head.seq == number + 2  # and the first, which is `opened`
    assert [line["event"] for line in lines(tmp_path)] == ["opened", *["decision"] * 3]
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


async def test_it_goes_on_over_rotated_files_of_which_some_are_kept(tmp_path):
    heads = []
    for _ in range(40):
        async with running(tmp_path, max_bytes=2000, keep=3) as audit:
            for _ in range(3):
                audit(ALICE, "run", None, ALLOW)
            await audit.settle()
            heads.append(verified(tmp_path).head)
    chain = verified(tmp_path, heads[-1])
    assert chain.first > 1
    assert len(list(tmp_path.glob("audit-*.log"))) == 3
    oldest, second = sorted(tmp_path.glob("audit-*.log"))[:2]
    second.rename(tmp_path / "elsewhere")
    with pytest.raises(AuditError, match="missing before it"):
        verified(tmp_path)
    oldest.unlink()
    with pytest.raises(AuditError, match="were not rotated away"):
        verified(tmp_path)


async def test_a_file_is_rotated_when_it_is_old(tmp_path):
    async with running(tmp_path) as audit:
        audit(ALICE, "run", None, ALLOW)
    assert not list(tmp_path.glob("audit-*.log"))
    async with running(tmp_path, max_age_s=1e-9) as audit:
        audit(ALICE, "run", None, ALLOW)
        await audit.settle()
    assert list(tmp_path.glob("audit-*.log"))
    verified(tmp_path)


@pytest.mark.parametrize("step", range(4))
def test_who_syncs_while_a_file_is_rotated_has_all_lines_on_the_disk(tmp_path, monkeypatch, step):
    """Before, between and after the renames: of what was written before, nothing is left out."""
    files = AuditFiles(tmp_path, AuditSettings(max_bytes=1))
    files.sync()
    files.write({"timestamp": "2026-01-01T00:00:00Z", "event": "decision"})
    written, synced, steps = files._fd, [], []

    def sync(fd, fdatasync=os.fdatasync):
        synced.append(fd)
        fdatasync(fd)

    def beside(do):
        def done(*arguments):
            steps.append(do)
            if len(steps) == step + 1:
                files.sync()  # in a thread of its own, it would come as here
            return do(*arguments)

        return done

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(auditfile, "_write_whole", beside(auditfile._write_whole))
    monkeypatch.setattr(Path, "rename", beside(Path.rename))
    assert files.rotate_if_due()
    if step == len(steps) == 3:
        files.sync()
    assert written in synced
    files.sync()
    files.close()
    verified(tmp_path)


@pytest.mark.parametrize("left", ["nothing current", "a new one", "an empty one", "too many"])
async def test_a_crash_in_a_rotation_is_mended(tmp_path, left):
    async with running(tmp_path, max_bytes=1000, keep=2) as audit:
        for _ in range(20):
            audit(ALICE, "run", None, ALLOW)
            await audit.settle()
    head = verified(tmp_path).head
    current = tmp_path / "audit.log"
    if left == "too many":
        (tmp_path / "audit-000000000001.log").write_bytes(b"")
    else:
        current.rename(
            tmp_path / f"audit-{json.loads(current.read_text().splitlines()[0])['seq']:012}.log"
        )
    if left == "a new one":
        (tmp_path / "audit.new").write_bytes(b'{"seq": ')
    if left == "an empty one":
        current.touch()
    async with running(tmp_path, max_bytes=1000, keep=2) as audit:
        for _ in range(20):
            audit(ALICE, "run", None, ALLOW)
            await audit.settle()
    assert verified(tmp_path).head.seq > head.seq
    assert len(list(tmp_path.glob("audit*"))) == 3


@pytest.mark.parametrize("loose", [b'{"seq": 3, "prev": "', b"\0" * 100, b'{"who": "old"}\n'])
async def test_a_torn_line_is_kept_and_marked(tmp_path, loose):
    async with running(tmp_path) as audit:
        audit(ALICE, "run", None, ALLOW)
    with (tmp_path / "audit.log").open("ab") as file:
        file.write(loose)
    async with running(tmp_path) as audit:
        audit(ALICE, "kill", None, ALLOW)
    data = (tmp_path / "audit.log").read_bytes()
    assert loose in data
    assert verified(tmp_path).head.seq == 4
    (tmp_path / "audit.log").write_bytes(data.replace(loose, loose[1:], 1))
    with pytest.raises(AuditError, match="when it was marked as torn"):
        verified(tmp_path)


def test_a_killed_writer_loses_nothing_that_it_wrote(tmp_path):
    """SIGKILL in the middle of writing: what a line was, it is; the next one goes on."""
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
from jobs_plugins.decision import Decision
from jobs_proto.identity import Identity
from jobs_supervisor.audit import Audit
from jobs_supervisor.config import AuditSettings
audit = Audit(Path({str(tmp_path)!r}), AuditSettings())
alice = Identity(name="alice", fingerprint="f", not_after="z")
while True:
    audit(alice, "x" * 3000, None, Decision(allow=True, why="", plugin=None))
    print(flush=True)
"""
    for _ in range(5):
        before = verified(tmp_path).head.seq if (tmp_path / "audit.log").exists() else 0
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as writer:
            told = sum(line == b"\n" for _, line in zip(range(50), writer.stdout, strict=False))
            writer.kill()
        Audit(tmp_path, AuditSettings())  # the next start
        assert verified(tmp_path).head.seq >= before + told > before


async def test_a_full_disk_refuses_what_it_cannot_account_for_and_counts_the_rest(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(audit_module, "RETRY_S", 0.01)
    async with running(tmp_path) as audit:
        audit(ALICE, "run", None, ALLOW)
        await audit.settle()
        with full_disk((tmp_path / "audit.log").stat().st_size + 100):
            for number in range(MAX_WAITING + 7):
                audit(ALICE, "signal", str(number), ALLOW)
            with pytest.raises(JobsError, match="cannot write its audit log") as refusal:
                await audit.settle()
        assert refusal.value.code == "resource_exhausted"
        assert verified(tmp_path).torn == 0
        while "missing" not in (tmp_path / "audit.log").read_text():
            await trio.sleep(0.01)
        audit(ALICE, "run", None, ALLOW)
        await audit.settle()
    told = lines(tmp_path)
    assert [line["job"] for line in told[2:-2]] == [str(number) for number in range(MAX_WAITING)]
    assert (told[-2]["event"], told[-2]["count"]) == ("missing", 7)
    verified(tmp_path)


async def test_denials_that_are_alike_are_counted(tmp_path):
    async with running(tmp_path) as audit:
        for number in range(1000):
            audit.refused(ALICE, "inspect", "no job that they may see", asked=f"{number}\n{{")
            audit.connection(("192.0.2.1", number), None, "no certificate")
        audit(ALICE, "kill", None, DENY)
        audit(ALICE, "kill", None, ALLOW)
    told = lines(tmp_path)[1:]
    assert [line["asked"] for line in told if line.get("asked")][:2] == ["0\n{", "1\n{"]
    assert len(told) == 2 * DENIED + 2 + 2
    assert counts(told) == [("decision", 1000 - DENIED), ("connection", 1000 - DENIED)]


async def test_reads_that_are_alike_are_counted_and_changes_are_not(tmp_path):
    why = evolve(ALLOW, why="for another reason")
    async with running(tmp_path) as audit:
        for number in range(1000):
            audit(ALICE, "inspect", "job", ALLOW)
            audit(ALICE, "inspect", "job", ALLOW, asked_by=ALICE)
            audit(ALICE, "signal", "job", ALLOW)
            audit.connection(("192.0.2.1", number), ALICE)
        audit(ALICE, "inspect", "another job", ALLOW)
        audit(ALICE, "inspect", "job", why)
        audit(evolve(ALICE, fingerprint="e" * 64), "inspect", "job", ALLOW)
        audit(ALICE, "inspect", "job", DENY)
        assert not [line for line in lines(tmp_path) if line["event"] == "repeated"]
    told = lines(tmp_path)[1:]
    assert sum(line.get("action") == "signal" for line in told) == 1000
    assert len(told) == 1000 + 3 + 4 + 3
    assert counts(told) == [("decision", 999), ("question", 999), ("connection", 999)]
    assert {line["action"] for line in told[-3:-1]} == {"inspect"}
    assert verified(tmp_path).head.seq == len(told) + 1


async def test_counts_are_told_when_the_window_ends_and_not_sooner(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "SYNC_S", 0.001)
    monkeypatch.setattr(repeats, "WINDOW_S", 1.0)
    path = tmp_path / "audit.log"
    async with running(tmp_path) as audit:
        begin = time.monotonic()
        audit(ALICE, "list", None, ALLOW)
        audit(ALICE, "list", None, ALLOW)
        while "repeated" not in path.read_text():  # nobody asks anything meanwhile
            await trio.sleep(0.01)
        assert time.monotonic() - begin >= repeats.WINDOW_S
        audit(ALICE, "list", None, ALLOW)  # of the next window
        assert lines(tmp_path)[-1]["event"] == "decision"
        audit(ALICE, "list", None, ALLOW)
    assert counts(lines(tmp_path)) == [("decision", 1), ("decision", 1)]


async def test_changes_are_not_washed_out_by_reads(tmp_path):
    async with running(tmp_path, max_bytes=10_000, keep=2) as audit:
        audit(ALICE, "run", None, ALLOW)
        for _ in range(20):
            for number in range(1000):
                audit(ALICE, "whoami", None, ALLOW)
                audit(ALICE, "kill", str(number % 5), DENY)
            await audit.settle()  # files are rotated here
    assert lines(tmp_path)[1]["action"] == "run"
    assert verified(tmp_path).first == 1
    assert sum(count for _, count in counts(lines(tmp_path))) == 20_000 - 1 + 20_000 - 5 * DENIED


@pytest.mark.parametrize("decision", [ALLOW, DENY])
async def test_what_one_floods_us_with_is_bounded_and_hides_nobody_else(tmp_path, decision):
    bob = evolve(ALICE, name="bob")
    async with running(tmp_path) as audit:
        for number in range(repeats.MAX_TOLD + 50):
            for _ in range(2):
                audit(ALICE, "inspect", f"job {number}", decision)
        audit(ALICE, "list", None, decision)
        for number in range(30):
            audit(bob, "inspect", f"job {number}", decision)
    told = [line for line in lines(tmp_path) if line.get("who") == "alice"]
    assert sum(line["event"] == "decision" for line in told) == repeats.MAX_TOLD
    assert sum(line.get("count", 1) for line in told) == 2 * (repeats.MAX_TOLD + 50) + 1
    assert told[-1]["action"] == "list"
    told = [line for line in lines(tmp_path) if line.get("who") == "bob"]
    assert [line["job"] for line in told] == [f"job {n}" for n in range(30)]


async def test_a_stranger_with_many_addresses_hides_no_other(tmp_path):
    async with running(tmp_path) as audit:
        for number in range(repeats.MAX_TOLD):
            audit.connection((f"2001:db8::{number:x}", 1), None, "no certificate")
        audit.connection(("203.0.113.7", 1), None, "revoked")
    told = [line for line in lines(tmp_path) if line["event"] == "connection"]
    assert len(told) == DENIED + 1
    assert told[-1]["host"] == "203.0.113.7"


def test_wherever_it_was_cut_off_the_chain_goes_on(tmp_path):
    """At every byte: a line that lacks but its end is whole, and none is told of as torn twice."""
    path = tmp_path / "audit.log"
    files = AuditFiles(tmp_path, AuditSettings())
    files.write({"event": "decision"})
    files.close()
    data = path.read_bytes()
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        files = AuditFiles(tmp_path, AuditSettings())
        files.write({"event": "decision"})
        files.close()
        chain = Chain()
        chain.begin(path.name)
        for line in path.read_bytes().splitlines(keepends=True):
            chain.take(line)
        chain.finish(whole=True)
        assert (chain.first, chain.head, chain.torn) == (1, files.head, 0)


async def test_it_cannot_be_read(tmp_path):
    (tmp_path / "audit.log").mkdir()
    with pytest.raises(OSError, match="directory"):
        Audit(tmp_path, AuditSettings())
    assert os.listdir(tmp_path) == ["audit.log"]

"""What clients ask of a job: whoever goes away, or asks at the same moment, disk and shim agree."""

import socket
import sqlite3
import threading
from contextlib import closing

import pytest
import trio
import trio.testing
from attrs import evolve

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_proto.job import Job, Limits, Spec, Usage, timestamp
from jobs_proto.methods import Update
from jobs_proto.phases import Outcome, Phase
from jobs_supervisor.config import JobSettings, QuotaSettings, RetentionSettings
from jobs_supervisor.control import Control
from jobs_supervisor.ending import Ending
from jobs_supervisor.link import ShimLink
from jobs_supervisor.live import LiveJob
from jobs_supervisor.outcome import never_started
from jobs_supervisor.places import Places
from jobs_supervisor.quotas import Quotas
from jobs_supervisor.reattach import Reattachment
from jobs_supervisor.register import Register
from jobs_supervisor.retention import Retention
from jobs_supervisor.store import Record, Store

WAIT_S = 10.0

JOB = Job(
    id="1" * 32,
    owner="alice",
    spec=Spec(argv=("true",)),
    created_at=timestamp(0),
    started_at=timestamp(0),
    phase=Phase.RUNNING,
)


class Parts:
    """The parts of a supervisor that `Control` needs."""

    def __init__(self, state, nursery):
        (state / "jobs").mkdir()
        (state / "trash").mkdir()
        self.state = state
        self.store = Store(state / "jobs.sqlite")
        self.register = Register(self.store, state / "jobs")
        self.places = Places(JobSettings(), Quotas(QuotaSettings(), self.store))
        self.retention = Retention(RetentionSettings(), state, self.store, self.register)
        self.ending = Ending(
            store=self.store,
            register=self.register,
            places=self.places,
            reattachment=Reattachment(),
            nursery=nursery,
        )
        self.control = Control(
            store=self.store,
            register=self.register,
            places=self.places,
            terms=None,  # asked about output limits only
            ending=self.ending,
            retention=self.retention,
            nursery=nursery,
        )

    async def have(self, job=JOB):
        """Have a job that runs; give it, and its shim's end of the link."""
        live = LiveJob(Record(job=job))
        await self.store.put(live.record)
        self.register.restore(live)
        self.places.ledger.place(live)
        (self.state / "jobs" / job.id).mkdir()
        ours, shim = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        live.attach(ShimLink(trio.socket.from_stdlib_socket(ours)))
        shim.settimeout(0)
        return live, shim


@pytest.fixture
async def parts(tmp_path):
    async with trio.open_nursery() as writing, trio.open_nursery() as nursery:
        parts = Parts(tmp_path, nursery)
        await writing.start(parts.store.run)
        with trio.fail_after(WAIT_S):
            yield parts
        nursery.cancel_scope.cancel()
        writing.cancel_scope.cancel()
    parts.store.close()


async def test_a_kill_that_is_written_down_is_told_though_its_client_has_gone(parts):
    live, shim = await parts.have()
    with shim:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(parts.control.kill, live, 15, 0.0, "alice")
            while live.job.phase is not Phase.STOPPING:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        while parts.store.get(JOB.id).killing is None:
            await trio.sleep(0.01)
        kind, _body = protocol.unpack(shim.recv(protocol.MAX_PACKET))
    assert kind == protocol.KILL
    live.link.close()


async def test_a_cgroup_that_is_gone_tells_nothing_of_what_was_used(parts, tmp_path):
    """Between its removal and the word of the end, which says what it was."""
    live, shim = await parts.have()
    used = Usage(cpu_s=1.5, oom_kills=1)
    directories = [["", str(tmp_path / "gone"), []], ["pids", str(tmp_path / "gone-too"), []]]
    cgroup = {"unified": False, "directories": directories}
    live.record = evolve(live.record, cgroup=cgroup, job=evolve(live.job, usage=used))
    with shim:
        await parts.control.measure(live)
    assert live.job.usage == used
    live.link.close()


async def test_of_updates_at_the_same_time_none_undoes_another(parts, monkeypatch):
    """Not for a moment: what was answered is on the disk, if we are killed the next instant."""
    monkeypatch.setattr(parts.control, "_terms", Agreeable())
    live, shim = await parts.have()
    told, first = [], threading.Event()
    commit = parts.store._commit  # a disk that is slow, and what each commit leaves

    def slow_commit(*batch):
        assert first.wait(WAIT_S)
        error = commit(*batch)
        with closing(sqlite3.connect(parts.state / "jobs.sqlite")) as other:
            job = files.decode(other.execute("SELECT job FROM jobs").fetchone()[0])
        told.append((job["timeout_s"], job["limits"]["output_max_bytes"]))
        return error

    monkeypatch.setattr(parts.store, "_commit", slow_commit)
    with shim:
        async with trio.open_nursery() as nursery:
            for request in (Update(id="", timeout_s=60.0), Update(id="", output_max_bytes=1 << 20)):
                nursery.start_soon(parts.control.update, live, request, none_imposed)
                await trio.testing.wait_all_tasks_blocked(0.05)
            first.set()
    live.link.close()
    assert told[-1] == (60.0, 1 << 20)
    assert {timeout_s for timeout_s, _ in told} == {60.0}, told


class Agreeable:
    """Terms that nothing is against."""

    def check_change(self, asked, imposed):
        pass


async def none_imposed():
    return []


async def test_an_end_is_told_and_written_though_a_secret_cannot_be_deleted(parts):
    spec = evolve(JOB.spec, isolation=evolve(JOB.spec.isolation, secrets=("password",)))
    live, shim = await parts.have(evolve(JOB, spec=spec))
    shim.close()
    live.link.close()
    (parts.state / "jobs" / JOB.id / files.SECRETS).mkdir()  # unlink(2) refuses
    parts.ending.tell(live, never_started(live.job, 0, by=None, error="of no shim"))
    while len(parts.register):
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert parts.store.get(JOB.id).job.outcome is Outcome.START_FAILED
    assert not parts.places.ledger.places


async def test_what_was_removed_takes_no_room_though_who_asked_has_gone(parts):
    live, shim = await parts.have()
    shim.close()
    live.link.close()
    (parts.state / "jobs" / JOB.id / files.OUTPUT).write_bytes(b"much")
    parts.ending.tell(live, never_started(live.job, 0, by=None, error="of no shim"))
    with trio.CancelScope() as client:
        client.cancel()
        await parts.control.remove(live)
    while parts.store.get(JOB.id):
        await trio.sleep(0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.retention.run)
        while list((parts.state / "trash").iterdir()):
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_what_cannot_be_looked_at_ends_nobody(parts):
    (parts.state / "jobs" / "note").write_text("from an operator")
    live, shim = await parts.have(evolve(JOB, limits=Limits()))
    shim.close()
    live.link.close()
    (parts.state / "jobs" / "orphan").mkdir()
    (parts.state / "jobs" / "orphan" / files.OUTPUT).touch()
    await parts.retention.tidy()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.retention.run)
        while (parts.state / "jobs" / "orphan").exists():
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert (parts.state / "jobs" / "note").exists()
    assert (parts.state / "jobs" / JOB.id).exists()

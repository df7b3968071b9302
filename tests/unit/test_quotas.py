"""Quotas: which one counts, and that what is used of them is what the jobs are."""

import uuid
from math import inf

import pytest
import trio
from attrs import evolve, fields
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity
from jobs_proto.job import Job, Limits, Spec, timestamp
from jobs_proto.phases import Event, Phase
from jobs_supervisor.config import Quota, QuotaSettings
from jobs_supervisor.live import LiveJob
from jobs_supervisor.presence import Presence
from jobs_supervisor.queue import Queue
from jobs_supervisor.quotas import NAMES, Ledger, Quotas, effective
from jobs_supervisor.store import Record, Store

UNIT = 2 << 20


def make_job(owner="alice", argv=("true",), **limits):
    return LiveJob(
        Record(
            job=Job(
                id=str(uuid.uuid4()),
                owner=owner,
                spec=Spec(argv=argv),
                created_at=timestamp(0),
                limits=Limits(**limits),
            )
        )
    )


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "jobs.sqlite")
    yield store
    store.close()


def refusal_of(function, *arguments):
    with pytest.raises(JobsError) as refusal:
        function(*arguments)
    assert refusal.value.code == "resource_exhausted"
    return refusal.value


# -- which one counts ---------------------------------------------------------------------------


def test_each_quota_can_be_said_for_a_role_and_for_an_identity():
    everybody = {field.name for field in fields(QuotaSettings)}
    assert everybody == {*NAMES, "role", "identity"}


def test_the_identitys_own_counts_then_its_roles_most_generous_then_everybodys():
    settings = QuotaSettings(
        running=1,
        queued=2,
        role={
            "operator": Quota(running=10, cpus=4.0),
            "nightly": Quota(running=50, queued=1),
            "other": Quota(running=1000),
        },
        identity={"alice": Quota(running=3)},
    )
    roles = ("nightly", "operator")
    alice, bob = (effective(settings, name, roles) for name in ("alice", "bob"))
    assert (alice.running, alice.queued, alice.cpus, alice.connections) == (3, 1, 4.0, 1024)
    assert (bob.running, bob.queued, bob.cpus) == (50, 1, 4.0)
    carol = effective(settings, "carol", ())
    assert (carol.running, carol.queued, carol.cpus) == (1, 2, inf)


async def test_the_roles_are_known_after_a_restart(tmp_path):
    settings = QuotaSettings(role={"intern": Quota(running=2)})
    bob = Identity(name="bob", roles=("intern",), fingerprint="f", not_after="z")
    async with trio.open_nursery() as nursery:
        store = Store(tmp_path / "jobs.sqlite")
        await nursery.start(store.run)
        quotas = Quotas(settings, store)
        assert quotas.of("bob").running == 1000
        quotas.meet(bob)
        assert quotas.of("bob").running == 2
        nursery.cancel_scope.cancel()
    store.close()
    store = Store(tmp_path / "jobs.sqlite")
    assert Quotas(settings, store).of("bob").running == 2
    store.close()


# -- refusals -----------------------------------------------------------------------------------


def test_who_has_too_many_waiting_is_refused(store):
    ledger = Ledger(Quotas(QuotaSettings(running=1, queued=1, queued_bytes=10), store))
    ledger.place(make_job())
    ledger.check("alice", Spec(argv=("12345",)), Limits())
    error = refusal_of(ledger.check, "alice", Spec(argv=("12345678901",)), Limits())
    assert error.detail == {"quota": "queued_bytes", "limit": 10, "used": 0}
    ledger.wait(make_job())
    error = refusal_of(ledger.check, "alice", Spec(argv=("true",)), Limits())
    assert error.detail == {"quota": "queued", "limit": 1, "used": 1}
    assert error.message == (
        "you have 1, and your quota (queued) is 1: wait until some have started"
    )
    ledger.check("bob", Spec(argv=("true",)), Limits())


def test_what_would_never_have_a_place_is_refused(store):
    ledger = Ledger(Quotas(QuotaSettings(memory_bytes=100.0 * UNIT, cpus=2.0), store))
    error = refusal_of(ledger.check, "alice", Spec(argv=("x",)), Limits(memory_bytes=50 * UNIT))
    assert "give --cpus" in error.message
    error = refusal_of(ledger.check, "alice", Spec(argv=("x",)), Limits(cpus=1.0))
    assert "give --memory" in error.message
    error = refusal_of(
        ledger.check, "alice", Spec(argv=("x",)), Limits(cpus=3.0, memory_bytes=UNIT)
    )
    assert "this job alone has 3" in error.message
    ledger.check("alice", Spec(argv=("x",)), Limits(cpus=2.0, memory_bytes=100 * UNIT))


# -- the accounting -----------------------------------------------------------------------------


class Accounts(RuleBasedStateMachine):
    """Jobs come, start, pause, end and are found again, in any order, by any number of reports."""

    def __init__(self):
        super().__init__()
        self.settings = QuotaSettings(
            running=3, queued=4, queued_bytes=30, memory_bytes=100.0 * UNIT, cpus=2.5
        )
        self.jobs = []
        self.restart()

    @rule()
    def restart(self):
        """Everything that was in memory is made again, of the jobs."""
        quotas = Quotas.__new__(Quotas)
        quotas.settings, quotas._roles, quotas._known = self.settings, {}, {}
        self.ledger, self.queue = Ledger(quotas), Queue()
        for live in self.jobs:
            if live.job.phase is Phase.QUEUED:
                self.ledger.wait(live)
                self.queue.push(live)
            elif not live.exited:
                self.ledger.place(live)

    @rule(
        owner=st.sampled_from("ab"),
        size=st.integers(1, 12),
        memory=st.integers(1, 100),
        cpus=st.sampled_from([0.1, 0.3, 1.0, 2.5]),
    )
    def run(self, owner, size, memory, cpus):
        live = make_job(owner, ("x" * size,), memory_bytes=memory * UNIT, cpus=cpus)
        try:
            self.ledger.check(owner, live.job.spec, live.job.limits)
        except JobsError:
            return
        self.jobs.append(live)
        self.ledger.wait(live)
        self.queue.push(live)
        self.admit()

    def admit(self):
        room = self.ledger.has_room
        while live := self.queue.pop(lambda live: room(live.job.owner, live.job.limits)):
            self.ledger.place(live)
            live.apply(Event.ADMIT)

    @rule(data=st.data(), event=st.sampled_from([Event.STARTED, Event.PAUSE, Event.RESUME]))
    def go_on(self, data, event):
        able = [live for live in self.jobs if can(live, event)]
        if able:
            data.draw(st.sampled_from(able)).apply(event)

    @rule(data=st.data(), times=st.integers(1, 3))
    def end(self, data, times):
        """It exits, is killed in the queue, or could not be written down; told once or thrice."""
        alive = [live for live in self.jobs if not live.exited]
        if not alive:
            return
        live = data.draw(st.sampled_from(alive))
        self.queue.remove(live)
        live.record = evolve(live.record, job=evolve(live.job, phase=Phase.EXITED))
        for _ in range(times):
            self.ledger.drop(live)
        self.admit()

    @rule(data=st.data())
    def remove(self, data):
        self.jobs = [live for live in self.jobs if not live.exited]

    @invariant()
    def it_is_what_the_jobs_are(self):
        for owner in "ab":
            mine = [live for live in self.jobs if live.job.owner == owner and not live.exited]
            waiting = [live.job for live in mine if live.job.phase is Phase.QUEUED]
            placed = [live.job for live in mine if live.job.phase is not Phase.QUEUED]
            used = self.ledger.used(owner)
            assert used["running"] == len(placed)
            assert used["queued"] == len(waiting)
            assert used["queued_bytes"] == sum(len(job.spec.argv[0]) for job in waiting)
            assert used["memory_bytes"] == sum(job.limits.memory_bytes for job in placed)
            assert used["cpus"] == pytest.approx(sum(job.limits.cpus for job in placed))
            for name, value in used.items():
                assert value <= getattr(self.settings, name) + 1e-9, name
        alive = [live for live in self.jobs if not live.exited]
        assert len(self.ledger.places) + self.ledger.waiting == len(alive)

    @invariant()
    def nothing_is_kept_of_those_who_have_no_job(self):
        owners = {live.job.owner for live in self.jobs if not live.exited}
        assert {*self.ledger._waiting, *self.ledger._placed} - owners == set()


def can(live, event):
    try:
        evolve_copy = LiveJob(live.record)
        evolve_copy.apply(event)
    except Exception:  # noqa: BLE001  the table refuses
        return False
    return True


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


# -- connections --------------------------------------------------------------------------------


def test_one_identity_cannot_take_all_connections(store):
    presence = Presence(Quotas(QuotaSettings(connections=2, followers=1), store), 3)
    with presence.connection("alice"), presence.connection("alice"):
        with pytest.raises(JobsError, match="your quota \\(connections\\) is 2"):
            presence.connection("alice").__enter__()
        with presence.connection("bob"):
            assert presence.used("alice") == {"connections": 2, "followers": 0}
            with pytest.raises(JobsError, match="max_connections"):
                presence.connection("carol").__enter__()
        with presence.follower("alice"), pytest.raises(JobsError, match="followers"):
            presence.follower("alice").__enter__()
    with presence.connection("carol"):
        assert presence.used("alice") == {"connections": 0, "followers": 0}


async def test_requests_beyond_the_pace_are_read_later(store, autojump_clock):
    settings = QuotaSettings(requests_per_s=10.0, burst=5)
    presence = Presence(Quotas(settings, store), 10)
    start = trio.current_time()
    times = []
    for _ in range(25):
        await presence.pace("alice")
        times.append(trio.current_time() - start)
    assert times[:5] == [0] * 5
    assert times[5:] == pytest.approx([0.1 * number for number in range(1, 21)])
    before = trio.current_time()
    await presence.pace("bob")
    assert trio.current_time() == before
    await trio.sleep(100)  # a rest gives the burst back, and no more than that
    before = trio.current_time()
    for _ in range(6):
        await presence.pace("alice")
    assert trio.current_time() - before == pytest.approx(0.1)


async def test_all_connections_of_one_identity_share_its_pace(store, autojump_clock):
    presence = Presence(Quotas(QuotaSettings(requests_per_s=10.0, burst=1), store), 10)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(11):
            nursery.start_soon(presence.pace, "alice")
    assert trio.current_time() - start == pytest.approx(1.0)

"""The records: what is posted is kept, and what is looked for is found, by the rules that hold."""

import pytest
import trio
from attrs import evolve

from jobs_plugins import Kind
from jobs_proto.job import Exit, Job, Output, Spec, timestamp
from jobs_proto.phases import Outcome, Phase
from jobs_supervisor.store import Record, Store

COMMIT_S = 30.0

IDS = [f"{number:x}" * 32 for number in range(10)]


def ended(ident: str, at: str = timestamp(0), *, name: str | None = None) -> Record:
    job = Job(
        id=ident,
        owner="alice",
        name=name,
        labels={},
        priority=0,
        spec=Spec(argv=("true",)),
        phase=Phase.EXITED,
        outcome=Outcome.COMPLETED,
        created_at=timestamp(0),
        finished_at=at,
        exit=Exit(code=0),
    )
    return Record(job=job)


@pytest.fixture
async def store(tmp_path):
    store = Store(tmp_path / "jobs.sqlite")
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()
    store.close()


async def test_what_is_posted_in_the_moment_of_the_end_is_kept(tmp_path):
    store = Store(tmp_path / "jobs.sqlite")
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        store.post(ended(IDS[0]))  # wakes the writer, which is cancelled before it has run
        nursery.cancel_scope.cancel()
    assert store.get(IDS[0]) == ended(IDS[0])
    store.close()


async def test_what_nobody_waits_for_is_on_the_disk_soon_and_in_order(tmp_path):
    told = []
    store = Store(tmp_path / "jobs.sqlite", told.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(store.run)
        with trio.fail_after(COMMIT_S):
            await store.note(ended(IDS[0]), Kind.STARTED).done.wait()
            lingering = store.note(ended(IDS[1]), Kind.STARTED)
            await store.put(ended(IDS[2]))
            assert lingering.done.is_set()  # whoever waits takes along what came before
            store.note(ended(IDS[3]), Kind.EXITED)
            await store.delete([IDS[3]])
        nursery.cancel_scope.cancel()
    assert store.unknown(IDS[:4]) == {IDS[3]}
    assert [(event.job_id, event.kind) for event in told] == [
        (IDS[0], Kind.STARTED),
        (IDS[1], Kind.STARTED),
        (IDS[3], Kind.EXITED),
        (IDS[3], Kind.REMOVED),
    ]
    store.close()


async def test_names_and_starts_of_ids_are_found_newest_first(store):
    for ident in IDS:
        await store.put(ended(ident, name="nightly" if ident in IDS[3:6] else None))
    assert [each.job.id for each in store.matching("nightly")] == IDS[5:2:-1]
    assert [each.job.id for each in store.matching("7")] == [IDS[7]]
    assert list(store.matching("70")) == []


async def test_ids_that_no_record_has(store):
    await store.put(ended(IDS[0]))
    assert store.unknown(IDS[:3]) == set(IDS[1:3])


async def test_the_oldest_go_first_and_each_rule_holds_by_itself(store):
    for ident in IDS:
        await store.put(ended(ident))
    kept = {"before_ns": 0, "beyond": 100, "bytes_beyond": 1 << 40, "limit": 100}
    assert store.expired(**kept) == []
    assert store.expired(**kept | {"beyond": 7}) == IDS[:3]
    assert store.expired(**kept | {"before_ns": 1 << 62}) == IDS
    assert store.expired(**kept | {"before_ns": 1 << 62, "limit": 2}) == IDS[:2]


async def test_records_weigh_what_their_commands_do(store):
    """Output and records are forgotten together, so what is kept of both is what counts."""
    for ident in IDS:
        large = ended(ident)
        spec = evolve(large.job.spec, env={"LARGE": "x" * 1_000_000})
        await store.put(
            evolve(large, job=evolve(large.job, spec=spec, output=Output(total=500_000)))
        )
    kept = {"before_ns": 0, "beyond": 100, "limit": 100}
    assert store.expired(**kept, bytes_beyond=15_100_000) == []
    assert store.expired(**kept, bytes_beyond=4_600_000) == IDS[:7]


async def test_who_has_ended_first_is_forgotten_first_whenever_that_was_written_down(store):
    later = ended("later", "2026-01-01T00:00:09.000000Z")
    earlier = ended("earlier", "2026-01-01T00:00:08.999999Z")
    with trio.fail_after(10):
        await store.put(later)
        await store.put(earlier)
    kept = {"before_ns": 0, "bytes_beyond": 1 << 40, "limit": 10}
    assert store.expired(beyond=1, **kept) == ["earlier"]
    assert store.expired(beyond=0, **kept) == ["earlier", "later"]
    second = 1_767_225_609_000_000_000  # `date -u -d 2026-01-01T00:00:09 +%s`
    assert store.expired(beyond=9, **{**kept, "before_ns": second}) == ["earlier"]


async def test_who_reads_a_list_slowly_keeps_nobody_from_what_is_new(store):
    """One view of the table that stays open would be the view of all who look meanwhile."""
    first, second, third, new = IDS[:4]
    with trio.fail_after(10):
        for ident in (first, second, third):
            was = ended(ident, name="x")
            await store.put(evolve(was, job=evolve(was.job, phase=Phase.RUNNING)))
        lists = [store.newest_first(), store.matching("x")]
        assert [next(each).job.id for each in lists] == [third, third]
        await store.put(ended(second, name="x"))
        await store.put(ended(new))
        await store.delete([first])
    assert store.get(new) is not None
    for each in lists:
        assert [(record.job.id, record.job.phase) for record in each] == [(second, Phase.EXITED)]

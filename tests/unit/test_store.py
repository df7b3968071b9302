"""The records: what is posted is kept, and what is looked for is found, by the rules that hold."""

import pytest
import trio

from jobs_proto.job import Exit, Job, Spec, timestamp
from jobs_proto.phases import Outcome, Phase
from jobs_supervisor.store import Record, Store

IDS = [f"{number:x}" * 32 for number in range(10)]


def record(ident: str, *, name: str | None = None) -> Record:
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
        finished_at=timestamp(0),
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
        store.post(record(IDS[0]))  # wakes the writer, which is cancelled before it has run
        nursery.cancel_scope.cancel()
    assert store.get(IDS[0]) == record(IDS[0])
    store.close()


async def test_names_and_starts_of_ids_are_found_newest_first(store):
    for ident in IDS:
        await store.put(record(ident, name="nightly" if ident in IDS[3:6] else None))
    assert [each.job.id for each in store.matching("nightly")] == IDS[5:2:-1]
    assert [each.job.id for each in store.matching("7")] == [IDS[7]]
    assert list(store.matching("70")) == []


async def test_ids_that_no_record_has(store):
    await store.put(record(IDS[0]))
    assert store.unknown(IDS[:3]) == set(IDS[1:3])


async def test_the_oldest_go_first_and_each_rule_holds_by_itself(store):
    for ident in IDS:
        await store.put(record(ident))
    kept = {"before_ns": 0, "beyond": 100, "bytes_beyond": 1 << 40, "limit": 100}
    assert store.expired(**kept) == []
    assert store.expired(**kept | {"beyond": 7}) == IDS[:3]
    assert store.expired(**kept | {"before_ns": 1 << 62}) == IDS
    assert store.expired(**kept | {"before_ns": 1 << 62, "limit": 2}) == IDS[:2]

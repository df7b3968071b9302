"""The records: which jobs are forgotten first."""

from functools import partial

import pytest
import trio

from jobs_proto.job import Job, Spec
from jobs_proto.phases import Outcome, Phase
from jobs_supervisor.store import Record, Store

ENDED = partial(
    Job,
    owner="o",
    spec=Spec(argv=("true",)),
    created_at="2026-01-01T00:00:00.000000Z",
    phase=Phase.EXITED,
    outcome=Outcome.COMPLETED,
)


@pytest.fixture
async def store(tmp_path, nursery):
    made = Store(tmp_path / "jobs.sqlite")
    await nursery.start(made.run)
    return made


async def test_who_has_ended_first_is_forgotten_first_whenever_that_was_written_down(store):
    later = ENDED(id="later", finished_at="2026-01-01T00:00:09.000000Z")
    earlier = ENDED(id="earlier", finished_at="2026-01-01T00:00:08.999999Z")
    with trio.fail_after(10):
        await store.put(Record(job=later))
        await store.put(Record(job=earlier))
    kept = {"before_ns": 0, "bytes_beyond": 1, "limit": 10}
    assert store.expired(beyond=1, **kept) == ["earlier"]
    assert store.expired(beyond=0, **kept) == ["earlier", "later"]
    second = 1_767_225_609_000_000_000  # `date -u -d 2026-01-01T00:00:09 +%s`
    assert store.expired(beyond=9, **{**kept, "before_ns": second}) == ["earlier"]

"""The order in which waiting jobs come to run."""

import weakref

from hypothesis import given
from hypothesis import strategies as st

from jobs_proto.job import Job, Spec, timestamp
from jobs_supervisor.live import LiveJob
from jobs_supervisor.queue import Queue
from jobs_supervisor.store import Record


def job(number, owner="alice", priority=0):
    made = Job(
        id=str(number),
        owner=owner,
        priority=priority,
        spec=Spec(argv=("true",)),
        created_at=timestamp(0),
    )
    return LiveJob(Record(job=made))


def drain(queue, has_room=lambda _live: True):
    while (live := queue.pop(has_room)) is not None:
        yield live.job.id


def test_first_in_first_out():
    queue = Queue()
    for number in range(5):
        queue.push(job(number))
    assert len(queue) == 5
    assert list(drain(queue)) == ["0", "1", "2", "3", "4"]
    assert len(queue) == 0


def test_higher_priority_first():
    queue = Queue()
    for number, priority in enumerate((0, 5, -1, 5)):
        queue.push(job(number, priority=priority))
    assert list(drain(queue)) == ["1", "3", "0", "2"]


def test_an_owner_at_its_cap_is_passed_over():
    queue = Queue()
    for number, owner in enumerate(("alice", "alice", "bob")):
        queue.push(job(number, owner))
    assert list(drain(queue, lambda live: live.job.owner != "alice")) == ["2"]
    assert list(drain(queue)) == ["0", "1"]


def test_those_that_were_killed_are_held_no_longer():
    """Else whoever queues and kills, behind a job that waits for long, has us hold all of them."""
    queue = Queue()
    queue.push(job(0, priority=1))
    killed = []
    for number in range(1, 100):
        live = job(number)
        queue.push(live)
        queue.remove(live)
        killed.append(weakref.ref(live.record.job))
        del live
    assert {each() for each in killed} == {None}
    assert list(drain(queue)) == ["0"]


def test_one_that_was_killed_waits_no_longer():
    queue = Queue()
    jobs = [job(number) for number in range(3)]
    for live in jobs:
        queue.push(live)
    assert queue.remove(jobs[0])
    assert not queue.remove(jobs[0])
    assert list(drain(queue)) == ["1", "2"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2), st.booleans()), max_size=40),
    st.sets(st.sampled_from("abc")),
)
def test_it_is_a_stable_sort_of_those_who_may(arrivals, full):
    queue = Queue()
    waiting = []
    for number, (owner, priority, removed) in enumerate(arrivals):
        live = job(number, owner, priority)
        queue.push(live)
        if removed:
            queue.remove(live)
        else:
            waiting.append(live.job)
    expected = sorted((j for j in waiting if j.owner not in full), key=lambda j: -j.priority)
    assert list(drain(queue, lambda live: live.job.owner not in full)) == [j.id for j in expected]

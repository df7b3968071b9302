"""The checker finds what is wrong: each promise, broken in an otherwise sound history."""

from datetime import datetime

import checker
import pytest
from attrs import evolve
from history import Call, Followed, History, Kill, Told
from workload import Work

from jobs_proto.errors import JobsError
from jobs_proto.job import Exit, Job, Limits, Output, Spec
from jobs_proto.phases import Outcome, Phase
from jobs_rpc import Chunk, End, Gap

KEY, ID = "j1", "id-1"
WORK = Work(kind="talks", key=KEY, argv=("x",), code=3, stdout=b"one two", stderr=b"oops")
JOB = Job(
    id=ID,
    owner="admin",
    phase=Phase.EXITED,
    outcome=Outcome.FAILED,
    spec=Spec(argv=("x",)),
    created_at="t",
    started_at="2026-01-01T00:00:10.000000Z",
    finished_at="2026-01-01T00:00:20.000000Z",
    exit=Exit(code=3),
    output=Output(total=11, stdout=7, stderr=4),
)
ITEMS = (Chunk(0, "stdout", "t", b"one "), Chunk(4, "stderr", "t", b"oops"))
REST = Chunk(8, "stdout", "t", b"two")


def sound():
    whole = Followed(0, [*ITEMS, REST], End(11, JOB.exit, JOB))
    told = Told(WORK, "admin", "r", job=JOB, follows=[whole], final=JOB)
    return History(told={KEY: told}, listed=[JOB], executed=[(KEY, ID, 7)])


def become(history, **changes):
    """Have the job be another, wherever it was told."""
    told = history.told[KEY]
    job = evolve(JOB, **changes)
    told.final, history.listed[0] = job, job
    for followed in told.follows:
        followed.end = End(job.output.total, job.exit, job)


def ended_in(outcome, **exit_):
    return lambda history: become(history, outcome=outcome, exit=Exit(**exit_))


def items(*what, end=True):
    def change(history):
        followed = history.told[KEY].follows[0]
        followed.items[:] = what
        followed.end = followed.end if end else None

    return change


def follow_first(followed):
    return lambda history: history.told[KEY].follows.insert(0, followed)


def tell(*calls):
    return lambda history: history.told[KEY].calls.extend(calls)


WRONG = {
    "was executed 2 times": lambda history: history.executed.append((KEY, ID, 8)),
    "was executed as 2 jobs": lambda history: history.executed.append((KEY, "id-2", 8)),
    "was executed, and there is no record": lambda history: history.executed.append(("a", "b", 1)),
    "kept; listed: False": lambda history: history.listed.clear(),
    "is running after everything": lambda history: become(history, phase=Phase.RUNNING),
    "is listed 2 times": lambda history: history.listed.append(JOB),
    "was never executed": lambda history: history.executed.clear(),
    "its exit code is 4": ended_in(Outcome.FAILED, code=4),
    "nobody has sent one": ended_in(Outcome.FAILED, signal="KILL"),
    "nobody had asked for that": ended_in(Outcome.STOPPED, signal="TERM", killed_by="admin"),
    "had no timeout": ended_in(Outcome.TIMED_OUT, signal="TERM", timed_out=True),
    "nobody had killed its shim": ended_in(Outcome.LOST, error="gone"),
    "could not be started": ended_in(Outcome.START_FAILED, error="no"),
    "its outcome is oom_killed": ended_in(Outcome.OOM_KILLED, signal="KILL"),
    "7 to 11": items(*ITEMS, Chunk(7, "stdout", "t", b"two!")),
    "it ended at 8 of 11": items(*ITEMS),
    "it has no end": items(*ITEMS, REST, end=False),
    "its output has gaps": items(*ITEMS, Gap(8, 11, "no space")),
    "2 agree": items(Chunk(0, "stdout", "t", b"onE "), ITEMS[1], REST),
    "differ from those read later": follow_first(
        Followed(
            4,
            [Chunk(4, "stderr", "t", b"oops"), Chunk(8, "stdout", "t", b"twO")],
            End(11, None, JOB),
        )
    ),
    "follow 0: internal": follow_first(Followed(0, error=JobsError("internal", "no"))),
    "says Output(total=11": lambda history: become(
        history, output=Output(total=11, stdout=8, stderr=3)
    ),
    "again answered with job id-2": tell(Call("again", evolve(JOB, id="id-2"))),
    "its end changed": tell(Call("wait", evolve(JOB, finished_at="then"))),
    "wait answered while it was running": tell(Call("wait", evolve(JOB, phase=Phase.RUNNING))),
    "kill answered while it was running": tell(Call("kill", evolve(JOB, phase=Phase.RUNNING))),
    "cannot be inspected": lambda history: setattr(history.told[KEY], "final", None),
    "refused: ": lambda history: setattr(
        history.told[KEY], "refused", JobsError("internal", "broken")
    ),
}


SECOND = "id-2"


def and_another(*, start=30, end=40, owner="admin", **told):
    """Add a second, sound job; times in seconds, those of the first are 10 and 20."""

    def change(history):
        at = "2026-01-01T00:00:{:02}.000000Z".format
        job = evolve(JOB, id=SECOND, owner=owner, started_at=at(start), finished_at=at(end))
        whole = Followed(0, [*ITEMS, REST], End(11, job.exit, job))
        work = evolve(WORK, key="j2")
        history.told["j2"] = Told(
            work, owner, "r2", job=job, follows=[whole], final=job, **{**SOON, **told}
        )
        history.listed.append(job)
        history.executed.append(("j2", SECOND, 9))

    return change


MINUTE = datetime.fromisoformat("2026-01-01T00:00:00Z").timestamp()
SOON = {"asked_at": MINUTE + 7, "answered_at": MINUTE + 8}


def settings(change=and_another(), **values):  # noqa: B008  # gives a function that holds nothing
    """Have the supervisor's settings be these, and another job."""

    def both(history):
        first = history.told[KEY]
        first.asked_at, first.answered_at = MINUTE + 5, MINUTE + 6
        for name, value in values.items():
            setattr(history, name, value)
        change(history)

    return both


def refuse_for_the_queue(history):
    and_another()(history)
    told = history.told["j2"]
    told.refused, told.job, told.final = JobsError("resource_exhausted", "full"), None, None
    history.listed.pop()
    history.executed.pop()


WRONG |= {
    "2 jobs of all owners ran at once": settings(and_another(start=19), max_running=1),
    "2 jobs of admin ran at once": settings(and_another(start=19), max_running_per_owner=1),
    "(talks, id-2) was started before": settings(and_another(start=2, end=5), max_running=1),
    "2 jobs waited at once": settings(max_queued=0, max_running=1),
    "is to be kept; listed: False": settings(lambda history: history.listed.clear(), kept=1),
    "is to be gone; listed: True": settings(kept=1),
    "refused: full": settings(refuse_for_the_queue, max_queued=2),
    "has no end time": lambda history: become(history, finished_at=None),
}


TEN = Gap(0, 5000, "over --output-max")
CAPPED = evolve(WORK, stdout=b"0123456789" * 1000, stderr=b"", cap=5000)


def capped(*what, policy="keep-tail", total=10_000, retained_from=5000, cap=5000, **changes):
    """Have the job's output be under a cap, and followed so."""

    def change(history):
        output = Output(total=total, stdout=total, retained_from=retained_from)
        become(history, output=output, limits=Limits(output_max_bytes=cap))
        history.told[KEY].work = evolve(CAPPED, policy=policy, **changes)
        items(*what)(history)
        history.told[KEY].follows[0].end = End(total, JOB.exit, history.told[KEY].final)

    return change


def kept(first, past):
    return Chunk(first, "stdout", "t", CAPPED.stdout[first:past])


WRONG |= {
    "at 5002 is a byte": capped(TEN, Chunk(5000, "stdout", "t", b"01x" + bytes(4997))),
    "6000 bytes are kept": capped(Gap(0, 4000, ""), kept(4000, 10_000), retained_from=4000),
    "500 bytes are kept of": capped(Gap(0, 9500, ""), kept(9500, 10_000), retained_from=9500),
    "its gaps are": capped(kept(0, 5000), Gap(5000, 10_000, "")),
    "it is to keep-head": capped(TEN, kept(5000, 10_000), policy="keep-head"),
    "it was to wait": capped(kept(0, 5000), Gap(5000, 10_000, ""), policy="block"),
    "9000 bytes of output": capped(Gap(0, 4000, ""), kept(4000, 9000), total=9000),
    "its cap is 6000": capped(TEN, kept(5000, 10_000), cap=6000),
    "asked for were [5000, 7000]": lambda history: (
        tell(Call("update", JOB))(history),
        capped(TEN, kept(5000, 10_000), raised=7000)(history),
    ),
}


@pytest.mark.parametrize(
    "change",
    [
        capped(TEN, kept(5000, 10_000)),
        capped(kept(0, 5000), Gap(5000, 10_000, ""), policy="keep-head", retained_from=0),
        settings(max_running=1, max_running_per_owner=1, max_queued=1),
        settings(and_another(start=19), max_running=2, max_running_per_owner=2),
        settings(and_another(start=19, owner="alice"), max_running_per_owner=1),
        settings(and_another(start=2, end=5, priority=1), max_running=1),
        settings(and_another(start=2, end=5, asked_at=MINUTE, answered_at=MINUTE), max_running=1),
        settings(and_another(start=30, end=3), max_running=1),  # its clock was set back
        settings(refuse_for_the_queue, max_queued=1),
    ],
)
def test_what_the_settings_allow_is_sound(change):
    history = sound()
    change(history)
    assert checker.violations(history) == []


def test_of_jobs_that_have_ended_the_newest_are_kept():
    history = sound()
    settings(kept=1)(history)
    history.listed.pop(0)
    assert checker.violations(history) == []


def test_a_sound_history_is_sound():
    assert checker.violations(sound()) == []


@pytest.mark.parametrize("says", WRONG)
def test_a_broken_promise_is_found(says):
    history = sound()
    WRONG[says](history)
    assert any(says in violation for violation in checker.violations(history))


@pytest.mark.parametrize("role", ["shim", "launcher", "init"])
def test_a_job_whose_shim_was_killed_may_be_lost_with_the_beginning_of_its_output(role):
    history = sound()
    become(history, outcome=Outcome.LOST, exit=Exit(error="gone"), output=Output(total=4))
    items(ITEMS[0])(history)
    history.kills.append(Kill(role, job=ID))
    assert checker.violations(history) == []


def test_a_shim_that_died_before_the_launch_is_no_reason_to_be_lost():
    history = sound()
    ended_in(Outcome.LOST, error="gone")(history)
    history.kills.append(Kill("launcher", "launcher.locked", ID))
    assert any("was lost" in violation for violation in checker.violations(history))


@pytest.mark.parametrize(
    ("data", "sound_it_is"), [(b"oo", True), (b"one oo", True), (b"ox", False)]
)
def test_what_a_dead_shim_had_not_indexed_may_be_stderr_whatever_it_counts_as(data, sound_it_is):
    history = sound()
    size = len(data)
    become(history, outcome=Outcome.LOST, exit=Exit(error="gone"), output=Output(total=size))
    items(Chunk(0, "stdout", "t", data))(history)
    history.told[KEY].follows[0].end = End(size, Exit(error="gone"), history.told[KEY].final)
    history.kills.append(Kill("shim", job=ID))
    assert (checker.violations(history) == []) is sound_it_is

"""Judges a history. It knows what was asked, what was answered and what was killed; nothing of how.

Each check gives sentences; none means that all is as it was promised.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import permutations

from history import Followed, History, Told

from jobs_proto.files import BLOCK, KEEP_TAIL
from jobs_proto.job import Job
from jobs_rpc import Chunk, Gap

GRAIN = 4096
"""Under a cap, space is given back by blocks of so many bytes."""

UNLAUNCHED = ("launcher.locked", "launcher.before-identity")
"""Where one can die and its job is not lost: there is no identity yet, it is launched again."""

OF_A_JOB = ("shim", "launcher", "init")


def violations(history: History) -> list[str]:
    """Give everything that must not be."""
    if history.cut_short:
        return [*history.faults, *_at_most_once(history)]
    found = [*history.faults, *_at_most_once(history), *_known(history), *_queue(history)]
    for told in history.told.values():
        if told.refused is not None:
            found += _refusal(history, told)
        elif told.job is not None:
            found += [f"{_name(told)}: {fault}" for fault in _job(history, told)]
    return found


def _name(told: Told) -> str:
    return f"{told.work.key} ({told.work.kind}, {told.job.id if told.job else 'never taken on'})"


# -- all jobs ------------------------------------------------------------------------------------


def _at_most_once(history: History) -> Iterator[str]:
    for (key, job), times in Counter((key, job) for key, job, _ in history.executed).items():
        if times > 1:
            yield f"{key}: job {job} was executed {times} times"
    for key, times in Counter(key for key, _, _ in history.executed).items():
        if len({job for other, job, _ in history.executed if other == key}) > 1:
            yield f"{key}: one request was executed as {times} jobs"


def _known(history: History) -> Iterator[str]:
    listed = {job.id: job for job in history.listed}
    gone = _forgotten(history) | {
        told.job.id for told in history.told.values() if told.job is not None and told.removed
    }
    for job, times in Counter(job.id for job in history.listed).items():
        if times > 1:
            yield f"job {job} is listed {times} times"
    for key, job, _pid in history.executed:
        if job not in listed and job not in gone:
            yield f"{key}: job {job} was executed, and there is no record of it"
    for told in history.told.values():
        if told.job is not None and (told.job.id in gone) == (told.job.id in listed):
            there = told.job.id in listed
            yield f"{_name(told)}: it is to be {'gone' if there else 'kept'}; listed: {there}"
    for job in history.listed:
        if job.phase != "exited":
            yield f"job {job.id} is {job.phase} after everything had ended"


def _forgotten(history: History) -> set[str]:
    """Give the jobs that are not to be kept: all but those that have ended last."""
    ended = [t.final for t in history.told.values() if t.final is not None and not t.removed]
    newest_first = sorted(ended, key=lambda job: job.finished_at or "", reverse=True)
    return {job.id for job in newest_first[history.kept :]} if history.kept is not None else set()


def _refusal(history: History, told: Told) -> Iterator[str]:
    allowed = {"unavailable", *history.refusals_allowed}
    others = [t for t in history.told.values() if 0 < t.asked_at < told.answered_at]
    if len(others) > history.max_queued:  # itself is one
        allowed.add("resource_exhausted")
    if told.refused.code not in allowed:
        yield f"{_name(told)}: refused: {told.refused}"
    if told.refused.code != "unavailable" and any(
        key == told.work.key for key, _, _ in history.executed
    ):
        yield f"{_name(told)}: it was refused, and executed all the same"


# -- the queue -----------------------------------------------------------------------------------


def _queue(history: History) -> Iterator[str]:
    finals = [(told, told.final) for told in history.told.values()]
    ran = [told for told, job in finals if job and job.started_at and job.finished_at]
    yield from _crowd("all owners", ran, history.max_running)
    for owner in {told.owner for told in ran}:
        own = [told for told in ran if told.owner == owner]
        yield from _crowd(owner, own, history.max_running_per_owner)
        if 1 in (history.max_running, history.max_running_per_owner):
            yield from _order(own)
    yield from _waiting(history, ran)


def _crowd(who: str, ran: list[Told], cap: int) -> Iterator[str]:
    """So many at most run at once. An end comes before a start of the same moment."""
    changes = []
    for told in ran:
        first, last = told.final.started_at, told.final.finished_at
        if first <= last:  # else a clock was set back between the two
            changes += [(first, 1), (last, -1)]
    running = most = 0
    for _time, change in sorted(changes):
        running += change
        most = max(most, running)
    if most > cap:
        yield f"{most} jobs of {who} ran at once, and only {cap} may"


def _order(ran: list[Told]) -> Iterator[str]:
    """One after the other: who had asked before the other did, and is no less urgent, is first."""
    for first, second in permutations(ran, 2):
        before = first.answered_at < second.asked_at and first.priority >= second.priority
        if before and second.final.started_at < first.final.started_at:
            yield f"{_name(second)} was started before {_name(first)}, which was asked for earlier"


def _waiting(history: History, ran: list[Told]) -> Iterator[str]:
    """Those that were taken on and had not started: the queue, and what was just being launched."""
    most = history.max_queued + history.max_running
    for told in ran:
        now = told.answered_at
        count = sum(t.answered_at <= now < _seconds(t.final.started_at) for t in ran)
        if count > most:
            yield f"{count} jobs waited at once, and only {most} may"
            return


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()


# -- one job -------------------------------------------------------------------------------------


def _job(history: History, told: Told) -> Iterator[str]:
    job = told.final
    if job is None:
        yield "it cannot be inspected at the end"
        return
    if job.finished_at is None:
        yield "it has ended, and has no end time"
    yield from _answers(told, job)
    yield from _outcome(history, told, job)
    yield from _evidence(history, told, job)
    yield from _output(history, told, job)


def _answers(told: Told, job: Job) -> Iterator[str]:
    for call in told.calls:
        if not isinstance(call.answer, Job):
            continue
        if call.answer.id != job.id:
            yield f"{call.what} answered with job {call.answer.id}"
        if call.answer.phase == "exited" and call.answer != job:
            yield f"its end changed after {call.what} had answered with it: {call.answer} → {job}"
        if call.what == "wait" and call.answer.phase != "exited":
            yield f"wait answered while it was {call.answer.phase}"
        if call.what == "kill" and call.answer.phase not in ("stopping", "exited"):
            yield f"kill answered while it was {call.answer.phase}"


def _outcome(history: History, told: Told, job: Job) -> Iterator[str]:
    check = _OUTCOMES.get(job.outcome, _no_outcome)
    yield from check(told, job, _killed(history, job))


def _killed(history: History, job: Job) -> set[str]:
    """Give the roles of those of a job's processes whose death must be its end."""
    return {
        kill.role
        for kill in history.kills
        if kill.job == job.id and kill.role in OF_A_JOB and kill.point not in UNLAUNCHED
    }


def _no_outcome(_told: Told, job: Job, _killed: set[str]) -> Iterator[str]:
    yield f"its outcome is {job.outcome}"


def _own_end(told: Told, job: Job, killed: set[str]) -> Iterator[str]:
    if job.exit.code is None:
        if "init" not in killed:
            yield f"signal {job.exit.signal} ended it, and nobody has sent one"
        return
    if job.exit.code != told.work.code:
        yield f"its exit code is {job.exit.code}, and it can only be {told.work.code}"
    if (job.exit.code == 0) != (job.outcome == "completed"):
        yield f"it {job.outcome} with {job.exit.code}"


def _stopped(told: Told, job: Job, _killed: set[str]) -> Iterator[str]:
    if not told.asked("kill"):
        yield "it was stopped, and nobody had asked for that"
    if job.exit.killed_by != told.owner:
        yield f"it was stopped by {job.exit.killed_by}, and only {told.owner} asked"


def _timed_out(told: Told, _job: Job, _killed: set[str]) -> Iterator[str]:
    if told.work.timeout_s is None:
        yield "it timed out, and had no timeout"


def _lost(_told: Told, job: Job, killed: set[str]) -> Iterator[str]:
    if not killed:
        yield f"it was lost, and nobody had killed its shim or init: {job.exit.error}"


def _start_failed(told: Told, job: Job, killed: set[str]) -> Iterator[str]:
    if told.work.starts and not killed & {"init", "launcher"}:
        yield f"it could not be started: {job.exit.error}"


_OUTCOMES = {
    "completed": _own_end,
    "failed": _own_end,
    "stopped": _stopped,
    "timed_out": _timed_out,
    "lost": _lost,
    "start_failed": _start_failed,
}


def _evidence(history: History, told: Told, job: Job) -> Iterator[str]:
    times = sum(key == told.work.key for key, _, _ in history.executed)
    if not times and job.exit.code is not None and job.outcome != "start_failed":
        yield f"it {job.outcome} with {job.exit.code}, and was never executed"
    if times and job.outcome == "start_failed":
        yield "it could not be started, and was executed all the same"
    if times and job.started_at is None and job.outcome != "lost":
        yield "it was executed, and has no start time"


# -- output --------------------------------------------------------------------------------------


def _output(history: History, told: Told, job: Job) -> Iterator[str]:
    whole = told.follows[-1]  # begun after the end, from the start
    for number, followed in enumerate(told.follows):
        yield from (f"follow {number}: {fault}" for fault in _sequence(followed))
        if followed.end is not None and followed.end.job != job:
            yield f"follow {number}: it ended with {followed.end.job}, and the job is {job}"
        check = _same(followed, whole) if told.work.cap is None else _placed(told, followed)
        yield from (f"follow {number}: {fault}" for fault in check)
    if whole.end is None:
        return
    if whole.end.total != job.output.total:
        yield f"follow gave {whole.end.total} bytes, and the job has {job.output.total}"
    gaps = [item for item in whole.items if isinstance(item, Gap)]
    if told.work.cap is not None:
        yield from _capped(history, told, job, gaps)
        return
    if gaps and not history.gaps_allowed:
        yield f"its output has gaps: {gaps}"
    if not gaps:
        yield from _bytes(told, job, whole)


def _placed(told: Told, followed: Followed) -> Iterator[str]:
    """Whatever is dropped, and when: a byte that is given is the one that was written there."""
    for item in followed.items:
        first, past = _span(item)
        if isinstance(item, Chunk) and item.data != told.work.stdout[first:past]:
            agree = _common(item.data, told.work.stdout[first:past])
            yield f"at {first + agree} is a byte that it has not written there"


def _capped(history: History, told: Told, job: Job, gaps: list[Gap]) -> Iterator[str]:
    """What is kept under a cap: the end, the beginning, or all, as its policy says."""
    work, total = told.work, job.output.total
    caps = [work.cap, work.raised] if told.asked("update") and work.raised else [work.cap]
    if job.exit.code is not None and total != len(work.stdout):
        yield f"{total} bytes of output, and it wrote {len(work.stdout)}"
    if job.limits.output_max_bytes not in caps or (
        any(call.what == "update" and isinstance(call.answer, Job) for call in told.calls)
        and job.limits.output_max_bytes != work.raised
    ):
        yield f"its cap is {job.limits.output_max_bytes}; asked for were {caps}"
    if history.gaps_allowed:
        return
    if gaps and work.policy == BLOCK and job.exit.code is not None:
        yield f"it was to wait, and its output has gaps: {gaps}"
    kept = total - sum(gap.to - gap.from_ for gap in gaps)
    if kept > max(caps):
        yield f"{kept} bytes are kept, and its cap is {max(caps)}"
    if kept < min(total, min(caps) - GRAIN) and job.outcome != "lost":
        yield f"{kept} bytes are kept of {total}, and its cap is {min(caps)}"
    at_head = (0, job.output.retained_from)
    tail = work.policy == KEEP_TAIL
    if gaps and len(caps) == 1 and [_span(g) for g in gaps] != [at_head if tail else (kept, total)]:
        yield f"its gaps are {gaps}, and it is to {work.policy} ({job.output})"


def _sequence(followed: Followed) -> Iterator[str]:
    """Every byte once, in order, and then the end."""
    if followed.error is not None:
        yield f"{followed.error.code}: {followed.error}"
        return
    if followed.end is None:
        yield "it has no end"
        return
    at = followed.start
    for item in followed.items:
        first, past = _span(item)
        if first != at or past < first:
            yield f"at {at} came bytes {first} to {past}"
        at = past
    if at != max(followed.start, followed.end.total) and followed.items:
        yield f"it ended at {at} of {followed.end.total}"


def _span(item: Chunk | Gap) -> tuple[int, int]:
    if isinstance(item, Gap):
        return item.from_, item.to
    return item.offset, item.offset + len(item.data)


def _same(followed: Followed, whole: Followed) -> Iterator[str]:
    """What one follower got is what every other got, byte for byte."""
    content = _flat(whole)
    got = _flat(followed)
    if followed.end is not None and content[followed.start :] != got:
        where = next(
            (
                n
                for n, (a, b) in enumerate(zip(content[followed.start :], got, strict=False))
                if a != b
            ),
            min(len(got), len(content) - followed.start),
        )
        yield f"{len(got)} bytes from {followed.start} differ from those read later, at +{where}"


def _flat(followed: Followed) -> bytes:
    """Give the bytes by offset; a gap's are zeros."""
    return b"".join(
        item.data if isinstance(item, Chunk) else bytes(item.to - item.from_)
        for item in followed.items
    )


def _stream(followed: Followed, name: str) -> bytes:
    return b"".join(
        item.data for item in followed.items if isinstance(item, Chunk) and item.stream == name
    )


def _bytes(told: Told, job: Job, whole: Followed) -> Iterator[str]:
    """What was kept is what was written: all of it, or its beginning if the job was cut short."""
    work = told.work
    out, err = _stream(whole, "stdout"), _stream(whole, "stderr")
    if job.outcome == "lost":
        # What its shim had not indexed yet counts as stdout, whichever it was: so its end may be
        # what comes next in stderr, from any place up to which it agrees with stdout.
        common, rest = _common(out, work.stdout), work.stderr[len(err) :]
        if not any(rest.startswith(out[place:]) for place in range(common + 1)):
            yield f"{len(out)} bytes of stdout are none that it wrote, from {common} on"
        if not work.stderr.startswith(err):
            yield "its stderr is none that it wrote"
        return
    own_end = job.exit.code is not None and job.outcome in ("completed", "failed")
    for name, got, wrote in (("stdout", out, work.stdout), ("stderr", err, work.stderr)):
        if own_end and got != wrote:
            agree = _common(got, wrote)
            yield f"{len(got)} bytes of {name}, and it wrote {len(wrote)}: {agree} agree"
        elif not wrote.startswith(got):
            agree = _common(got, wrote)
            yield f"{len(got)} bytes of {name} are none that it wrote, from {agree} on"
    counts = (job.output.total, job.output.stdout, job.output.stderr, job.output.lost)
    if counts != (len(out) + len(err), len(out), len(err), 0):
        yield f"it has {len(out)} + {len(err)} bytes of output, and says {job.output}"


def _common(a: bytes, b: bytes) -> int:
    """Give how many bytes at the start are the same: by bisection, as C compares."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low

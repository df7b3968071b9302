"""How much of everything is measured: in earnest, or just to see that the harness works."""

from attrs import frozen


@frozen(kw_only=True)
class Scale:
    """The sizes of one run.

    Attributes:
        rounds: samples of each contestant that is quick to sample.
        bulk_rounds: samples of each that moves much data or runs many jobs.
        warm_ups: launches of each contestant that are not counted; of all else there is one.
        shells: clients at once, of `throughput`.
        per_shell: jobs that each of them runs in one sample.
        sleepers: running jobs, of `job-memory`.
        output_mb: MB that `follow` and `write` move in one sample.
        followers: of one job, at once.
        paced_s: seconds for which that job writes.
        lines: that the job of `latency` writes.
        records: finished jobs in the store, of `requests`.
        requests: that each of its clients makes in one sample.
        crowd: jobs that run at once, in steps.
        crowd_rounds: launches and restarts beside each step of them.
        idle_s: seconds for which CPU time is counted.
    """

    rounds: int
    bulk_rounds: int
    warm_ups: int
    shells: int = 32
    per_shell: int
    sleepers: int
    output_mb: int
    followers: int
    paced_s: float
    lines: int
    records: int
    requests: int
    crowd: tuple[int, ...]
    crowd_rounds: int
    idle_s: float


FULL = Scale(
    rounds=40,
    bulk_rounds=5,
    warm_ups=3,
    per_shell=4,
    sleepers=100,
    output_mb=2000,
    followers=100,
    paced_s=5.0,
    lines=500,
    records=10_000,
    requests=100,
    crowd=(10, 100, 1000),
    crowd_rounds=20,
    idle_s=10.0,
)

SMOKE = Scale(
    rounds=2,
    bulk_rounds=1,
    warm_ups=1,
    shells=3,
    per_shell=1,
    sleepers=2,
    output_mb=4,
    followers=3,
    paced_s=0.3,
    lines=10,
    records=50,
    requests=3,
    crowd=(1, 2, 4),
    crowd_rounds=2,
    idle_s=0.2,
)

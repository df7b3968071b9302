"""What is measured, and what it should come to: data, for the runner, the report and the plot."""

from attrs import frozen

OURS = "jobs"
"""The name of our own contestant where there are others."""

KINDS = ("at most", "at least")


@frozen(kw_only=True)
class Figure:
    """One thing that is measured, of several contestants perhaps.

    Attributes:
        key: names it in JSON, and on the command line.
        title: what it is.
        unit: of its values.
        group: the measuring function of `GROUPS` in `bench.py` that gives it.
    """

    key: str
    title: str
    unit: str
    group: str


@frozen(kw_only=True)
class Goal:
    """What a figure should come to.

    Attributes:
        figure: its key.
        kind: one of `KINDS`.
        bound: the limit, in the figure's unit; with `of`, so many times that one's value.
        of: the contestant of the same figure that it is a multiple of; None: an absolute bound.
        contestant: whose value it is about.
        statistic: which of `Summary`'s.
        wish: wanted, and not promised.
    """

    figure: str
    kind: str
    bound: float
    of: str | None = None
    contestant: str = OURS
    statistic: str = "median"
    wish: bool = False


FIGURES = (
    Figure(key="launch", title="run /bin/true until its exit is known", unit="ms", group="launch"),
    Figure(key="throughput", title="jobs from 32 at once", unit="jobs/s", group="throughput"),
    Figure(key="job-memory", title="PSS of a running job's monitor", unit="MB", group="job-memory"),
    Figure(key="follow", title="follow what is written already", unit="MB/s", group="follow"),
    Figure(key="write", title="a job that writes zeros, unfollowed", unit="MB/s", group="write"),
    Figure(
        key="write-lines", title="a job that writes lines, unfollowed", unit="MB/s", group="write"
    ),
    Figure(
        key="followers-complete", title="followers that got every byte", unit="%", group="followers"
    ),
    Figure(key="followers-write", title="the followed job's pace", unit="MB/s", group="followers"),
    Figure(
        key="followers-lag", title="written until followed, by many", unit="ms", group="followers"
    ),
    Figure(key="latency", title="written until followed, by one", unit="ms", group="latency"),
    Figure(key="requests", title="requests from 8 connections", unit="1/s", group="requests"),
    Figure(key="answers", title="request until answer, 8 connections", unit="ms", group="requests"),
    Figure(key="growth-launch", title="a launch, while others run", unit="ms", group="crowd"),
    Figure(
        key="growth-memory", title="PSS of an idle job's monitor, of many", unit="MB", group="crowd"
    ),
    Figure(
        key="supervisor-memory",
        title="PSS of the supervisor, less 20 kB for each job that runs",
        unit="MB",
        group="crowd",
    ),
    Figure(key="idle", title="CPU of idle jobs", unit="% of a core", group="crowd"),
    Figure(key="serving", title="supervisor's start until it answers", unit="s", group="crowd"),
    Figure(key="reattach", title="its start until it has its shims", unit="s", group="crowd"),
)

WRITES = ("write", "write-lines")

REQUESTS = ("list", "inspect", "whoami")
"""The methods that are to be quick whatever there is on record."""

FEW, MANY = "few run", "many run"
SUPERVISOR, SHIMS = "supervisor", "shims"
UNFOLLOWED = "unfollowed"

GOALS = (
    Goal(figure="launch", kind="at most", bound=2.5, of="bwrap"),
    Goal(figure="launch", kind="at most", bound=2.0, of="bwrap", wish=True),
    Goal(figure="launch", kind="at most", bound=1 / 3, of="runc"),
    Goal(figure="launch", kind="at most", bound=1 / 10, of="ctr"),
    Goal(figure="throughput", kind="at least", bound=8, of="ctr"),
    Goal(figure="throughput", kind="at least", bound=0.5, of="bwrap"),
    Goal(figure="job-memory", kind="at most", bound=1.0),
    Goal(figure="job-memory", kind="at most", bound=0.5, wish=True),
    Goal(figure="supervisor-memory", kind="at most", bound=60, contestant=SUPERVISOR),
    Goal(figure="follow", kind="at least", bound=0.5, of="TLS alone"),
    *(Goal(figure=f, kind="at least", bound=4, of="conmon") for f in WRITES),
    *(Goal(figure=f, kind="at least", bound=0.6, of="splice alone") for f in WRITES),
    Goal(figure="followers-complete", kind="at least", bound=100),
    Goal(figure="followers-write", kind="at least", bound=0.95, of=UNFOLLOWED),
    Goal(figure="followers-lag", kind="at most", bound=100, statistic="p99"),
    Goal(figure="latency", kind="at most", bound=2),
    Goal(figure="latency", kind="at most", bound=10, statistic="p99"),
    Goal(figure="serving", kind="at most", bound=1, contestant=SUPERVISOR),
    Goal(figure="reattach", kind="at most", bound=3, contestant=SUPERVISOR),
    *(Goal(figure="requests", kind="at least", bound=2000, contestant=m) for m in REQUESTS),
    *(
        Goal(figure="answers", kind="at most", bound=5, contestant=m, statistic="p99")
        for m in REQUESTS
    ),
    Goal(figure="idle", kind="at most", bound=0.5, contestant=SUPERVISOR),
    Goal(figure="idle", kind="at most", bound=0, contestant=SHIMS),
    Goal(figure="growth-launch", kind="at most", bound=1.1, of=FEW, contestant=MANY),
    Goal(figure="growth-memory", kind="at most", bound=1.1, of=FEW, contestant=MANY),
)

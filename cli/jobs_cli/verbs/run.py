"""`jobsctl run`."""

from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from jobs_cli import output
from jobs_cli.endpoint import DEFAULT, Endpoint
from jobs_cli.escape import escape
from jobs_cli.failure import OURS, REFUSED, USAGE, Failure, checking_usage
from jobs_cli.follower import follow_job, wanted_output
from jobs_cli.options import given, options_of
from jobs_cli.pairs import Pairs, as_map
from jobs_cli.session import ask
from jobs_proto import methods
from jobs_proto.isolation import MAX_SECRET, Isolation
from jobs_proto.job import Job, Limits, Spec

if TYPE_CHECKING:
    SpecOptions = Any  # what a class made at run time is to a type checker
    LimitOptions = Any
    IsolationOptions = Any
else:
    SpecOptions = options_of(Spec, skip=frozenset({"argv", "isolation", "limits"}))
    LimitOptions = options_of(Limits, skip=frozenset())
    IsolationOptions = options_of(Isolation, skip=frozenset({"secrets"}))

SHAPE: Final = "NAME=FILE"

Secrets = Annotated[tuple[str, ...], Parameter(metavar=SHAPE)]


def run(
    *command: Annotated[str, Parameter(metavar="COMMAND")],
    follow: Annotated[bool, Parameter(alias="-f")] = False,
    name: Annotated[str | None, Parameter(metavar="NAME")] = None,
    label: Pairs = (),
    priority: Annotated[int, Parameter(metavar="N")] = 0,
    spec: SpecOptions = None,
    limits: LimitOptions = None,
    isolation: IsolationOptions = None,
    secret: Secrets = (),
    dry_run: bool = False,
    json: bool = False,
    endpoint: Endpoint = DEFAULT,
) -> int | None:
    """Start a job and print its id, or follow it.

    From the first word on that is no option, all belongs to the command: nothing of it is taken
    for an option of ours. A `--` before it says so explicitly. There is no shell, unless the
    command is one.

    With --follow, nothing but the job's output is on standard output, and the exit status is the
    job's own; 128+n if signal n ended it; 124 timed out; 126 could not be executed; 127 not
    found; 125 we failed; 130 Ctrl-C, which leaves the job running.

    For example:

        jobsctl run ls -la
        jobsctl run -f --timeout 10m -- make -j4 test
        jobsctl run --memory 512M --cpus 0.5 --pids 100 -- ./build.sh
        jobsctl run --network none --bind /srv/data:/data:ro --secret db=./password -- ./report
        jobsctl run --name nightly --label team=data --env TZ=UTC ./import.sh
        jobsctl run sh -c 'echo $HOME | tr a-z A-Z'

    Args:
        command: the program and its arguments.
        follow: show the job's output until it ends, then exit as it did.
        name: a name for people, which serves as its id where no other job has it.
        label: a label for people and plugins; may be repeated.
        priority: of two waiting jobs, the one with the higher number starts first.
        secret: a file that the job finds as /run/secrets/NAME, and nobody else does; - is standard
            input. May be repeated.
        dry_run: start nothing; print the steps that would set the job up.
        json: print the whole job, as `inspect --json` does, and not just its id.
    """
    if follow and (json or dry_run):
        other = "--json" if json else "--dry-run"
        raise Failure(f"--follow prints the job's output and nothing else; drop {other}", USAGE)
    with checking_usage():
        secrets = _read(secret)
        request = methods.Run(
            spec=_spec(command, spec, limits, isolation, secrets),
            name=name,
            labels=as_map(label, "--label"),
            priority=priority,
            secrets=secrets,
        )
    if dry_run:
        _rehearse(endpoint, request, json=json)
        return None
    job = _start(endpoint, request, follow=follow)
    if follow:
        return follow_job(endpoint, wanted_output(job.id))
    _tell(job, json=json)
    return None


def _start(endpoint: Endpoint, request: methods.Run, *, follow: bool) -> Job:
    """Start the job; say what is to be known of it."""
    job = ask(
        endpoint,
        lambda client: client.run(
            request.spec,
            name=request.name,
            labels=request.labels,
            priority=request.priority,
            secrets=request.secrets,
        ),
        ours=OURS if follow else REFUSED,
        jobs_stderr=follow,
    )
    for note in job.notes:
        output.say(note)
    return job


def _tell(job: Job, *, json: bool) -> None:
    """Print the job, or its id; if neither can be, say that it runs all the same."""
    try:
        if json:
            output.write_job(job)
        else:
            output.write_lines([job.id])
    except Failure as failure:
        raise Failure(f"job {job.id} was started, but {failure.message}", failure.status) from None


def _rehearse(endpoint: Endpoint, request: methods.Run, *, json: bool) -> None:
    """Print the steps that would set the job up."""
    plan = ask(endpoint, lambda client: client.rehearse(request.spec, secrets=request.secrets))
    for note in plan["notes"]:
        output.say(note)
    if json:
        output.write_json(plan["steps"])
    else:
        output.write_lines(escape(f"{step['by']:<7} {step['text']}") for step in plan["steps"])


def _spec(
    command: tuple[str, ...],
    spec: SpecOptions,
    limits: LimitOptions,
    isolation: IsolationOptions,
    secrets: dict[str, bytes],
) -> Spec:
    """Make the spec as the supervisor will, to find here what it would refuse.

    Raises:
        ValueError: something typed is wrong.
    """
    return Spec(
        argv=command,
        limits=Limits(**given(limits)),
        isolation=Isolation(**given(isolation), secrets=tuple(sorted(secrets))),
        **given(spec),
    )


def _read(secrets: tuple[str, ...]) -> dict[str, bytes]:
    """Read the files of `NAME=FILE`.

    Raises:
        ValueError: one cannot be read, or is too large.
    """
    return {name: _content(path) for name, path in as_map(secrets, "--secret", SHAPE).items()}


def _content(path: str) -> bytes:
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            content = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise ValueError(f"cannot read the secret {path}: {error.strerror}") from None
    if len(content) > MAX_SECRET:
        raise ValueError(f"the secret {path} is larger than {MAX_SECRET} bytes")
    return content

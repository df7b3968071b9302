"""The client of a supervisor, for Python programs; `jobsctl` is one of them."""

import builtins
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import trio
from attrs import evolve

from jobs_proto import methods
from jobs_proto.errors import JobsError
from jobs_proto.job import Job, Spec
from jobs_proto.phases import Phase
from jobs_proto.wire import structure, unstructure
from jobs_rpc.config import Settings, load_settings
from jobs_rpc.dialer import Dialer
from jobs_rpc.errors import PeerError
from jobs_rpc.following import ANSWER_S, Following
from jobs_rpc.link import Link
from jobs_rpc.patience import Patience

RECONNECT_S: Final = 300.0
"""How long `wait` and `follow` go on trying to reach a supervisor that was there before."""

RUN_RETRY_S: Final = 30.0
"""How long `run` does."""

T = TypeVar("T")
P = TypeVar("P")


class Client:
    """Calls to one supervisor, as one identity; any number of tasks may use it at once.

    Connects when first needed. A connection that is lost fails the calls that were open on it; the
    next call connects anew.

        async with Client.from_config() as client:
            job = await client.run(["/bin/true"])
            done = await client.wait(job.id)

    Every failure is a `JobsError` whose message is a sentence for a person.

    Args:
        settings: whom to connect to, and as whom.
        reconnect_s: seconds that `wait` and `follow` go on trying after the supervisor was lost.
        told: called with the reason when it is lost and they begin to try.

    Attributes:
        settings: as above.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        reconnect_s: float = RECONNECT_S,
        told: Callable[[Exception], None] | None = None,
    ) -> None:
        self.settings: Final = settings
        self._dialer: Final = Dialer(settings)
        self._reconnect_s: Final = reconnect_s
        self._told: Final = told
        self._dialling: Final = trio.Lock()
        self._link: Link | None = None
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    @classmethod
    def from_config(
        cls,
        *,
        config: str | None = None,
        context: str | None = None,
        server: str | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        reconnect_s: float = RECONNECT_S,
        told: Callable[[Exception], None] | None = None,
    ) -> Self:
        """Make a client from arguments, environment or file; see `jobs_rpc.config`.

        Raises:
            JobsError: something is missing or wrong there.
        """
        settings = load_settings(
            config=config, context=context, server=server, ca=ca, cert=cert, key=key
        )
        return cls(settings, reconnect_s=reconnect_s, told=told)

    async def __aenter__(self) -> Self:
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._nursery is not None
        with trio.CancelScope(shield=True):
            await self._dialer.hang_up_all()
        self._nursery.cancel_scope.cancel()
        try:
            return await self._manager.__aexit__(kind, value, traceback)
        except BaseExceptionGroup as group:
            # Our own tasks raise nothing. That a nursery is in here is not the caller's concern:
            # its exception leaves as it came.
            if group.exceptions == (value,):
                return False
            raise

    # -- calls -------------------------------------------------------------------------------

    async def call(
        self, method: str, params: Mapping[str, object], *, answer_s: float = ANSWER_S
    ) -> Any:
        """Call any method; give its result as it came.

        Args:
            method: as in the protocol.
            params: its parameters: MessagePack types.
            answer_s: seconds to wait for the answer.

        Raises:
            JobsError: refused; or `unavailable`: the connection was lost, or there is no answer.
        """
        link = await self._connected()
        return await link.call(method, dict(params), answer_s)

    async def _connected(self) -> Link:
        if self._nursery is None:
            raise RuntimeError("use a Client within `async with`")
        async with self._dialling:
            if self._link is None or not self._link.usable:
                self._link = Link(await self._dialer.dial(), self._dialer)
                self._nursery.start_soon(self._link.read)
            return self._link

    async def hello(self) -> dict[str, Any]:
        """Ask who answers: `{server, version, protocol}`."""
        return _read_map(await self.call("hello", _params(methods.Hello, client="jobs_rpc")))

    async def whoami(self) -> dict[str, Any]:
        """Ask whom we are taken for: `{identity, roles, groups, bound, fingerprint, not_after}`."""
        return _read_map(await self.call("whoami", {}))

    async def can_i(
        self,
        action: str,
        job_id: str | None = None,
        *,
        identity: str | None = None,
        roles: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Ask what would be decided: `{identity, roles, bound, allow, why, plugin}`.

        Args:
            action: a method's name, or a further action, such as `run_as`.
            job_id: the job, for what is about one.
            identity: whether somebody else may; None: whether we may.
            roles: those in the certificate of `identity`, if it is not bound to others.

        Raises:
            JobsError: `not_found`: no such job, or none that the identity may see.
        """
        params = _params(
            methods.CanI, action=action, id=job_id, identity=identity, roles=tuple(roles)
        )
        return _read_map(await self.call("can_i", params))

    async def policy(self) -> dict[str, Any]:
        """Ask for the rules of who may do what: `{rules: [{role, action, whose}…]}`."""
        return _read_map(await self.call("policy", {}))

    async def plugins(self) -> dict[str, Any]:
        """Ask which plugins are loaded: `{plugins: [{name, origin, hooks}…], order: {hook: …}}`."""
        return _read_map(await self.call("plugins", {}))

    async def run(
        self,
        command: Sequence[str] | Spec,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        request_id: str | None = None,
        secrets: Mapping[str, bytes] | None = None,
        **spec: Any,
    ) -> Job:
        """Start a job; it is on the supervisor's disk when this returns.

        If the answer is lost, the request is made again, for `RUN_RETRY_S`; it starts one job only.

        Args:
            command: the program and its arguments; or a whole `Spec`.
            name: for people.
            priority: of two waiting jobs, the one with the higher number starts first.
            labels: for people and plugins.
            request_id: the same one twice gives the same job; None: a new one.
            secrets: contents of files in the job's /run/secrets, by name.
            spec: further fields of `Spec`, if `command` is not one.
        """
        params = _params(
            methods.Run,
            spec=_naming(_spec(command, spec), secrets or {}),
            name=name,
            labels=dict(labels or {}),
            priority=priority,
            request_id=request_id or str(uuid.uuid4()),
            secrets=dict(secrets or {}),
        )
        return await self._persist(
            Patience(RUN_RETRY_S, self._told), lambda: self._job("run", params)
        )

    async def rehearse(
        self,
        command: Sequence[str] | Spec,
        *,
        secrets: Mapping[str, bytes] | None = None,
        **spec: Any,
    ) -> dict[str, Any]:
        """Ask for the steps that would set a job up, `{steps, notes}`; nothing is started.

        Args:
            command: as for `run`.
            secrets: as for `run`.
            spec: as for `run`.
        """
        wanted = _naming(_spec(command, spec), secrets or {})
        params = _params(methods.Run, spec=wanted, secrets=dict(secrets or {}), dry_run=True)
        return _read_map(await self.call("run", params))

    async def list(
        self,
        *,
        all: bool = False,  # noqa: A002  the method's parameter
        limit: int = 1000,
        own: bool = False,
    ) -> builtins.list[Job]:
        """List the jobs that we may see, newest first; unfinished ones, or all."""
        params = _params(methods.List, all=all, limit=limit, own=own)
        match await self.call("list", params):
            case {"jobs": list(jobs)}:
                return [_read_job(raw, "list") for raw in jobs]
        raise PeerError("internal", "the supervisor answered `list` with something else")

    async def inspect(self, job_id: str) -> Job:
        """Give all that is known of a job, by its id, a start of it, or its name."""
        return await self._job("inspect", _params(methods.OneJob, id=job_id))

    async def wait(self, job_id: str, timeout_s: float | None = None) -> Job:
        """Wait until a job has exited, across lost connections and restarts of the supervisor.

        Args:
            job_id: its id, a start of it, or its name.
            timeout_s: seconds after which the job is given as it is then; None: until it exits.
        """
        _params(methods.Wait, id=job_id, timeout_s=timeout_s)
        deadline = inf if timeout_s is None else trio.current_time() + timeout_s
        patience = Patience(self._reconnect_s if timeout_s is None else timeout_s, self._told)
        at_once = timeout_s is None and _is_id(job_id)

        async def attempt() -> Job:
            nonlocal job_id, at_once
            left_s = inf
            if not at_once:
                job = await self.inspect(job_id)
                patience.succeeded()
                job_id = job.id  # a name may be another's too by the next attempt
                left_s = max(deadline - trio.current_time(), 0.0)
                if job.phase is Phase.EXITED or not left_s:
                    return job
            at_once = False  # if this one is lost, the next is first to find a supervisor again
            params = _params(methods.Wait, id=job_id, timeout_s=None if left_s == inf else left_s)
            return await self._job("wait", params, answer_s=left_s + ANSWER_S)

        return await self._persist(patience, attempt)

    async def kill(self, job_id: str, signal: str = "TERM", grace_s: float = 10.0) -> Job:
        """Have every process of a job die; `wait` for it.

        Args:
            job_id: its id, a start of it, or its name.
            signal: what the leader gets first.
            grace_s: seconds until the rest is killed.
        """
        params = _params(methods.Kill, id=job_id, signal=signal, grace_s=grace_s)
        return await self._job("kill", params)

    async def signal(self, job_id: str, signal: str) -> Job:
        """Deliver one signal to a job's leader and its process group."""
        return await self._job("signal", _params(methods.Signal, id=job_id, signal=signal))

    async def remove(self, job_id: str) -> None:
        """Forget a job that has ended, with its output."""
        await self.call("remove", _params(methods.OneJob, id=job_id))

    async def pause(self, job_id: str) -> Job:
        """Freeze every process of a job; give it paused."""
        return await self._job("pause", _params(methods.OneJob, id=job_id))

    async def resume(self, job_id: str) -> Job:
        """Let a paused job go on; give it running."""
        return await self._job("resume", _params(methods.OneJob, id=job_id))

    async def update(
        self,
        job_id: str,
        *,
        output_max_bytes: int | None = None,
        timeout_s: float | None = None,
    ) -> Job:
        """Change limits of a job that has not ended; give it as it is then.

        Args:
            job_id: its id, a start of it, or its name.
            output_max_bytes: bytes of output that are kept from now on; None: as before.
            timeout_s: seconds from its start after which it is killed; None: as before.
        """
        params = _params(
            methods.Update, id=job_id, output_max_bytes=output_max_bytes, timeout_s=timeout_s
        )
        return await self._job("update", params)

    def follow(
        self,
        job_id: str,
        *,
        start: int = 0,
        stream: str | None = None,
        wait: bool = True,
        timestamps: bool = False,
    ) -> Following:
        """Give a job's output, every byte once and in order, then its `End`; `async for` over it.

        It has a connection of its own, and makes new ones as needed, across restarts of the
        supervisor, until `reconnect_s` have passed without any success.

        Args:
            job_id: its id, a start of it, or its name.
            start: the first offset wanted.
            stream: `stdout` or `stderr`; None: both.
            wait: until the job has exited; False: what there is now.
            timestamps: chunks as they were written, each with its time.
        """
        wanted = _make(
            methods.Follow, id=job_id, start=start, stream=stream, wait=wait, timestamps=timestamps
        )
        return Following(self._dialer, wanted, self._reconnect_s, self._told)

    # -- parts of them -----------------------------------------------------------------------

    async def _job(
        self, method: str, params: Mapping[str, object], *, answer_s: float = ANSWER_S
    ) -> Job:
        return _read_job(await self.call(method, params, answer_s=answer_s), method)

    async def _persist(self, patience: Patience, attempt: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await attempt()
            except JobsError as error:
                if not self._dialer.worth_retrying(error):
                    raise
                await patience.pause(error)


def _is_id(text: str) -> bool:
    """Whether this names one job for ever, as a name or the start of an id does not."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _make(cls: type[P], **fields: object) -> P:
    try:
        return cls(**fields)
    except ValueError as error:
        raise JobsError("invalid_argument", str(error)) from None


def _params(cls: type[object], **fields: object) -> dict[str, Any]:
    return unstructure(_make(cls, **fields))


def _spec(command: Sequence[str] | Spec, fields: Mapping[str, Any]) -> Spec:
    if isinstance(command, Spec):
        if fields:
            raise TypeError(f"a Spec is given, and besides: {', '.join(fields)}")
        return command
    if isinstance(command, str):
        raise TypeError('a command is a sequence: ["ls", "-l"], not "ls -l"')
    return _make(Spec, argv=tuple(command), **fields)


def _naming(spec: Spec, secrets: Mapping[str, bytes]) -> Spec:
    """Let a spec name the secrets that are sent beside it."""
    if not secrets:
        return spec
    names = tuple(sorted({*spec.isolation.secrets, *secrets}))
    try:
        return evolve(spec, isolation=evolve(spec.isolation, secrets=names))
    except ValueError as error:
        raise JobsError("invalid_argument", str(error)) from None


def _read_job(raw: object, method: str) -> Job:
    try:
        return structure(raw, Job, f"the answer to `{method}`")
    except JobsError as error:
        raise PeerError(
            "internal", f"the supervisor speaks of jobs otherwise than this client: {error.message}"
        ) from None


def _read_map(raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise PeerError("internal", f"the supervisor answered with no map: {raw!r:.200}")
    return raw

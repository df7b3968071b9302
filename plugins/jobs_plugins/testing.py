"""For authors of plugins: try one as the supervisor would, without root, certificates or a job.

What is tried goes through the supervisor's own manager: a plugin that would stop the supervisor
raises `PluginError`, and one that raises or hangs denies. The methods are asynchronous, for trio:
with pytest-trio a test is an `async def`. Nothing here needs pytest.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from jobs_plugins.decision import Decision
from jobs_plugins.event import JobEvent, Kind
from jobs_plugins.events import Events
from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import DECIDE_S, Plugins
from jobs_plugins.sources import PluginError
from jobs_proto.identity import CLIENT_AUTH, Identity, PeerCertificate
from jobs_proto.job import Job, Limits, Spec
from jobs_proto.tightest import tightest

if TYPE_CHECKING:
    from jobs_plugins.hook import Failure

NAME: Final = "tried"
"""The name of the plugin that is tried."""

_FINGERPRINT = "0" * 64
_LONG_AGO, _LATER = "2020-01-01T00:00:00.000000Z", "2099-01-01T00:00:00.000000Z"


def make_identity(name: str, *roles: str) -> Identity:
    """Make an identity."""
    return Identity(name=name, roles=roles, fingerprint=_FINGERPRINT, not_after=_LATER)


def make_certificate(common_name: str | None = "alice", **fields: Any) -> PeerCertificate:
    """Make what is known of a client's certificate; `fields` are `PeerCertificate`'s."""
    made: dict[str, Any] = {
        "serial": 1,
        "fingerprint": _FINGERPRINT,
        "not_before": _LONG_AGO,
        "not_after": _LATER,
        "extended_key_usages": (CLIENT_AUTH,),
    }
    return PeerCertificate(common_name=common_name, **(made | fields))


def make_spec(*argv: str, **fields: Any) -> Spec:
    """Make a spec; `fields` are `Spec`'s."""
    return Spec(argv=argv or ("true",), **fields)


def make_job(*argv: str, owner: str = "alice", **fields: Any) -> Job:
    """Make a job that was just taken on; `fields` are `Job`'s, which may replace the spec."""
    made: dict[str, Any] = {
        "id": "00000000-0000-4000-8000-000000000000",
        "spec": make_spec(*argv),
        "created_at": "2026-01-02T03:04:05.678901Z",
    }
    return Job(owner=owner, **(made | fields))


def make_event(kind: str | Kind, job: Job | None = None) -> JobEvent:
    """Make an event; of a removed job it has no more than the id."""
    about = job or make_job()
    kind = Kind(kind)
    kept = None if kind is Kind.REMOVED else about
    return JobEvent(kind=kind, job_id=about.id, time=about.created_at, job=kept)


class TriedPlugin:
    """A plugin beside the built-in ones, as in a supervisor.

    Args:
        plugin: the module or object that has the hooks.
        settings: what `[plugins.config.NAME]` would have; None: there is no such table.
        decide_s: the deadline of its decisions.

    Attributes:
        failures: what it did wrong, in the order in which it did.

    Raises:
        PluginError: the supervisor would not start with it.
    """

    def __init__(
        self,
        plugin: object,
        *,
        settings: Mapping[str, Any] | None = None,
        decide_s: float = DECIDE_S,
    ) -> None:
        self.failures: list[Failure] = []
        config = {} if settings is None else {NAME: settings}
        self._manager = make_manager([(NAME, plugin)], load=False, config=config)
        self._plugins = Plugins(self._manager, decide_s=decide_s, failed=self.failures.append)

    async def identify(self, certificate: PeerCertificate) -> Identity:
        """Say who bears a certificate.

        Raises:
            JobsError: it is refused.
        """
        return await self._plugins.identify(certificate)

    async def decide(
        self, identity: Identity, action: str, job: Job | None = None, request: object = None
    ) -> Decision:
        """Decide as the supervisor would, the built-in roles included."""
        return await self._plugins.decide(identity, action, request, job)

    async def limit(self, identity: Identity, spec: Spec) -> Limits:
        """Give the limits that a job would get on a host that can enforce all.

        Raises:
            JobsError: it is refused.
        """
        imposed = await self._plugins.limit(identity, spec)
        return tightest(spec.limits, *(limits for _, limits in imposed))

    async def tell(self, *events: JobEvent) -> None:
        """Tell it some events; return when it was told all of them."""
        told = Events(self._manager, failed=self.failures.append)
        for event in events:
            told.publish(event)
        told.close()
        await told.run()


def refused_settings(plugin: object, settings: Mapping[str, Any]) -> str:
    """Give the sentence with which a supervisor would stop for these settings.

    Raises:
        AssertionError: it would not.
    """
    try:
        TriedPlugin(plugin, settings=settings)
    except PluginError as error:
        return str(error)
    raise AssertionError(f"the plugin takes the settings {settings}")

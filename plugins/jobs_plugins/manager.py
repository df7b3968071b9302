"""Loading plugins, and asking them.

The order, and why:

1. The specification comes first, so that each plugin is checked against it as it is registered.
2. The built-ins are registered next, as ordinary plugins: what they do, any plugin can do.
3. Then the entry points of group `jobs`, by name: the same order on every host.
4. What pluggy would let pass in silence is refused while the supervisor starts, not found out when
   a decision is wrong: a hook without its mark, with a name or parameter that is not in the
   specification, with defaults (pluggy never fills such a parameter), a coroutine, a wrapper.

Decisions are not made by calling `manager.hook.jobs_authorize`. That stops at the first exception
and gives a bare list of results; here each plugin is called by itself, so that one's exception
cannot hide another's deny, and each answer bears the name of the plugin that gave it. No order of
the plugins can change whether something is allowed: one deny (or failure) outweighs everything.
Wrappers are refused for the same reason: one could turn another plugin's deny into an allow.

Synchronous on purpose: a decision is made at one moment, and nothing can change in the middle.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import pluggy
from attrs import frozen

from jobs_plugins import identity as identity_plugin
from jobs_plugins import roles as roles_plugin
from jobs_plugins import spec
from jobs_plugins.verdict import Allow, Deny, Verdict
from jobs_proto.errors import JobsError
from jobs_proto.identity import Identity, PeerCertificate
from jobs_proto.job import Job

GROUP: Final = "jobs"
"""The entry points' group."""

BUILT_IN: Final = (("jobs.identity", identity_plugin), ("jobs.roles", roles_plugin))


class PluginError(Exception):
    """A plugin cannot be used; says which, and why."""


@frozen(kw_only=True)
class Failure:
    """A plugin's own mistake: for the log, with its traceback, and not for the caller.

    Attributes:
        plugin: whose it is.
        error: what it raised, or a `TypeError` about what it answered.
    """

    plugin: str
    error: BaseException


@frozen(kw_only=True)
class Decision:
    """Whether somebody may, and who said so.

    Attributes:
        allow: they may.
        why: the deciding plugin's words; fit for the caller to see.
        plugin: the one that decided; None if no plugin said anything.
        failures: the plugins that failed while they were asked; each denies.
    """

    allow: bool
    why: str
    plugin: str | None
    failures: tuple[Failure, ...] = ()


def make_manager(
    plugins: Iterable[tuple[str, object]] = (), *, load: bool = True
) -> pluggy.PluginManager:
    """Make the plugin manager: the built-ins, those installed, and `plugins`.

    Args:
        plugins: more of them, each with its name.
        load: load the installed ones (entry points of group `jobs`).

    Raises:
        PluginError: one cannot be loaded or does not fit the specification.
    """
    manager = pluggy.PluginManager(spec.PROJECT)
    manager.add_hookspecs(spec)
    for name, plugin in (*BUILT_IN, *(_installed() if load else ()), *plugins):
        _register(manager, name, plugin)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        name = manager.get_name(error.plugin)
        raise PluginError(
            f"The plugin {name} cannot be used: {error}; the hooks are in jobs_plugins/spec.py."
        ) from error
    return manager


def _installed() -> Iterator[tuple[str, object]]:
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        yield entry.name, _load(entry)


def _load(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"The plugin {entry.name} ({entry.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}. Repair or uninstall it."
        ) from error


def _register(manager: pluggy.PluginManager, name: str, plugin: object) -> None:
    fault = _fault(manager, plugin)
    if fault:
        raise PluginError(f"The plugin {name} cannot be used: {fault}.")
    try:
        manager.register(plugin, name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise PluginError(f"The plugin {name} cannot be used: {error}") from error


def _fault(manager: pluggy.PluginManager, plugin: object) -> str | None:
    """Find what pluggy would accept and then not do; a sentence without its end, or None."""
    if inspect.isclass(plugin):
        return "it is a class; name an object of it, or a module"
    marked = {name: manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
    for name, options in marked.items():
        if options is not None:
            fault = _hook_fault(getattr(plugin, name), options)
        else:
            forgotten = name.startswith("jobs_") and inspect.isroutine(getattr(plugin, name))
            fault = "is not marked with @hookimpl, and would never be called" if forgotten else None
        if fault:
            return f"{name} {fault}"
    return None if any(marked.values()) else "it implements no hook"


def _hook_fault(function: Callable[..., object], options: pluggy.HookimplOpts) -> str | None:
    if options["wrapper"] or options["hookwrapper"]:
        return "is a wrapper, which could undo what other plugins decide"
    if inspect.iscoroutinefunction(function):
        return "is a coroutine function; hooks are ordinary functions"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            return f"takes {parameter}; name the parameters it needs, without * and /"
        if parameter.default is not parameter.empty:
            return f"gives {parameter.name} a default, and would always be called with that"
    return None


def identify(manager: pluggy.PluginManager, certificate: PeerCertificate) -> Identity:
    """Ask the plugins who bears a certificate; the first answer counts.

    Raises:
        JobsError: `permission_denied`, with a sentence for the peer. If a plugin failed, that is
            its `__cause__`, for the log.
    """
    for implementation in _in_call_order(manager.hook.jobs_identify):
        name = implementation.plugin_name
        try:
            answer = _call(implementation, {"certificate": certificate})
        except JobsError:
            raise
        except (Exception, SystemExit) as error:
            raise _failed_to_identify(name) from error
        if isinstance(answer, Identity):
            return answer
        if answer is not None:
            raise _failed_to_identify(name) from _no_answer(name, answer)
    raise JobsError("permission_denied", "No plugin knows who bears this certificate.")


def _failed_to_identify(plugin: str) -> JobsError:
    return JobsError(
        "permission_denied",
        f"The plugin {plugin} failed while it was asked who bears this certificate; the reason is "
        "in the supervisor's log.",
    )


def decide(
    manager: pluggy.PluginManager,
    identity: Identity,
    action: str,
    request: object,
    job: Job | None,
) -> Decision:
    """Ask every plugin whether `identity` may; nothing but an allow that nobody opposes is one.

    Never raises for what a plugin does. Of several that deny, the one called first is named.
    """
    arguments = {"identity": identity, "action": action, "request": request, "job": job}
    allows: list[tuple[str, Verdict]] = []
    denials: list[tuple[str, Verdict]] = []
    failures: list[Failure] = []
    for implementation in _in_call_order(manager.hook.jobs_authorize):
        name = implementation.plugin_name
        try:
            match _call(implementation, arguments):
                case None:
                    pass
                case Deny() as deny:
                    denials.append((name, deny))
                case Allow() as allow:
                    allows.append((name, allow))
                case other:
                    raise _no_answer(name, other)
        # SystemExit too: a plugin's sys.exit() must not end the supervisor.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - kept in failures, for the log
            denials.append((name, Deny(f"the plugin {name} failed while it was asked")))
            failures.append(Failure(plugin=name, error=error))
    for name, verdict in (*denials, *allows):  # a deny before any allow
        return Decision(
            allow=isinstance(verdict, Allow), why=verdict.why, plugin=name, failures=tuple(failures)
        )
    return Decision(allow=False, why=f"nothing allows {identity.name} to {action}", plugin=None)


def _no_answer(plugin: str, answer: object) -> TypeError:
    # Its class only: its repr is the plugin's code too, and could raise or say secrets.
    return TypeError(f"the plugin {plugin} answered with a {type(answer).__name__}")


def _in_call_order(hook: pluggy.HookCaller) -> list[pluggy.HookImpl]:
    return list(reversed(hook.get_hookimpls()))  # pluggy keeps them last first


def _call(implementation: pluggy.HookImpl, arguments: dict[str, object]) -> object:
    return implementation.function(*(arguments[name] for name in implementation.argnames))

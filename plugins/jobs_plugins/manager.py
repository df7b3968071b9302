"""Loading plugins.

The order, and why:

1. The specification comes first, so that each plugin is checked against it as it is registered.
2. The built-ins are registered next, as ordinary plugins: what they do, any plugin can do.
3. Then the entry points of group `jobs`, by name: the same order on every host.
4. What pluggy would let pass in silence is refused while the supervisor starts, not found out when
   a decision is wrong: a hook without its mark, with a name or parameter that is not in the
   specification, with defaults (pluggy never fills such a parameter), a generator, a wrapper.

Wrappers are refused because one could turn another plugin's deny into an allow.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Final

import pluggy

from jobs_plugins import identity as identity_plugin
from jobs_plugins import roles as roles_plugin
from jobs_plugins import spec
from jobs_plugins.hook import OURS

GROUP: Final = "jobs"
"""The entry points' group."""

BUILT_IN: Final = (("jobs.identity", identity_plugin), ("jobs.roles", roles_plugin))


class PluginError(Exception):
    """A plugin cannot be used; says which, and why."""


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
        if entry.name.startswith(OURS):
            raise PluginError(
                f"The plugin {entry.name} ({entry.value}) cannot be used: names that start with "
                f"{OURS!r} are the built-ins'. Uninstall it, or have its author rename it."
            )
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
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "is a generator; answer with return, not yield"
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            return f"takes {parameter}; name the parameters it needs, without * and /"
        if parameter.default is not parameter.empty:
            return f"gives {parameter.name} a default, and would always be called with that"
    return None

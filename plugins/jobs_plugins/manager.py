"""Loading plugins.

The order, and why:

1. The specification comes first, so that each plugin is checked against it as it is registered.
2. The built-ins are registered next, as ordinary plugins: what they do, any plugin can do.
3. Then the entry points of group `jobs`, then the files of the plugins directory, each by name:
   the same order on every host.
4. Each plugin is handed its settings, when all are there.
5. What pluggy would let pass in silence is refused while the supervisor starts, not found out when
   a decision is wrong: a hook without its mark, with a name or parameter that is not in the
   specification, with defaults (pluggy never fills such a parameter), a generator, a wrapper.

Wrappers are refused because one could turn another plugin's deny into an allow.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pluggy

from jobs_plugins import identity as identity_plugin
from jobs_plugins import spec
from jobs_plugins.hook import OURS
from jobs_plugins.policy import Policy
from jobs_plugins.roles import Roles
from jobs_plugins.sources import (
    CLI_GROUP,
    PluginError,
    Source,
    in_directory,
    installed,
    telling_slow,
)


class Manager(pluggy.PluginManager):
    """Pluggy's, which also knows where each plugin came from.

    Attributes:
        origins: of each plugin, by its name.
    """

    def __init__(self) -> None:
        super().__init__(spec.PROJECT)
        self.add_hookspecs(spec)
        self.origins: dict[str, str] = {}

    def describe(self) -> dict[str, object]:
        """Give what is loaded, from where, with which hooks, in which order: for `plugins`."""
        order = dict(self.in_order())
        return {
            "plugins": [
                {
                    "name": name,
                    "origin": origin,
                    "hooks": [hook for hook, names in order.items() if name in names],
                }
                for name, origin in self.origins.items()
            ],
            "order": order,
        }

    def in_order(self) -> Iterator[tuple[str, list[str]]]:
        """Give each hook that a plugin has, and their names, in the order in which it is called."""
        for name in hook_names():
            hook: pluggy.HookCaller = getattr(self.hook, name)
            if found := hook.get_hookimpls():
                yield name, [each.plugin_name for each in reversed(found)]


def hook_names() -> list[str]:
    """Give the name of every hook."""
    return [name for name in dir(spec) if name.startswith("jobs_")]


def make_manager(
    plugins: Iterable[tuple[str, object]] = (),
    *,
    load: bool = True,
    roles: Roles | None = None,
    directory: Path | None = None,
    disabled: Iterable[str] = (),
    config: Mapping[str, Mapping[str, Any]] | None = None,
    slow: Callable[[str], None] = lambda _plugin: None,
) -> Manager:
    """Make the plugin manager: the built-ins, those installed, those of a directory, and `plugins`.

    Args:
        plugins: more of them, each with its name.
        load: load the installed ones (entry points of group `jobs`).
        roles: the built-in `jobs.roles`, for whoever means to change its policy.
        directory: whose `*.py` files are plugins.
        disabled: names of plugins that are not loaded.
        config: settings, by the names of the plugins that they are for.
        slow: is told the name of each one that takes more than `SLOW_S` to load or to take its
            settings, in another thread: neither can be cut, but who waits should know for whom.

    Raises:
        PluginError: one cannot be loaded, does not fit the specification, or refuses its settings.
    """
    manager = Manager()
    built_in = (("jobs.identity", identity_plugin), ("jobs.roles", roles or Roles(Policy())))
    sources = [
        *_given(built_in, "built-in"),
        *(installed() if load else ()),
        *(in_directory(directory) if directory else ()),
        *_given(plugins, "given"),
    ]
    names = [source.name for source in sources]
    if unknown := set(disabled) - set(names):
        raise PluginError(f"No such plugin can be disabled: {_these(unknown, names)}")
    for source in sources[len(built_in) :]:
        if source.name.startswith(OURS):
            raise PluginError(
                f"The plugin {source.name} ({source.origin}) cannot be used: names that start with "
                f"{OURS!r} are the built-ins'. Rename or remove it."
            )
    for source in sources:
        if source.name not in disabled:
            with telling_slow(source.name, slow):
                plugin = source.load()
            _register(manager, source.name, plugin)
            manager.origins[source.name] = source.origin
    _configure(manager, config or {}, slow)
    return manager


def _given(plugins: Iterable[tuple[str, object]], origin: str) -> Iterator[Source]:
    for name, plugin in plugins:
        yield Source(name=name, origin=origin, load=partial(_same, plugin))


def _same(plugin: object) -> object:
    return plugin


def _these(unknown: Iterable[str], known: Iterable[str]) -> str:
    return f"{', '.join(sorted(unknown))}; there are: {', '.join(known) or 'none'}."


def _configure(
    manager: Manager, config: Mapping[str, Mapping[str, Any]], slow: Callable[[str], None]
) -> None:
    """Hand each plugin that takes any its settings."""
    hooks = {each.plugin_name: each for each in manager.hook.jobs_configure.get_hookimpls()}
    if unwanted := set(config) - set(hooks):
        raise PluginError(
            f"No plugin takes the settings [plugins.config] has for {_these(unwanted, hooks)}"
        )
    for name, hook in hooks.items():
        try:
            with telling_slow(name, slow):
                hook.function(*[config.get(name, {})] * len(hook.argnames))
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"The plugin {name} refuses its settings, [plugins.config.{name}]: {error}"
            ) from error


def _register(manager: Manager, name: str, plugin: object) -> None:
    if fault := _twice(manager, name, plugin) or _fault(manager, plugin):
        raise PluginError(f"The plugin {name} cannot be used: {fault}.")
    manager.register(plugin, name)


def _twice(manager: Manager, name: str, plugin: object) -> str | None:
    if manager.has_plugin(name):
        return "there is another one of this name"
    if manager.is_registered(plugin):
        return f"it is the same as {manager.get_name(plugin)}"
    return None


def _fault(manager: Manager, plugin: object) -> str | None:
    """Find what pluggy would accept and then not do; a sentence without its end, or None."""
    if inspect.isclass(plugin):
        return "it is a class; name an object of it, or a module"
    marked = {name: manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)}
    for name, options in marked.items():
        if options is not None:
            hook = options["specname"] or name
            fault = _hook_fault(manager, hook, getattr(plugin, name), options)
        else:
            forgotten = name.startswith("jobs_") and inspect.isroutine(getattr(plugin, name))
            fault = "is not marked with @hookimpl, and would never be called" if forgotten else None
        if fault:
            return f"{name} {fault}"
    return None if any(marked.values()) else "it implements no hook"


def _hook_fault(
    manager: Manager, name: str, function: Callable[..., object], options: pluggy.HookimplOpts
) -> str | None:
    hook: pluggy.HookCaller | None = getattr(manager.hook, name, None)
    if hook is None or hook.spec is None:
        return f"is no hook; there are: {', '.join(hook_names())}"
    if name == "jobs_cli":
        return f"is for jobsctl: name it in the entry-point group {CLI_GROUP}, by itself"
    if name == "jobs_configure" and inspect.iscoroutinefunction(function):
        return "is a coroutine function; it is called before anything runs"
    if options["wrapper"] or options["hookwrapper"]:
        return "is a wrapper, which could undo what other plugins decide"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "is a generator; answer with return, not yield"
    return _parameter_fault(function, hook.spec.argnames)


def _parameter_fault(function: Callable[..., object], known: Sequence[str]) -> str | None:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.POSITIONAL_OR_KEYWORD:
            return f"takes {parameter}; name the parameters it needs, without * and /"
        if parameter.default is not parameter.empty:
            return f"gives {parameter.name} a default, and would always be called with that"
        if parameter.name not in known:
            return (
                f"wants {parameter.name!r}, which it is not given; it may take: {', '.join(known)}"
            )
    return None

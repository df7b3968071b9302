"""Where plugins come from: entry points of what is installed, and files in a directory.

A source is looked at before it is loaded, so that a plugin that is disabled is never imported. What
is in the directory runs with the supervisor's rights: nobody but root and the supervisor's user may
be able to write there, or to put another directory in its place.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Timer
from typing import Final

from attrs import frozen

GROUP: Final = "jobs"
"""The entry points' group of plugins for the supervisor."""

CLI_GROUP: Final = "jobs.cli"
"""That of plugins for `jobsctl`: another one, so that neither imports what is the other's."""


SLOW_S: Final = 5.0
"""Seconds to load a plugin in which nobody wonders yet."""


class PluginError(Exception):
    """A plugin cannot be used; says which, and why."""


@frozen(kw_only=True)
class Source:
    """A plugin that could be loaded.

    Attributes:
        name: the plugin's.
        origin: for people: `built-in`, a distribution with its version, or a file.
        load: gives the plugin.
    """

    name: str
    origin: str
    load: Callable[[], object]


@contextmanager
def telling_slow(plugin: str, told: Callable[[str], None]) -> Iterator[None]:
    """Have somebody told if what is done within, to load a plugin, takes more than `SLOW_S`.

    Args:
        plugin: its name.
        told: called with it, in another thread, once.
    """
    timer = Timer(SLOW_S, told, [plugin])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def installed(group: str = GROUP) -> Iterator[Source]:
    """Give what is installed, by name: the same order on every host."""
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        yield Source(name=entry.name, origin=origin, load=partial(_load_entry, entry))


def _load_entry(entry: EntryPoint) -> object:
    with _refusing(f"{entry.name} ({entry.value})", "Repair or uninstall it."):
        return entry.load()


def in_directory(directory: Path) -> Iterator[Source]:
    """Give the `*.py` files of a directory, by name; hidden ones are none.

    Raises:
        PluginError: there is no such directory, or others could write there.
    """
    _refuse_writable(directory)
    for path in sorted(directory.glob("*.py")):
        if not path.name.startswith("."):
            _refuse_writable(path)
            yield Source(name=path.stem, origin=str(path), load=partial(_load_file, path))


def _load_file(path: Path) -> object:
    name = f"jobs_plugins_directory_{path.stem}"
    spec = spec_from_file_location(name, path)
    assert spec is not None, "it ends with .py"
    assert spec.loader is not None, "and so has a loader"
    module = module_from_spec(spec)
    sys.modules[name] = module  # as `import` would: attrs and pickle look a class's module up
    with _refusing(f"{path.stem} ({path})", "Repair or remove it."):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _refusing(plugin: str, advice: str) -> Iterator[None]:
    """Make one sentence of whatever a plugin raises as it is loaded."""
    try:
        yield
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        raise PluginError(
            f"The plugin {plugin} cannot be loaded: {type(error).__name__}: {words}. {advice}"
        ) from error


def _refuse_writable(path: Path) -> None:
    try:
        real = path.resolve(strict=True)
        for each in (real, *real.parents):
            _refuse_one(path, each, each.stat())
    except OSError as error:
        raise PluginError(f"Plugins cannot be loaded from {path}: {error.strerror}.") from None


def _refuse_one(path: Path, each: Path, info: os.stat_result) -> None:
    owners = {0, os.geteuid()}
    if info.st_uid not in owners:
        raise PluginError(
            f"Plugins are not loaded from {path}: {each} belongs to the user with the number "
            f"{info.st_uid}, who could change them. Give it to root."
        )
    sticky = stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX and each != path
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        raise PluginError(
            f"Plugins are not loaded from {path}: others than its owner can write to {each}. "
            f"chmod go-w {each}"
        )

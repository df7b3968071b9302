"""Loading plugins: what does not fit is refused by name, with its reason; the author's guide."""

import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

from jobs_plugins import Allow, hookimpl
from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import Plugins
from jobs_plugins.sources import PluginError
from jobs_proto.identity import Identity
from jobs_proto.job import Job, Spec

ROOT = Path(__file__).parents[2]


class Misnamed:
    @hookimpl
    def jobs_autorize(self, action):
        return None


class WrongParameter:
    @hookimpl
    def jobs_authorize(self, user):
        return None


class Unmarked:
    def jobs_authorize(self, action):
        return None


class Wrapper:
    @hookimpl(wrapper=True)
    def jobs_authorize(self, action):
        yield
        return [Allow("all")]


class HiddenWrapper:
    @hookimpl(specname="jobs_authorize", wrapper=True)
    def quietly(self, action):
        yield
        return [Allow("all")]


class Generator:
    @hookimpl
    def jobs_authorize(self, action):
        yield Allow("later")


class AsyncGenerator:
    @hookimpl
    async def jobs_authorize(self, action):
        yield Allow("later")


class ForTheCli:
    @hookimpl
    def jobs_cli(self, app):
        pass


class ConfiguredLater:
    @hookimpl
    async def jobs_configure(self, settings):
        pass


class Default:
    @hookimpl
    def jobs_authorize(self, action, job=None):
        return None


class Starred:
    @hookimpl
    def jobs_authorize(self, **arguments):
        return None


class Fine:
    @hookimpl
    def jobs_authorize(self, action):
        return None


class Empty:
    pass


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        (Misnamed(), "jobs_autorize is no hook; there are: jobs_authorize, jobs_cli"),
        (WrongParameter(), "wants 'user', which it is not given; it may take: identity, action"),
        (Unmarked(), "not marked with @hookimpl"),
        (Wrapper(), "is a wrapper"),
        (HiddenWrapper(), "quietly is a wrapper"),
        (Generator(), "is a generator"),
        (AsyncGenerator(), "is a generator"),
        (ForTheCli(), "jobs\\.cli, by itself"),
        (ConfiguredLater(), "coroutine"),
        (Default(), "gives job a default"),
        (Starred(), "takes \\*\\*arguments"),
        (Fine, "is a class"),
        (Empty(), "implements no hook"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plugins_that_do_not_fit(plugin, why):
    with pytest.raises(PluginError, match=why) as caught:
        make_manager([("guilty", plugin)], load=False)
    assert str(caught.value).startswith("The plugin guilty cannot be used: ")
    assert "\n" not in str(caught.value)


def test_a_plugin_twice():
    plugin = Fine()
    with pytest.raises(PluginError, match=r"The plugin two .*: it is the same as one\."):
        make_manager([("one", plugin), ("two", plugin)], load=False)


def test_a_name_twice():
    with pytest.raises(PluginError, match=r"The plugin one .*: there is another one of this name"):
        make_manager([("one", Fine()), ("one", Fine())], load=False)


def test_a_built_ins_name_is_not_to_be_had(install):
    install("pretender", "", {"jobs.pretender": "pretender"})
    with pytest.raises(PluginError, match=r"names that start with 'jobs\.'"):
        make_manager()


def test_the_built_ins_are_ordinary_plugins():
    names = [name for name, _ in make_manager(load=False).list_name_plugin()]
    assert names == ["jobs.identity", "jobs.roles"]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a module with its entry points, as a wheel would leave them."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(module, source, entries):
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
        (info / "entry_points.txt").write_text(f"[jobs]\n{lines}")

    return install


@pytest.mark.parametrize(
    ("source", "entry", "why"),
    [
        ("import nowhere_at_all", "broken_plugin", "ModuleNotFoundError: No module named 'nowhere"),
        ("1 / 0", "broken_plugin", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "broken_plugin", "SystemExit: 3"),
        ("", "broken_plugin:missing", "AttributeError"),
        ("", "broken_plugin", "implements no hook"),
    ],
)
def test_a_plugin_that_cannot_be_loaded(install, monkeypatch, source, entry, why):
    monkeypatch.delitem(__import__("sys").modules, "broken_plugin", raising=False)
    install("broken_plugin", source, {"guilty": entry})
    with pytest.raises(PluginError, match=re.escape(why)) as caught:
        make_manager()
    assert "guilty" in str(caught.value)


def fenced(language):
    text = (ROOT / "plugins" / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


async def test_the_authors_guide_is_true(install):
    """The README's example, installed as it says, decides what it says; its test passes."""
    (source, test), (project,) = fenced("python"), map(tomllib.loads, fenced("toml"))
    assert len(source.splitlines()) < 40
    entries = project["project"]["entry-points"]["jobs"]
    install("jobs_protected", source, entries)
    manager = make_manager()
    assert entries.keys() <= manager.origins.keys()
    assert manager.origins["protected"] == "jobs_protected 1.0"
    who = Identity(name="me", roles=["operator"], fingerprint="", not_after="")
    job = Job(
        id="0", owner="me", spec=Spec(argv=("x",)), created_at="", labels={"protected": "yes"}
    )
    refused = await Plugins(manager).decide(who, "kill", None, job)
    assert (refused.allow, refused.plugin) == (False, "protected")
    assert "ask an admin" in refused.why

    tests = {}
    exec(compile(test, "plugins/README.md", "exec"), tests)
    await tests["test_a_protected_job_is_killed_by_admins_only"]()


LOGGER = """
from jobs_plugins import hookimpl

seen = []

@hookimpl
def jobs_configure(settings):
    seen.append(dict(settings))
    if "wrong" in settings:
        raise ValueError("wrong is not a setting")

@hookimpl
def jobs_event(event):
    pass
"""


@pytest.fixture
def directory(tmp_path):
    made = tmp_path / "plugins"
    made.mkdir(mode=0o755)
    return made


def write(directory, name, source):
    path = directory / name
    path.write_text(source)
    path.chmod(0o644)
    return path


def test_files_are_loaded_in_the_order_of_their_names(directory):
    paths = [write(directory, f"{name}.py", LOGGER) for name in ("20-b", "10-a")]
    write(directory, "notes.txt", "")
    write(directory, ".#20-b.py", "1 / 0")  # an editor's
    manager = make_manager(load=False, directory=directory)
    assert list(manager.origins) == ["jobs.identity", "jobs.roles", "10-a", "20-b"]
    assert manager.origins["20-b"] == str(paths[0])
    assert dict(manager.in_order())["jobs_event"] == ["20-b", "10-a"]
    assert manager.describe()["plugins"][0] == {
        "name": "jobs.identity",
        "origin": "built-in",
        "hooks": ["jobs_identify"],
    }


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_file_that_others_can_write_is_refused(directory, mode):
    path = write(directory, "mine.py", LOGGER)
    path.chmod(mode)
    with pytest.raises(PluginError, match=f"chmod go-w {path}"):
        make_manager(load=False, directory=directory)


def test_a_directory_that_others_can_write_is_refused(directory):
    directory.chmod(0o777)
    with pytest.raises(PluginError, match=f"chmod go-w {directory}"):
        make_manager(load=False, directory=directory)
    directory.chmod(0o1777)  # in which they could not replace a file, but add one
    with pytest.raises(PluginError, match=f"chmod go-w {directory}"):
        make_manager(load=False, directory=directory)
    directory.chmod(0o755)
    directory.parent.chmod(0o777)
    with pytest.raises(PluginError, match=f"chmod go-w {directory.parent}"):
        make_manager(load=False, directory=directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_file_of_somebody_else_is_refused(directory):
    path = write(directory, "theirs.py", LOGGER)
    os.chown(path, 12345, -1)
    with pytest.raises(PluginError, match="12345, who could change them"):
        make_manager(load=False, directory=directory)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(PluginError, match=r"cannot be loaded from .*: No such file"):
        make_manager(load=False, directory=tmp_path / "nowhere")


def test_a_file_that_cannot_be_loaded_is_named(directory):
    path = write(directory, "broken.py", "import nowhere_at_all")
    with pytest.raises(PluginError, match="nowhere_at_all") as caught:
        make_manager(load=False, directory=directory)
    assert str(path) in str(caught.value)


def test_what_is_disabled_is_not_even_imported(directory, install):
    write(directory, "broken.py", "1 / 0")
    install("broken_too", "1 / 0", {"too": "broken_too"})
    manager = make_manager(directory=directory, disabled=["broken", "too", "jobs.roles"])
    assert set(manager.origins) & {"broken", "too", "jobs.roles"} == set()


def test_a_name_to_disable_that_nobody_bears(directory):
    with pytest.raises(
        PluginError, match=r"disabled: role; there are: jobs\.identity, jobs\.roles"
    ):
        make_manager(load=False, disabled=["role"])


def test_settings_where_no_plugin_takes_any():
    with pytest.raises(PluginError, match="for c; there are: none"):
        make_manager(load=False, config={"c": {}})


def test_settings_reach_their_plugin(directory):
    write(directory, "a.py", LOGGER)
    write(directory, "b.py", LOGGER)
    manager = make_manager(load=False, directory=directory, config={"b": {"x": [1]}})
    assert manager.get_plugin("a").seen == [{}]
    assert manager.get_plugin("b").seen == [{"x": [1]}]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"a": {"wrong": 1}}, "The plugin a refuses its settings, .*: wrong is not a setting"),
        ({"c": {}}, "settings .* for c; there are: a"),
        ({"jobs.roles": {}}, r"settings .* for jobs\.roles; there are: a"),
    ],
)
def test_settings_that_nobody_takes(directory, config, why):
    write(directory, "a.py", LOGGER)
    with pytest.raises(PluginError, match=why):
        make_manager(load=False, directory=directory, config=config)


SLOW = """
from threading import Event
from jobs_plugins import hookimpl

go = Event()

@hookimpl
def jobs_configure(settings):
    assert go.wait(60)

@hookimpl
def jobs_event(event):
    pass
"""


def test_a_plugin_that_the_start_waits_for_is_named(directory, monkeypatch):
    """It goes on once it was told of: so the test ends only if it is, and before it is loaded."""
    monkeypatch.setattr("jobs_plugins.sources.SLOW_S", 0.01)
    write(directory, "slow.py", SLOW)
    told = []

    def tell(plugin):
        told.append(plugin)
        for name, module in list(sys.modules.items()):
            if name == "jobs_plugins_directory_slow" and hasattr(module, "go"):
                module.go.set()

    make_manager(load=False, directory=directory, slow=tell)
    assert set(told) == {"slow"}


def test_a_quick_plugin_is_not_told_of(directory):
    write(directory, "quick.py", LOGGER)
    told = []
    make_manager(load=False, directory=directory, slow=told.append)
    assert told == []

"""Loading plugins: what does not fit is refused by name, with its reason; the author's guide."""

import re
import tomllib
from pathlib import Path

import pytest

from jobs_plugins import Allow, hookimpl
from jobs_plugins.manager import PluginError, make_manager
from jobs_plugins.plugins import Plugins
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
        (Misnamed(), "jobs_autorize"),
        (WrongParameter(), "user"),
        (Unmarked(), "not marked with @hookimpl"),
        (Wrapper(), "is a wrapper"),
        (HiddenWrapper(), "quietly is a wrapper"),
        (Generator(), "is a generator"),
        (AsyncGenerator(), "is a generator"),
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
    assert "guilty" in str(caught.value)


def test_a_name_twice():
    with pytest.raises(PluginError, match="one"):
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
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return block


async def test_the_authors_guide_is_true(install):
    """The README's example, installed as it says, decides what it says."""
    source, project = fenced("python"), tomllib.loads(fenced("toml"))["project"]
    assert len(source.splitlines()) < 40
    entries = project["entry-points"]["jobs"]
    install("jobs_protected", source, entries)
    manager = make_manager()
    assert set(entries) <= {name for name, _ in manager.list_name_plugin()}

    async def may(role, action, labels):
        who = Identity(name="me", roles=[role], fingerprint="", not_after="")
        job = Job(id="0", owner="me", spec=Spec(argv=("x",)), created_at="", labels=labels)
        return await Plugins(manager).decide(who, action, None, job)

    protected = {"protected": "yes"}
    assert (await may("operator", "kill", {})).allow
    assert (await may("operator", "inspect", protected)).allow
    assert (await may("admin", "kill", protected)).allow
    refused = await may("operator", "kill", protected)
    assert (refused.allow, refused.plugin) == (False, "protected")
    assert "ask an admin" in refused.why

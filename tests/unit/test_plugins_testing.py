"""jobs_plugins.testing: what it shows a plugin's author is what a supervisor would do."""

import pytest

from jobs_plugins import hookimpl
from jobs_plugins.sources import PluginError
from jobs_plugins.testing import (
    TriedPlugin,
    make_certificate,
    make_event,
    make_identity,
    make_job,
    make_spec,
    refused_settings,
)
from jobs_proto.errors import JobsError
from jobs_proto.job import Limits


class Everything:
    def __init__(self):
        self.told = []

    @hookimpl
    def jobs_configure(self, settings):
        self.settings = dict(settings)
        if "wrong" in settings:
            raise ValueError("wrong is not a setting")

    @hookimpl
    def jobs_identify(self, certificate):
        if certificate.common_name == "mallory":
            raise JobsError("permission_denied", "Not her.")

    @hookimpl
    def jobs_authorize(self, action):
        if action == "kill":
            raise RuntimeError("broken")

    @hookimpl
    def jobs_limits(self, spec):
        return Limits(pids=5)

    @hookimpl
    async def jobs_event(self, event):
        self.told.append((event.kind, event.job is None))


async def test_a_plugin_is_tried_as_a_supervisor_would_ask_it():
    mine = Everything()
    tried = TriedPlugin(mine, settings={"a": 1})
    assert mine.settings == {"a": 1}
    assert (await tried.identify(make_certificate("alice"))).name == "alice"
    with pytest.raises(JobsError, match="Not her"):
        await tried.identify(make_certificate("mallory"))
    alice = make_identity("alice", "operator")
    assert (await tried.decide(alice, "inspect", make_job(owner="alice"))).allow
    assert not (await tried.decide(alice, "inspect", make_job(owner="bob"))).allow
    assert tried.failures == []
    assert not (await tried.decide(alice, "kill", make_job(owner="alice"))).allow
    assert [str(failure.error) for failure in tried.failures] == ["broken"]
    assert await tried.limit(alice, make_spec("make", limits=Limits(cpus=1))) == Limits(
        cpus=1, pids=5
    )
    await tried.tell(make_event("queued"), make_event("exited"), make_event("removed"))
    assert mine.told == [("queued", False), ("exited", False), ("removed", True)]


def test_settings_that_are_refused():
    assert "wrong is not a setting" in refused_settings(Everything(), {"wrong": 1})
    with pytest.raises(AssertionError, match="takes the settings"):
        refused_settings(Everything(), {"right": 1})


def test_what_would_stop_the_supervisor_stops_the_test():
    with pytest.raises(PluginError, match="implements no hook"):
        TriedPlugin(object())

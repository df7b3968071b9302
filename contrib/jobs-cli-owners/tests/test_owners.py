"""The counting, and that the module fits."""

import jobs_cli_owners
from cyclopts import App

from jobs_plugins.testing import make_job
from jobs_proto.phases import Phase


def test_those_with_the_most_come_first():
    running, queued = Phase.RUNNING, Phase.QUEUED
    has = [
        ("bob", running),
        ("alice", queued),
        ("eve", running),
        ("alice", running),
        ("eve", queued),
    ]
    jobs = [make_job(owner=owner, phase=phase) for owner, phase in has]
    assert jobs_cli_owners.count(jobs) == [("alice", 1, 1), ("eve", 1, 1), ("bob", 1, 0)]
    assert jobs_cli_owners.count([]) == []


def test_it_adds_its_verb():
    app = App()
    jobs_cli_owners.jobs_cli(app)
    assert "owners" in app

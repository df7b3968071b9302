"""The plugin, with a clock of the test's own, through the manager that the supervisor has."""

from datetime import UTC, datetime

import pytest
from jobs_office_limits import OfficeLimits

from jobs_plugins.testing import TriedPlugin, make_identity, make_spec, refused_settings
from jobs_proto.job import Limits

RULES = """
[hours]
timezone = "Europe/Berlin"
days = ["mon", "tue"]
start = "08:00"
end = "18:00"
limits = { cpus = 2.0, pids = 100 }

[teams.ml]
pids = 50
memory_bytes = 1073741824

[teams.interns]
memory_bytes = 536870912
"""

MONDAY_NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SUNDAY = datetime(2026, 3, 1, 12, tzinfo=UTC)


def tried(path, moment, rules=RULES):
    file = path / "office.toml"
    file.write_text(rules)
    return TriedPlugin(OfficeLimits(lambda: moment), settings={"file": str(file)})


@pytest.mark.parametrize(
    ("roles", "moment", "limits"),
    [
        ([], SUNDAY, Limits()),
        ([], MONDAY_NOON, Limits(cpus=2.0, pids=100)),
        (["ml"], SUNDAY, Limits(pids=50, memory_bytes=1 << 30)),
        (["ml"], MONDAY_NOON, Limits(cpus=2.0, pids=50, memory_bytes=1 << 30)),
        (["interns", "ml"], SUNDAY, Limits(pids=50, memory_bytes=1 << 29)),
    ],
)
async def test_the_tightest_counts(tmp_path, roles, moment, limits):
    plugin = tried(tmp_path, moment)
    assert await plugin.limit(make_identity("me", *roles), make_spec("make")) == limits


async def test_more_was_asked_or_less(tmp_path):
    plugin = tried(tmp_path, MONDAY_NOON)
    spec = make_spec("make", limits=Limits(cpus=8, pids=7))
    assert await plugin.limit(make_identity("me"), spec) == Limits(cpus=2.0, pids=7)


@pytest.mark.parametrize(
    ("hour", "minute", "day", "within"),
    [
        (6, 59, 2, False),  # 07:59 in Berlin, in winter
        (7, 0, 2, True),
        (16, 59, 2, True),
        (17, 0, 2, False),
        (12, 0, 4, False),  # a Wednesday
    ],
)
async def test_the_hours_are_those_of_the_place(tmp_path, hour, minute, day, within):
    plugin = tried(tmp_path, datetime(2026, 3, day, hour, minute, tzinfo=UTC))
    got = await plugin.limit(make_identity("me"), make_spec("make"))
    assert got == (Limits(cpus=2.0, pids=100) if within else Limits())


@pytest.mark.parametrize(
    ("day", "hour", "within"), [(2, 23, True), (3, 3, True), (3, 7, False), (2, 3, False)]
)
async def test_hours_over_midnight(tmp_path, day, hour, within):
    rules = '[hours]\ndays = ["mon"]\nstart = "22:00"\nend = "06:00"\nlimits = { pids = 9 }\n'
    plugin = tried(tmp_path, datetime(2026, 3, day, hour, tzinfo=UTC), rules)
    got = await plugin.limit(make_identity("me"), make_spec("make"))
    assert got == (Limits(pids=9) if within else Limits())


@pytest.mark.parametrize(
    "rules",
    [
        "[hours",
        "[hour]",
        "[hours]\nstart = '8'",
        "[hours]\ndays = ['monday']",
        "[teams.a]\npids = 0",
        "[hours]\ntimezone = 'Europe/Atlantis'",
    ],
)
def test_wrong_rules(tmp_path, rules):
    file = tmp_path / "office.toml"
    file.write_text(rules)
    refused_settings(OfficeLimits(), {"file": str(file)})


def test_no_rules(tmp_path):
    refused_settings(OfficeLimits(), {})
    refused_settings(OfficeLimits(), {"file": str(tmp_path / "nowhere")})

"""A limits plugin: what a job may use while people work, and what each team may use at any time.

The rules are a TOML file, read once, as the supervisor starts. A team is a role of an identity.
"""

import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from attrs import field, frozen

from jobs_plugins import hookimpl
from jobs_proto.identity import Identity
from jobs_proto.job import Limits
from jobs_proto.tightest import tightest
from jobs_proto.wire import structure

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def _time(_hours: object, attribute: Any, text: str) -> None:
    try:
        time.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{attribute.name} is a time of day, such as 08:30, not {text!r}"
        ) from None


def _days(_hours: object, _attribute: object, days: tuple[str, ...]) -> None:
    for day in days:
        if day not in DAYS:
            raise ValueError(f"a day is one of {' '.join(DAYS)}, not {day!r}")


@frozen(kw_only=True)
class Hours:
    """When people work.

    Attributes:
        timezone: as in the tz database: Europe/Berlin.
        days: on which days.
        start: the first moment.
        end: the first moment after; before `start` if it is on the next day.
        limits: of each job that is run then.
    """

    timezone: str = "UTC"
    days: tuple[str, ...] = field(default=DAYS[:5], validator=_days)
    start: str = field(default="08:00", validator=_time)
    end: str = field(default="18:00", validator=_time)
    limits: Limits = field(factory=Limits)

    def __attrs_post_init__(self) -> None:
        """Refuse a time zone that is not there."""
        try:
            ZoneInfo(self.timezone)
        except (OSError, ValueError) as error:
            raise ValueError(f"there is no time zone {self.timezone!r}: {error}") from None

    def cover(self, moment: datetime) -> bool:
        """Whether people work at this moment."""
        here = moment.astimezone(ZoneInfo(self.timezone))
        start, end = time.fromisoformat(self.start), time.fromisoformat(self.end)
        day = here.weekday()
        if end <= start and here.time() < end:
            day -= 1  # it belongs to the evening before
        elif not start <= here.time() < (end if start < end else time.max):
            return False
        return DAYS[day] in self.days


@frozen(kw_only=True)
class Rules:
    """The file.

    Attributes:
        hours: when people work, and what a job gets then.
        teams: for each role, what its jobs get at any time.
    """

    hours: Hours = Hours()
    teams: dict[str, Limits] = field(factory=dict)


@frozen(kw_only=True)
class Settings:
    """`[plugins.config.office]`.

    Attributes:
        file: the rules.
    """

    file: str


class OfficeLimits:
    """The plugin.

    Args:
        now: tells the time.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now().astimezone()) -> None:
        self._now = now
        self._rules = Rules()

    @hookimpl
    def jobs_configure(self, settings: Mapping[str, Any]) -> None:
        """Read the rules.

        Raises:
            JobsError: a setting or a rule is missing, unknown or wrong.
            OSError, TOMLDecodeError: the file cannot be read, or is no TOML.
        """
        path = structure(dict(settings), Settings, "settings").file
        self._rules = structure(tomllib.loads(Path(path).read_text()), Rules, path)

    @hookimpl
    async def jobs_limits(self, identity: Identity) -> Limits | None:
        """Give the tightest of those that hold for this identity now."""
        rules = self._rules
        holding = [rules.teams[role] for role in identity.roles if role in rules.teams]
        if rules.hours.cover(self._now()):
            holding.append(rules.hours.limits)
        return tightest(*holding) if holding else None


plugin = OfficeLimits()

"""Who somebody is, what they may, and how to add to it: what a plugin's author imports."""

from jobs_plugins.event import JobEvent, Kind
from jobs_plugins.spec import hookimpl
from jobs_plugins.verdict import Allow, Deny, Verdict

__all__ = ["Allow", "Deny", "JobEvent", "Kind", "Verdict", "hookimpl"]

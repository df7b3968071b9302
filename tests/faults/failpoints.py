"""The failpoints: their names as they stand in the code, and the folder by which they are armed."""

import os
import re
from pathlib import Path

from jobs_proto import failpoint

ROOT = Path(__file__).parents[2]

_CALL = re.compile(r'\bfailpoint\(\s*"([^"]+)"')


def _in_code() -> tuple[str, ...]:
    """Give every name in the code, from the code."""
    parts = (ROOT / "supervisor", ROOT / "shim")
    texts = (path.read_text() for part in parts for path in sorted(part.rglob("*.py")))
    return tuple(sorted({name for text in texts for name in _CALL.findall(text)}))


ARMED = _in_code()


def setting(folder: Path) -> str:
    """Give what stands in the environment of those who heed the failpoints of a folder."""
    return f"{failpoint.VARIABLE}={folder}"


class Failpoints:
    """The folder of one schedule.

    Args:
        folder: to be made; every process of the supervisor's, and none else, gets to know it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("armed", "struck", "jobs", "reached"):
            (folder / name).mkdir(parents=True)

    @property
    def setting(self) -> str:
        """What a process has in its environment that heeds them, and what shims are known by."""
        return setting(self.folder)

    def arm(self, name: str) -> None:
        """Have the next process that comes by die."""
        (self.folder / "armed" / name).touch()

    def disarm(self) -> None:
        """Have nobody die any more."""
        for path in (self.folder / "armed").iterdir():
            path.unlink(missing_ok=True)  # somebody may be dying of it right now

    def struck(self) -> list[tuple[str, str]]:
        """Give who died: at which failpoint, and about which job."""
        jobs = {path.name: path.read_text() for path in (self.folder / "jobs").iterdir()}
        struck = [
            (path.name.rpartition(".")[0], path.read_text())
            for path in sorted((self.folder / "struck").iterdir())
        ]
        return [(name, jobs.get(about, "" if about.isdigit() else about)) for name, about in struck]

    def reached(self) -> set[str]:
        """Give the names that somebody came by."""
        return set(os.listdir(self.folder / "reached"))

#!/usr/bin/env python3
"""Check an installed copy of Jobs: its packages and its programs, as `make wheel` does.

Run by the Python of the environment to check, with -I, so that nothing of this repository is on its
path.
"""
# ruff: noqa: T201  printing is what it is for

import subprocess
import sys
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = (
    "jobs_certs",
    "jobs_cli",
    "jobs_plugins",
    "jobs_proto",
    "jobs_rpc",
    "jobs_shim",
    "jobs_supervisor",
)
SCRIPTS = {"jobs": ["version"], "jobsctl": ["version"], "jobs-supervisor": ["--version"]}
HAND_STARTED = "jobs-shim"
"""Its program is there for the supervisor; by hand it says so, and fails."""


def main() -> None:
    """Check; exits with 1 and a sentence if something is not as it should be."""
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not str(spec.origin).startswith(sys.prefix):
            sys.exit(f"{package} is not installed in {sys.prefix}: {spec}")
        if not Path(str(spec.origin)).with_name("py.typed").exists():
            sys.exit(f"{package} has no py.typed: its types would not be seen")
    declared = {
        point.name
        for point in entry_points(group="console_scripts")
        if point.value.startswith("jobs_")
    }
    if declared != {*SCRIPTS, HAND_STARTED}:
        sys.exit(f"the programs differ from what is expected here: {sorted(declared)}")
    for script, arguments in SCRIPTS.items():
        said = _run(script, *arguments)
        if said.returncode or version("jobs") not in said.stdout:
            sys.exit(f"{script} {arguments[0]} does not work: {said.stdout}{said.stderr}")
    said = _run(HAND_STARTED)
    if said.returncode != 1 or "started by jobs-supervisor" not in said.stderr:
        sys.exit(f"{HAND_STARTED} does not say what it is: {said.stdout}{said.stderr}")
    print(f"jobs {version('jobs')}: {len(PACKAGES)} packages, {len(declared)} programs, all fine")


def _run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(script)
    return subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


if __name__ == "__main__":
    main()

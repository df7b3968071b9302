"""`jobs-supervisor`: its arguments, and what is to begin before the daemon's modules are loaded.

Theory. Until it serves, a supervisor does two things that take long: it imports, and its fork
server gets ready. Neither needs the other, so the fork server is spawned first, and is ready
on another core when the imports are done. Hence this module imports next to nothing itself.
"""

import argparse
import gc
import resource
import sys
from pathlib import Path

from jobs_supervisor.spawn import spawn

DEFAULT_PATH = "/etc/jobs/supervisor.toml"


def main() -> None:
    """Run the supervisor; the console script."""
    arguments = _arguments()
    _raise_file_limit()
    forkserver = spawn()
    gc.disable()  # a tenth of the time of the imports; what they make, they keep
    _import_structlog()
    from jobs_supervisor.daemon import run  # noqa: PLC0415  # see the head of this file

    run(arguments, forkserver)


def _arguments() -> argparse.Namespace:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.dev and arguments.config is not None:
        parser.error("--dev has its settings in --dir; leave out --config, or --dev")
    if arguments.dir is not None and not arguments.dev:
        parser.error("--dir is where --dev puts everything; say --dev, or leave it out")
    arguments.dir = (arguments.dir or Path(".jobs-dev")).absolute()
    arguments.config = arguments.config or Path(DEFAULT_PATH)
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs-supervisor",
        description="Runs jobs for those who connect with a certificate of its CA.",
        epilog="SIGTERM drains and ends it; jobs go on, and the next start finds them again.",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings ({DEFAULT_PATH})",
    )
    parser.add_argument(
        "--dev",
        action="store_true",
        help="make a CA, certificates and settings in --dir, and serve 127.0.0.1",
    )
    parser.add_argument(
        "--dir", type=Path, metavar="DIR", help="with --dev: the folder (./.jobs-dev)"
    )
    parser.add_argument(
        "--cgroup",
        metavar="PATH",
        help="the delegated cgroup that jobs live in, as /proc/PID/cgroup has it (our own)",
    )
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="write FILE when serving")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, and end")
    return parser


class _Version(argparse.Action):
    """Look the version up when it is asked for: importlib.metadata is slow to import."""

    def __call__(self, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415  # see above

        print(f"jobs-supervisor {version('jobs')}")  # noqa: T201
        sys.exit()


def _raise_file_limit() -> None:
    """Have as many open files as we may: one for each connection and job, two for each follower."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _import_structlog() -> None:
    """Import it without rich, which it would import for tracebacks that our log has plain."""
    sys.modules["rich"] = None  # type: ignore[assignment]  # so `import rich` fails, as documented
    import structlog  # noqa: F401, PLC0415  # see above

    del sys.modules["rich"]  # a plugin may want it


if __name__ == "__main__":
    main()

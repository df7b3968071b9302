"""Plays schedules and reports: `python tests/faults/run.py --schedules 500 --seed 1`.

Each schedule has a seed, one after the other from the first; `--schedules 1 --seed N` plays one
again. The exit status is 1 if anything was found that must not be, if nobody came by a failpoint
in many schedules, or died there in very many, or if not all were played: SIGINT and SIGTERM have
it end early, with a report of what was played.
"""

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator  # noqa: TC003  # nobody waits for this import
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "integration")]

from play import certificates  # noqa: E402
from report import Report  # noqa: E402
from worker import Worker  # noqa: E402


class Runner:
    """Deals the seeds out to workers.

    Args:
        arguments: of the command.
        report: to fill.
    """

    def __init__(self, arguments: argparse.Namespace, report: Report) -> None:
        self._workers: int = arguments.workers
        self._log: bool = arguments.log
        self._seeds: Iterator[int] = iter(
            range(arguments.seed, arguments.seed + arguments.schedules)
        )
        self._report = report
        self._lock = threading.Lock()

    def run(self, folder: Path) -> None:
        """Play all; the workers' folders and the certificates go into `folder`."""
        with certificates() as certs:
            threads = [
                threading.Thread(target=self._deal, args=(Worker(folder, certs),))
                for _ in range(self._workers)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def stop(self, *_signal: object) -> None:
        """Play what has begun to its end, and no more."""
        self._seeds = iter(())

    def _deal(self, worker: Worker) -> None:
        try:
            while (seed := self._next()) is not None:
                result = worker.play(seed)
                with self._lock:
                    self._report.add(result)
                    print(result.line(), flush=True)
                    if self._log:
                        print(result.log, flush=True)
        finally:
            worker.close()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._seeds, None)


def main() -> int:
    """Play, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=10, metavar="N", help="how many (10)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="of the first (1)")
    parser.add_argument("--workers", type=int, default=2, metavar="W", help="processes (2)")
    parser.add_argument("--log", action="store_true", help="print the supervisor's logs too")
    arguments = parser.parse_args()
    report = Report()
    began = time.monotonic()
    # Where jobs and inits see the same as we: they have a /tmp and a /var/tmp of their own.
    with tempfile.TemporaryDirectory(prefix="jobs-faults-", dir="/var/lib") as folder:
        Path(folder).chmod(0o755)
        runner = Runner(arguments, report)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, runner.stop)
        runner.run(Path(folder))
    print(f"\n{report.text()}\n{'seconds':<22} {time.monotonic() - began:.0f}")
    return 0 if report.sound and len(report.seeds) == arguments.schedules else 1


if __name__ == "__main__":
    sys.exit(main())

"""A process that plays schedules, and whoever has it play them.

Started with a folder, it reads seeds, a line each, and writes a `Result` as JSON for each. It has
one schedule at a time: workers share nothing but the certificates, so they can be any number. A
worker that dies has its schedule reported as not played, and another takes its place.
"""

import json
import os
import subprocess
import sys
import threading
import traceback
from collections import Counter
from pathlib import Path

import attrs

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "integration")]

import checker  # noqa: E402
import world  # noqa: E402
from play import Played, play  # noqa: E402
from report import Result  # noqa: E402

PLAY_S = 600.0
"""How long one schedule may take, whatever goes wrong: several times what its waits allow."""


class Worker:
    """A worker, started when it is first needed, and again if it died.

    Args:
        folder: for all workers, private to this run.
        certs: of `play.certificates`.
    """

    def __init__(self, folder: Path, certs: Path) -> None:
        self._folder = folder
        self._certs = certs
        self._process: subprocess.Popen[str] | None = None

    def play(self, seed: int) -> Result:
        """Have a schedule played."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, self._folder, self._certs],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                process_group=0,  # Ctrl-C is for who deals; we end what we have begun
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(PLAY_S, process.kill)
        timer.start()
        try:
            process.stdin.write(f"{seed}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        return Result(**json.loads(answer)) if answer else self._died(seed)

    def _died(self, seed: int) -> Result:
        status = self._close()
        world.sweep(self._folder / str(seed))
        return Result(seed=seed, violations=[f"its worker ended with {status}"])

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._close()

    def _close(self) -> int:
        assert self._process is not None
        process, self._process = self._process, None
        with process:
            assert process.stdin is not None
            process.stdin.close()
            return process.wait()


def result(played: Played) -> Result:
    """Judge a schedule, and sum it up."""
    history = played.history
    told = history.told.values()
    return Result(
        seed=played.schedule.seed,
        host=played.schedule.host,
        jobs=len(told),
        follows=sum(len(each.follows) for each in told),
        starts=played.starts,
        kills=[[kill.role, kill.point] for kill in history.kills],
        faults=dict(played.faults),
        outcomes=dict(Counter(each.final.outcome or "" for each in told if each.final)),
        reached=sorted(played.reached),
        violations=checker.violations(history),
        log=played.log,
    )


def main() -> None:
    """Play what is asked for."""
    folder, certs = map(Path, sys.argv[1:])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    for line in sys.stdin:
        seed = int(line)
        try:
            answer = result(play(seed, certs, folder / str(seed)))
        except Exception:  # noqa: BLE001  # the suite's own fault: said, counted; the next is played
            answer = Result(seed=seed, violations=[traceback.format_exc()])
        print(json.dumps(attrs.asdict(answer)), file=answers, flush=True)


if __name__ == "__main__":
    main()

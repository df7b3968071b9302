"""The virtual machine is what the tests in it take it for: its kernel enforces what they measure.

Nothing of ours is used here. Where a test of ours fails in the machine and these pass, it is ours.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids")

pytestmark = pytest.mark.v2


def run_in(cgroup: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is in the cgroup before it executes."""
    join = ["sh", "-c", 'echo 0 >"$0/cgroup.procs" && exec "$@"', str(cgroup), *argv]
    return subprocess.run(join, capture_output=True, text=True, check=False, timeout=120)


def values(file: Path) -> dict[str, int]:
    return {
        key: int(value) for key, value in (line.split() for line in file.read_text().splitlines())
    }


def move_all(source: Path, target: Path) -> None:
    """Move every process: the test's own, and those that started it."""
    for pid in (source / "cgroup.procs").read_text().split():
        (target / "cgroup.procs").write_text(pid)


@pytest.fixture
def cgroup():
    """A cgroup with every controller, below one that is ours to delegate from."""
    own = ROOT / Path("/proc/self/cgroup").read_text().strip().partition("0::/")[2]
    parent = own / "test-guest"
    parent.mkdir()
    if own != ROOT:  # no process may be beside its controllers' children, except at the root
        (own / "runner").mkdir(exist_ok=True)
        move_all(own, own / "runner")
    for directory in (own, parent):
        wanted = " ".join(f"+{name}" for name in CONTROLLERS)
        (directory / "cgroup.subtree_control").write_text(wanted)
    child = parent / "one"
    child.mkdir()
    yield child
    (child / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 60
    while values(child / "cgroup.events")["populated"] and time.monotonic() < deadline:
        os.sched_yield()
    child.rmdir()
    parent.rmdir()
    if own != ROOT:
        (own / "cgroup.subtree_control").write_text(" ".join(f"-{name}" for name in CONTROLLERS))
        move_all(own / "runner", own)
        (own / "runner").rmdir()


def test_only_cgroup_v2_is_mounted():
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    kinds = {line.partition(" - ")[2].split()[0] for line in lines}
    assert "cgroup2" in kinds
    assert "cgroup" not in kinds
    assert set(CONTROLLERS) <= set((ROOT / "cgroup.controllers").read_text().split())


def test_memory_limit_kills(cgroup):
    (cgroup / "memory.max").write_text(str(64 << 20))
    done = run_in(cgroup, sys.executable, "-c", "bytearray(200 << 20)")
    assert done.returncode == -signal.SIGKILL
    assert values(cgroup / "memory.events")["oom_kill"] >= 1


def test_cpu_limit_holds(cgroup):
    (cgroup / "cpu.max").write_text("50000 100000")
    program = "import time; end = time.monotonic() + 5\nwhile time.monotonic() < end: pass"
    begin = time.monotonic()
    assert run_in(cgroup, sys.executable, "-c", program).returncode == 0
    used = values(cgroup / "cpu.stat")["usage_usec"] / 1e6 / (time.monotonic() - begin)
    print(f"{used:.3f} CPU of 0.5")  # noqa: T201  shown by -rP
    assert 0.4 < used < 0.55


def test_pids_limit_holds(cgroup):
    (cgroup / "pids.max").write_text("5")
    program = "for i in 1 2 3 4 5 6 7 8; do sleep 60 >&- 2>&- & done"
    assert "fork" in run_in(cgroup, "sh", "-c", program).stderr
    assert values(cgroup / "pids.events")["max"] >= 1
    assert len((cgroup / "cgroup.procs").read_text().split()) <= 5


@pytest.mark.parametrize("wanted", [2_000_000, 10_000_000])
def test_io_limit_holds_for_direct_writes(cgroup, wanted):
    scratch = Path(os.environ["JOBS_TEST_SCRATCH"])
    device = scratch.stat().st_dev
    (cgroup / "io.max").write_text(f"{os.major(device)}:{os.minor(device)} wbps={wanted}")
    file = scratch / "written"
    size = wanted * 5 // (1 << 16)
    begin = time.monotonic()
    done = run_in(cgroup, "dd", "if=/dev/zero", f"of={file}", "bs=64k", f"count={size}",
                  "oflag=direct")  # fmt: skip
    rate = (size << 16) / (time.monotonic() - begin)
    file.unlink()
    assert done.returncode == 0, done.stderr
    print(f"{rate / 1e6:.2f} MB/s of {wanted / 1e6:.0f}")  # noqa: T201  shown by -rP
    assert 0.85 * wanted < rate < 1.15 * wanted


def test_cgroup_kill_ends_a_process_born_in_the_cgroup(cgroup):
    """clone3 with CLONE_INTO_CGROUP, and cgroup.kill."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    # struct clone_args, clone(2): flags, …, exit_signal at [4], …, cgroup at [10]
    arguments = (ctypes.c_uint64 * 11)(0x2_0000_0000, 0, 0, 0, signal.SIGCHLD)
    arguments[10] = directory
    pid = ctypes.CDLL(None).syscall(435, arguments, ctypes.sizeof(arguments))
    if pid == 0:
        while True:
            signal.pause()
    os.close(directory)
    assert pid > 0
    assert (cgroup / "cgroup.procs").read_text().split() == [str(pid)]
    (cgroup / "cgroup.kill").write_text("1")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(
    "user", [[], ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]]
)
def test_namespaces(user):
    argv = [*user, "unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    argv += ["--ipc", "--uts", "--net", "--cgroup", "sh", "-c", "hostname inside && echo $$"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "1\n", done.stderr


def test_loopback_is_up():
    assert Path("/sys/class/net/lo/operstate").read_text().strip() in {"unknown", "up"}
    assert int(Path("/sys/class/net/lo/flags").read_text(), 16) & 1

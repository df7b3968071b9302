"""The parts of the shim that need neither a job nor root."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import jobs_shim
from jobs_proto import files
from jobs_shim import syscalls
from jobs_shim.cgroup import Cgroup
from jobs_shim.output import Output, open_files
from jobs_shim.steps import StepError, execute
from jobs_shim.whole import RESERVED, WholeFile


def read_chunks(directory):
    return [
        (end, kind)
        for end, _, kind, _ in files.CHUNK.iter_unpack((directory / files.INDEX).read_bytes())
    ]


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


@pytest.fixture
def output(tmp_path):
    output = Output(str(tmp_path), open_files(str(tmp_path)), 0)
    yield output
    for fd in output.files:
        os.close(fd)


def test_a_whole_file_is_there_at_once_or_not_at_all(tmp_path):
    record = WholeFile(str(tmp_path), "exit", WholeFile.reserve(str(tmp_path), "exit"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit.new"]
    assert (tmp_path / "exit.new").stat().st_blocks * 512 >= RESERVED
    record.write(b"all of it", sync=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["exit"]
    assert (tmp_path / "exit").read_bytes() == b"all of it"


def test_output_is_taken_and_indexed(output, pipe, tmp_path):
    read, write = pipe
    os.set_blocking(read, False)
    assert output.take(read, files.STDOUT) == -1
    os.write(write, b"one")
    assert output.take(read, files.STDOUT) == 3
    os.write(write, b"four")
    assert output.take(read, files.STDERR) == 4
    assert (tmp_path / files.OUTPUT).read_bytes() == b"onefour"
    assert read_chunks(tmp_path) == [(3, files.STDOUT), (7, files.STDERR)]
    assert output.counts() == {
        "total": 7,
        "stdout": 3,
        "stderr": 4,
        "retained_from": 0,
        "lost": 0,
        "capped": 0,
        "blocked": False,
    }


def test_what_cannot_be_kept_is_a_gap_and_what_follows_has_its_offset(tmp_path):
    """In a process of its own, for the limit that makes writing fail."""
    script = f"""
import os, resource, signal, sys
sys.path[:0] = {[str(Path(p).parents[1]) for p in (jobs_shim.__file__, files.__file__)]}
from jobs_shim.output import Output, open_files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
output = Output({str(tmp_path)!r}, open_files({str(tmp_path)!r}), 0)
read, write = os.pipe()
os.set_blocking(read, False)
def take(data):
    os.write(write, data)
    output.take(read, 1)
take(b"kept")
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (4, hard))
take(b"lost")
take(b"lost too")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
take(b"after")
print(output.counts())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert b"'total': 21" in done.stdout
    assert b"'lost': 12" in done.stdout
    assert (tmp_path / files.OUTPUT).read_bytes() == b"kept" + bytes(12) + b"after"
    gap = files.STDOUT | files.GAP
    assert read_chunks(tmp_path) == [(4, files.STDOUT), (16, gap), (21, files.STDOUT)]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (["chdir", "/no/where"], ("chdir", errno.ENOENT, "/no/where")),
        (["exec", ["/no/program"], {}], ("exec", errno.ENOENT, "/no/program")),
        (["exec", ["program"], {"PATH": "/no:/etc/passwd:"}], ("exec", errno.ENOENT, "program")),
        (["rlimit", resource.RLIMIT_NOFILE, 2, 1], ("rlimit", errno.EINVAL, None)),
        (["unshare", 1 << 30 | 1], ("unshare", errno.EINVAL, None)),
        (["no_such_step"], ("no_such_step", errno.EINVAL, None)),
        (["chdir"], ("chdir", errno.EINVAL, None)),
        (["chdir", "a\0b"], ("chdir", errno.EINVAL, None)),
    ],
)
def test_a_step_says_what_failed_and_those_after_it_are_not_tried(step, expected):
    child = os.fork()
    if child == 0:  # a step changes its process
        try:
            execute([step, ["exec", ["/bin/true"], {}]])
        except StepError as error:
            path = error.path if expected[2] else None
            os._exit((error.step, error.errno, path) != expected)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_is_a_child():
    child = syscalls.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_who_cannot_be_born_in_a_cgroup_is_born_in_ours():
    fd = os.open("/", os.O_PATH)
    child = syscalls.fork(fd)
    if child == 0:
        os._exit(7)
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_job_without_a_cgroup(tmp_path):
    for cgroup in (Cgroup(None), Cgroup({"unified": False, "directories": []})):
        assert cgroup.kill() is False
        assert cgroup.freeze(frozen=True) is False
        assert cgroup.wait_empty() is True
        cgroup.remove()


def test_what_the_job_made_below_its_cgroup_is_removed_too(tmp_path):
    track = tmp_path / "job"
    cgroup = Cgroup({"unified": False, "directories": [["unified", str(track), []]]})
    (track / "below" / "and-below").mkdir(parents=True)
    cgroup.remove()
    assert not track.exists()

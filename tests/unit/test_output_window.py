"""The output's cap: the shim's `Output` and the supervisor's `OutputReader` on real files."""

import fcntl
import os
import random
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from jobs_proto import files
from jobs_proto import job as jobs
from jobs_proto.files import BLOCK, KEEP_HEAD, KEEP_TAIL, POLICIES
from jobs_proto.methods import Follow
from jobs_proto.phases import Phase
from jobs_shim.output import Output, open_files
from jobs_supervisor.follow import follow, send_piece
from jobs_supervisor.live import LiveJob
from jobs_supervisor.output import LATER, OLDER, OutputReader, retained_from
from jobs_supervisor.store import Record

BLOB = random.Random(7).randbytes(1 << 20).replace(b"\0", b"\1")  # a hole reads as no byte of it
STREAMS = (files.STDOUT, files.STDERR)
NAMES = files.STREAM_NAMES
PIPE = 1 << 16


class Job:
    """An output with its two pipes, and a model: what the job wrote, in the order it arrived."""

    def __init__(self, limit, policy):
        self.directory = Path(tempfile.mkdtemp())
        self.output = Output(str(self.directory), open_files(str(self.directory)), 0, limit, policy)
        self.block = os.fstat(self.output.files[0]).st_blksize
        self.pipes = {}
        self.written = dict.fromkeys(STREAMS, 0)
        self.data = bytearray()
        self.streams = bytearray()
        for stream in STREAMS:
            read, write = os.pipe2(os.O_NONBLOCK)
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE)
            self.pipes[stream] = read, write
        self.taken = dict.fromkeys(STREAMS, 0)

    def write(self, stream, size):
        """Write as a job does, as much as its pipe takes, and have it taken as a shim does."""
        if self.output.limit is not None:
            size = min(size, 300 * self.output.limit)  # else it takes a while
        start = self.written[stream]
        try:
            self.written[stream] += os.write(self.pipes[stream][1], content(stream, start, size))
        except BlockingIOError:
            assert self.output.blocked
        self.take(stream)

    def take(self, stream):
        while (count := self.output.take(self.pipes[stream][0], stream)) > 0:
            self._arrived(stream, count)

    def finish(self):
        """End as the shim does; what is left in the pipes comes in their order."""
        self.output.drain({self.pipes[stream][0]: stream for stream in STREAMS})
        for stream in STREAMS:
            self._arrived(stream, self.written[stream] - self.taken[stream])
        self.output.sync()

    def _arrived(self, stream, count):
        self.data += content(stream, self.taken[stream], count)
        self.streams += bytes((stream,)) * count
        self.taken[stream] += count

    def close(self):
        """Let go of everything."""
        pipes = [fd for pair in self.pipes.values() for fd in pair]
        extra = (self.output._from, self.output._null)
        for fd in (*self.output.files, *pipes, *(fd for fd in extra if fd >= 0)):
            os.close(fd)
        shutil.rmtree(self.directory)

    def blocks(self, name):
        """Give the bytes that a file takes on the disk."""
        return (self.directory / name).stat().st_blocks * 512


def content(stream, start, size):
    first = (start + stream * 1000) % len(BLOB)
    return (BLOB + BLOB)[first : first + size]


class Racing(OutputReader):
    """A reader between whose reading and looking something happens."""

    meanwhile = None

    async def data(self, piece):
        data = await super().data(piece)
        if self.meanwhile is not None:
            self.meanwhile()
        return data


class Follower:
    """A follower, which checks whatever it is sent."""

    def __init__(self, job, start):
        self.job = job
        self.start = self.offset = min(start, len(job.data))
        self.reader = Racing(job.directory, self.offset, merge=True)
        self.gaps = []

    async def chunk(self, offset, stream, _time, data):
        assert offset == self.offset
        assert data == self.job.data[offset : offset + len(data)]
        assert set(self.job.streams[offset : offset + len(data)]) == {
            key for key, name in NAMES.items() if name == stream
        }
        self.offset += len(data)

    async def notify(self, method, params):
        assert method == "gap"
        assert params["from"] == self.offset < params["to"]
        self.offset = params["to"]
        self.gaps.append((params["from"], params["to"], params["reason"]))

    def step(self, meanwhile=None):
        """Go on by a piece; False: there is none now."""
        piece = self.reader.next()
        if piece is None:
            return False
        self._send(piece, meanwhile)
        return True

    def _send(self, piece, meanwhile=None):
        self.reader.meanwhile = meanwhile
        trio.run(send_piece, self.reader, piece, Follow(id="x"), self)
        assert self.offset == self.reader.offset

    def to_end(self, total):
        """Go on to the end of an output whose shim is gone."""
        while self.step():
            pass
        while (piece := self.reader.rest(total)) is not None:
            self._send(piece)
        assert self.offset == max(total, self.start)

    def reopen(self):
        """Be another follower that goes on where this one was."""
        self.reader.close()
        self.reader = Racing(self.job.directory, self.offset, merge=True)


class Window(RuleBasedStateMachine):
    followers = Bundle("followers")
    CAPS = st.sampled_from((1, 100, 4096, 5000, 32768, 100_000, 1 << 18))
    SIZES = st.one_of(st.integers(1, 10), st.integers(1, PIPE))

    @initialize(limit=st.one_of(st.none(), CAPS), policy=st.sampled_from(POLICIES))
    def begin(self, limit, policy):
        self.job = Job(limit, policy)
        self.all = []
        self.highest = limit or 0

    @rule(stream=st.sampled_from(STREAMS), size=SIZES)
    def write(self, stream, size):
        self.job.write(stream, size)

    @rule(count=st.integers(1, 100))
    def write_alternately(self, count):
        for number in range(count):
            self.job.write(STREAMS[number % 2], 1)

    @rule(limit=CAPS)
    def allow(self, limit):
        uncapped = self.job.output.limit is None
        self.job.output.allow(limit)
        # What was kept before there was a cap stays, unless the tail is what is kept.
        self.highest = max(self.highest, limit, self.job.output.total if uncapped else 0)
        for stream in STREAMS:
            self.job.take(stream)

    @rule(target=followers, start=st.integers(0, 1 << 19))
    def follow(self, start):
        follower = Follower(self.job, start)
        self.all.append(follower)
        return follower

    @rule(follower=followers)
    def step(self, follower):
        follower.step()

    @rule(follower=followers, size=SIZES)
    def step_while_the_job_writes(self, follower, size):
        follower.step(lambda: self.job.write(files.STDOUT, size))

    @rule(follower=followers)
    def reopen(self, follower):
        follower.reopen()

    @invariant()
    def counts_are_right(self):
        out = self.job.output
        assert out.total == out.stdout + out.stderr == len(self.job.data)
        assert out.lost == 0
        assert retained_from(self.job.directory) == out.retained_from
        if out.limit is None:
            assert (out.retained_from, out.capped, out.blocked) == (0, 0, False)
        elif out.policy == KEEP_TAIL:
            assert out.capped == 0
            assert out.total - out.retained_from <= out.limit
        else:
            assert out.retained_from == 0
            assert out.total - out.capped <= self.highest
        assert out.policy == KEEP_HEAD or out.capped == 0
        assert out.policy == BLOCK or not out.blocked

    @invariant()
    def files_are_within_the_cap(self):
        out, block = self.job.output, self.job.block
        if out.limit is not None:
            cap = -(-max(self.highest, out.limit) // block) * block
            if out.policy == KEEP_TAIL:
                cap = -(-out.limit // block) * block
            assert self.job.blocks(files.OUTPUT) <= cap + block
            assert self.job.blocks(files.INDEX) <= max(self.highest, 16 * block) + 2 * block

    def teardown(self):
        if not hasattr(self, "job"):
            return
        job = self.job
        try:
            if len(job.data) % 2:  # as good as any coin: the shim is killed, or ends
                job.finish()
            total = len(job.data)
            assert (job.directory / files.OUTPUT).stat().st_size == total
            for start in (0, total // 2, total):
                self.all.append(Follower(job, start))
            for follower in self.all:
                follower.to_end(total)
        finally:
            for follower in self.all:
                follower.reader.close()
            job.close()


TestWindow = Window.TestCase
TestWindow.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


@pytest.fixture
def make_job():
    jobs = []

    def make(limit, policy=KEEP_TAIL):
        jobs.append(Job(limit, policy))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()


@pytest.mark.parametrize("limit", [7, 100, 4095, 4096])
def test_a_cap_of_less_than_some_blocks_keeps_exactly_so_many_bytes(make_job, limit):
    job = make_job(limit)
    for _ in range(100):
        job.write(files.STDOUT, 211)
    follower = Follower(job, 0)
    follower.to_end(21100)
    follower.reader.close()
    assert follower.gaps == [(0, 21100 - limit, OLDER)]
    assert job.blocks(files.OUTPUT) <= 2 * job.block


def test_a_large_cap_keeps_all_but_a_little_of_it(make_job):
    job = make_job(1 << 20)
    for _ in range(100):
        job.write(files.STDOUT, PIPE)
    follower = Follower(job, 0)
    follower.to_end(100 * PIPE)
    follower.reader.close()
    ((start, end, _reason),) = follower.gaps
    assert (start, 100 * PIPE - (1 << 20) <= end <= 100 * PIPE - (1 << 20) * 63 // 64) == (0, True)


def test_the_head_is_kept_and_the_rest_is_one_gap_whoever_dies(make_job):
    for ends in (True, False):
        job = make_job(1000, KEEP_HEAD)
        for number in range(500):
            job.write(STREAMS[number % 2], 7)
        follower = Follower(job, 0)
        while follower.step():
            pass
        assert (follower.offset, follower.gaps) == (1000, [])  # told when its end is known
        if ends:
            job.finish()
        follower.to_end(3500)
        follower.reader.close()
        assert follower.gaps == [(1000, 3500, LATER)]
        assert job.output.capped == 2500


def test_a_raised_cap_keeps_what_comes_after_a_gap(make_job):
    job = make_job(100, KEEP_HEAD)
    job.write(files.STDOUT, 150)
    job.output.allow(200)
    job.write(files.STDERR, 70)
    follower = Follower(job, 0)
    while follower.step():
        pass
    follower.reader.close()
    assert (follower.offset, follower.gaps) == (220, [(100, 150, LATER)])


def test_a_full_output_that_blocks_goes_on_where_it_was(make_job):
    job = make_job(5000, BLOCK)
    job.write(files.STDOUT, 7000)
    job.write(files.STDERR, 10)
    assert (job.output.total, job.output.blocked) == (5000, True)
    job.output.allow(7005)
    assert not job.output.blocked
    job.take(files.STDOUT)
    job.take(files.STDERR)
    assert (job.output.total, job.output.blocked) == (7005, True)
    job.finish()
    assert (job.output.total, job.output.capped) == (7010, 5)
    follower = Follower(job, 0)
    follower.to_end(7010)
    follower.reader.close()
    assert follower.gaps == [(7005, 7010, LATER)]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_index_of_tiny_portions_is_bounded_as_well(make_job, policy):
    job = make_job(1 << 15, policy)
    most = 16 * job.block + job.block
    for number in range(6000):
        job.write(STREAMS[number % 2], 1)
        if number % 500 == 0:
            assert job.blocks(files.INDEX) <= most
    assert job.output._index_size - job.output._index_from <= most
    assert (job.output._index_size > most) == (policy == KEEP_TAIL)
    job.finish()
    follower = Follower(job, 0)
    follower.to_end(6000)
    follower.reader.close()
    assert len(follower.gaps) == 1


MANY = 20_000


class Deaf:
    """A follower that keeps nothing."""

    async def notify(self, _method, _params):
        await trio.lowlevel.checkpoint()

    async def chunk(self, *_chunk):
        await trio.lowlevel.checkpoint()


async def test_who_follows_one_stream_holds_up_nobody_over_the_other(tmp_path):
    (tmp_path / files.OUTPUT).write_bytes(b"x" * MANY)
    entries = (files.CHUNK.pack(end, end, files.STDERR, 0) for end in range(1, MANY + 1))
    (tmp_path / files.INDEX).write_bytes(b"".join(entries))
    spec = jobs.Spec(argv=("true",))
    done = jobs.Job(id="1", owner="alice", spec=spec, created_at="", phase=Phase.EXITED)
    live = LiveJob(Record(job=done), total=MANY)
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        params = Follow(id="1", stream="stdout", timestamps=True)
        await follow(live, tmp_path, params, Deaf())
        nursery.cancel_scope.cancel()
    assert turns > MANY // 100


def test_a_follower_steps_at_once_over_an_index_that_was_given_back(tmp_path, monkeypatch):
    """However long it is: a terabyte of zeros is no more to read than a kilobyte."""
    (tmp_path / files.OUTPUT).write_bytes(b"x")
    index = tmp_path / files.INDEX
    index.write_bytes(files.CHUNK.pack(1, 1, files.STDOUT, 0))
    reader = OutputReader(tmp_path, 0, merge=True)
    assert reader.next() == (0, 1, files.STDOUT, 1, None)
    with index.open("r+b") as file:
        file.truncate(2**36 // files.CHUNK.size * files.CHUNK.size)
        file.seek(0, os.SEEK_END)
        file.write(files.CHUNK.pack(9, 2, files.STDOUT, 0))
    (tmp_path / files.FROM).touch()
    os.truncate(tmp_path / files.FROM, 8)
    reads = []
    monkeypatch.setattr(os, "pread", lambda *a, pread=os.pread: reads.append(a) or pread(*a))
    assert reader.next() == (1, 8, 0, 0, OLDER)
    assert reader.next() == (8, 9, files.STDOUT, 2, None)
    assert len(reads) < 100
    reader.close()

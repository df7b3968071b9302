"""Bytes out, whole or with a reason; and nothing of others that drives a terminal."""

import os
import threading
from pathlib import Path

import pytest

from jobs_cli import output
from jobs_cli.escape import escape
from jobs_cli.failure import OURS, Failure, StdoutClosed
from jobs_cli.follower import Stamper


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb", buffering=0) as sink:
        yield source, sink


def test_everything_is_written_also_where_writing_would_block(pipe):
    source, sink = pipe
    os.set_blocking(sink.fileno(), False)
    data = os.urandom(1_000_000)  # more than a pipe holds
    got = []
    reader = threading.Thread(target=lambda: got.append(source.read()))
    reader.start()
    output.write_bytes(sink.fileno(), data)
    sink.close()
    reader.join(timeout=30)
    assert got == [data]


def test_a_reader_that_has_gone_is_told_apart(pipe):
    source, sink = pipe
    source.close()
    with pytest.raises(StdoutClosed):
        output.write_bytes(sink.fileno(), b"x")


def test_a_full_disk_is_a_failure_with_its_reason():
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(Failure) as failed:
        output.write_bytes(full.fileno(), b"x")
    assert "No space left on device" in failed.value.message
    assert failed.value.status == OURS


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢 'quoted' \\", "plain ü 漢 'quoted' \\"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("\u2028", "\\u2028"),
        ("\udcff\udc80", "\\xff\\x80"),
        ("\ud800", "\\ud800"),
    ],
)
def test_escape(text, shown):
    assert escape(text) == shown


def stamped(*chunks):
    stamper = Stamper()
    return [stamper.stamp(*chunk) for chunk in chunks]


def test_each_line_is_stamped_once_at_its_start():
    assert stamped(
        ("stdout", "T1", b"a\nb"), ("stdout", "T2", b"c\n"), ("stdout", "T3", b"\n\nd\n")
    ) == [b"T1 a\nT1 b", b"c\n", b"T3 \nT3 \nT3 d\n"]


def test_streams_are_stamped_apart():
    assert stamped(("stdout", "T1", b"a"), ("stderr", "T2", b"e\n"), ("stdout", "T3", b"b\n")) == [
        b"T1 a",
        b"T2 e\n",
        b"b\n",
    ]


def test_stamping_keeps_every_other_byte():
    binary = bytes(range(256)).replace(b"\n", b"") + b"\r\n\xff"
    assert stamped(("stdout", "T", binary)) == [b"T " + binary[:-1] + b"T \xff"]
    assert stamped(("stdout", "T", b"")) == [b""]


def test_only_the_writing_end_of_a_pipe_is_one(pipe):
    source, sink = pipe
    assert output.is_pipe(sink.fileno())
    assert not output.is_pipe(source.fileno())
    with Path(os.devnull).open("wb") as null:
        assert not output.is_pipe(null.fileno())
    assert not output.is_pipe(10**6)

"""The audit log's chain: whatever is done to its lines, `verify` sees it."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_proto.audit import OPENED, START, TORN, AuditError, Chain, Head, seal

TEXT = st.text(st.characters(), max_size=20)


def written(count, first=START, **fields):
    """Lines as the supervisor writes them; and the head after each."""
    head, lines, heads = first, [], []
    for number in range(count):
        line, head = seal(head, {"event": "decision", "number": number, **fields})
        lines.append(line + b"\n")
        heads.append(head)
    return lines, heads


def check(*files, expected=None, whole=True):
    """Check files' lines; give the chain."""
    chain = Chain(expected)
    for number, lines in enumerate(files):
        chain.begin(f"file-{number}")
        for line in lines:
            chain.take(line)
    chain.finish(whole=whole)
    return chain


def fault_of(*files, **options):
    with pytest.raises(AuditError) as fault:
        check(*files, **options)
    return fault.value


def test_what_was_written_is_good_over_all_borders():
    lines, heads = written(9)
    for border in range(1, 9):
        chain = check(lines[:border], lines[border:])
        assert (chain.first, chain.head, chain.torn) == (1, heads[-1], 0)


@given(TEXT, TEXT)
def test_no_text_breaks_a_line_or_forges_one(who, why):
    line, _ = seal(START, {"event": "decision", "who": who, "why": why})
    assert line.isascii()
    assert not set(line) & set(range(0x20))
    said = json.loads(line)
    assert (said["seq"], said["who"], said["why"]) == (1, who, why)


@given(st.data())
def test_every_change_but_of_the_end_is_seen(data):
    lines, _ = written(6)
    at = data.draw(st.integers(0, 4))
    how = data.draw(st.sampled_from(["edit", "remove", "swap", "repeat", "put in", "cut"]))
    changed = list(lines)
    if how == "edit":
        byte = data.draw(st.integers(0, len(lines[at]) - 2))
        other = data.draw(st.integers(1, 255))
        edited = bytearray(lines[at])
        edited[byte] ^= other
        changed[at] = bytes(edited)
    elif how == "remove":
        del changed[at]
    elif how == "swap":
        changed[at], changed[at + 1] = changed[at + 1], changed[at]
    elif how == "repeat":
        changed.insert(at, lines[at])
    elif how == "put in":
        head = Head(json.loads(lines[at])["prev"], at)
        changed.insert(at, seal(head, {"event": "decision"})[0] + b"\n")
    else:
        changed[at] = changed[at][:-2]
    fault_of(b"".join(changed).splitlines(keepends=True))


def test_the_first_fault_is_told_with_its_place():
    lines, _ = written(6)
    fault = fault_of(lines[:3], lines[4:])
    assert (fault.file, fault.line) == ("file-1", 1)
    assert str(fault) == "file-1, line 1: seq 4 is missing before it"
    edited = [*lines[:2], lines[2].replace(b"decision", b"decisioN"), *lines[3:]]
    fault = fault_of(edited)
    assert (fault.file, fault.line) == ("file-0", 4)
    assert "seq 3, the line before it, is not the one it was written after" in str(fault)
    fault = fault_of([*lines[:2], b"hello\n", *lines[2:]])
    assert str(fault) == "file-0, line 3: it is no line of an audit log"
    fault = fault_of([lines[0], lines[2], lines[1]])
    assert str(fault) == "file-0, line 2: seq 2 is missing before it"
    fault = fault_of([*lines[:3], lines[1]])
    assert str(fault) == "file-0, line 4: seq 2 stands after seq 3"


def test_a_noted_head_shows_that_the_end_was_cut_off_or_all_was_written_anew():
    lines, heads = written(6)
    for noted in heads:
        assert check(lines, expected=noted).head == heads[-1]
    check(lines[:4])  # nothing in the chain itself can show this
    fault = fault_of(lines[:4], expected=heads[5])
    assert "it ends with seq 4, and seq 6 was noted: its end was cut off" in str(fault)
    anew, _ = written(6, why="forged")
    check(anew)
    assert "seq 3 is not the line whose hash was noted" in str(fault_of(anew, expected=heads[2]))


def test_older_files_may_be_missing_if_they_were_rotated_away():
    lines, heads = written(4)
    opened, _ = seal(heads[-1], {"event": OPENED, "kept_from": 3})
    after, _ = written(2, seal(heads[-1], {"event": OPENED, "kept_from": 3})[1])
    last = [opened + b"\n", *after]
    assert check(lines[2:], last).first == 3
    assert check(lines[1:], last).first == 2  # not removed yet
    assert check(last, whole=False).first == 5
    assert str(fault_of(last)) == "seq 3 to 4 are not there, and were not rotated away"
    assert "was before all that is here" in str(fault_of(lines[2:], last, expected=heads[0]))


@pytest.mark.parametrize("loose", [b"half a li", b"\0" * 50, b"old line\nanother\n", b'{"seq": 3'])
def test_a_torn_line_is_in_the_chain_once_it_was_marked(loose):
    lines, heads = written(2)
    told = {"event": TORN, "bytes": len(loose), "sha256": hashlib.sha256(loose).hexdigest()}
    torn, head = seal(heads[-1], told)
    border = b"" if loose.endswith(b"\n") else b"\n"
    data = b"".join((*lines, loose, border, torn, b"\n", *written(2, head)[0]))
    assert check(data.splitlines(keepends=True)).head.seq == 5
    for other in (data.replace(loose, b"x" + loose[1:]), data.replace(loose + border, b"")):
        fault_of(other.splitlines(keepends=True))


def test_a_line_that_is_being_written_is_no_fault():
    lines, heads = written(2)
    chain = check([*lines, b'{"seq": 3, "pr'])
    assert (chain.head, chain.torn) == (heads[-1], 14)
    fault_of([*lines, b"junk\n", b'{"seq": 3, "pr'])


@pytest.mark.parametrize(
    "text", ["", "x:1", "0" * 64, "0" * 64 + ":", "0" * 64 + ":-1", "g" * 64 + ":1"]
)
def test_what_is_no_head(text):
    with pytest.raises(ValueError, match="HASH:SEQ"):
        Head.parse(text)


@given(st.lists(st.binary(max_size=40)))
def test_garbage_is_a_fault_and_nothing_else(lines):
    chain = Chain()
    chain.begin("x")
    try:
        for line in lines:
            chain.take(line)
        chain.finish(whole=True)
    except AuditError:
        return
    raise AssertionError("garbage passed")

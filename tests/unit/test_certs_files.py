"""Modes from the first moment, whatever the umask; nothing overwritten; crashes explained."""

import os
import resource
import stat
from contextlib import contextmanager

import pytest

from jobs_certs import CertsError, init, issue, verify


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def contents(directory):
    return {p.name: (p.read_bytes(), p.stat().st_ino, mode(p)) for p in directory.iterdir()}


def test_modes(tmp_path, umask):
    directory = tmp_path / "ca"
    authority = init(directory)
    client = issue(directory, "alice", role="admin")
    assert mode(directory) == 0o700
    assert [mode(p) for p in (authority.key, client.key)] == [0o600, 0o600]
    assert [mode(p) for p in (authority.certificate, client.certificate)] == [0o644, 0o644]


def test_no_mode_is_ever_wider_than_the_last(tmp_path, monkeypatch):
    """What open(2) is asked for is final already: a umask of 0 leaves no moment in between."""
    os_open, asked = os.open, {}

    def spy(path, flags, mode=0o777, **more):
        asked[os.path.basename(path)] = (flags, mode)  # noqa: PTH119 - a path of any type
        return os_open(path, flags, mode, **more)

    monkeypatch.setattr(os, "open", spy)
    init(tmp_path / "ca")
    assert asked["ca.key"][1] == 0o600
    assert asked["ca.crt"][1] == 0o644
    assert all(asked[n][0] & os.O_EXCL for n in ("ca.key", "ca.crt"))


def test_nothing_is_overwritten(tmp_path):
    init(tmp_path / "ca")
    issue(tmp_path / "ca", "alice", role="admin")
    before = contents(tmp_path / "ca")
    with pytest.raises(CertsError, match="nothing is ever overwritten"):
        init(tmp_path / "ca")
    with pytest.raises(CertsError, match="nothing is ever overwritten"):
        issue(tmp_path / "ca", "alice", role="viewer")
    assert contents(tmp_path / "ca") == before


def test_a_key_without_a_certificate(tmp_path):
    init(tmp_path / "ca")
    issue(tmp_path / "ca", "alice", role="admin")
    (tmp_path / "ca" / "alice.crt").unlink()
    before = contents(tmp_path / "ca")
    with pytest.raises(CertsError, match="an earlier attempt was cut short"):
        issue(tmp_path / "ca", "alice", role="admin")
    assert contents(tmp_path / "ca") == before


def test_a_certificate_without_a_key(tmp_path):
    init(tmp_path / "ca")
    issue(tmp_path / "ca", "alice", role="admin")
    (tmp_path / "ca" / "alice.key").unlink()
    with pytest.raises(CertsError, match=r"alice\.crt exists"):
        issue(tmp_path / "ca", "alice", role="admin")
    assert not (tmp_path / "ca" / "alice.key").exists()


@pytest.mark.parametrize("which", ["alice.key", "alice.crt"])
def test_a_link_that_leads_nowhere_counts_too(tmp_path, which):
    init(tmp_path / "ca")
    (tmp_path / "ca" / which).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CertsError):
        issue(tmp_path / "ca", "alice", role="admin")
    assert not (tmp_path / "elsewhere").exists()


@contextmanager
def file_size_limit(size):
    """How many bytes a file of this process may have: writes fail, as on a full disk.

    Lifted before the test ends: pytest's own output may be such a file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("room", "culprit"), [(10, "key"), (300, "crt")], ids=["not the key", "the key only"]
)
def test_both_or_neither(tmp_path, room, culprit):
    init(tmp_path / "ca")
    refused = pytest.raises(CertsError, match=rf"Cannot write .*alice\.{culprit}: File too large")
    with refused, file_size_limit(room):
        issue(tmp_path / "ca", "alice", role="admin")
    assert sorted(p.name for p in (tmp_path / "ca").iterdir()) == ["ca.crt", "ca.key"]


def test_an_empty_directory_is_made_private(tmp_path):
    directory = tmp_path / "ca"
    directory.mkdir()
    directory.chmod(0o755)
    init(directory)
    assert mode(directory) == 0o700


def test_a_directory_in_use_is_left_as_it_is(tmp_path):
    (tmp_path / "notes").write_text("mine")
    tmp_path.chmod(0o755)
    with pytest.raises(CertsError, match="chmod 700"):
        init(tmp_path)
    assert mode(tmp_path) == 0o755
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]


def test_no_directory_at_all(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CertsError, match="Cannot make the directory"):
        init(tmp_path / "file" / "ca")


@pytest.mark.parametrize("open_to", [0o640, 0o604, 0o620])
def test_a_key_that_is_open_to_others(tmp_path, open_to):
    init(tmp_path / "ca")
    made = issue(tmp_path / "ca", "alice", role="admin")
    made.key.chmod(open_to)
    with pytest.raises(CertsError, match="chmod 600"):
        verify(made.certificate)
    (tmp_path / "ca" / "ca.key").chmod(open_to)
    with pytest.raises(CertsError, match="chmod 600"):
        issue(tmp_path / "ca", "bob", role="admin")

"""Key files that are not as they must be: the sentence names the file."""

import os

import pytest

from jobs_proto.errors import JobsError
from jobs_rpc.context import client_context, server_context


@pytest.mark.parametrize("part", ["cert", "key", "ca"])
def test_a_file_that_is_missing_is_named(client_files, tmp_path, part):
    with pytest.raises(JobsError) as caught:
        client_context(*client_files._replace(**{part: tmp_path / "nowhere"}))
    assert caught.value.message.startswith("cannot read the ")
    assert caught.value.message.endswith(f"{tmp_path}/nowhere: No such file or directory")


@pytest.mark.parametrize("part", ["cert", "key", "ca"])
def test_a_file_of_another_kind_is_named(client_files, tmp_path, part):
    junk = tmp_path / "junk"
    junk.write_text("junk")
    junk.chmod(0o600)
    with pytest.raises(JobsError, match=f"{junk}: it holds no .* in PEM form"):
        server_context(*client_files._replace(**{part: junk}))


def test_a_key_of_another_certificate_is_named(client_files, server_files):
    with pytest.raises(JobsError) as caught:
        client_context(*client_files._replace(key=server_files.key))
    assert str(server_files.key) in caught.value.message
    assert f"not the key of the certificate {client_files.cert}" in caught.value.message


@pytest.mark.parametrize("make", [client_context, server_context])
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o622])
def test_a_key_that_others_may_read_is_refused(client_files, tmp_path, make, mode):
    key = tmp_path / "its key"
    key.write_bytes(client_files.key.read_bytes())
    key.chmod(mode)
    with pytest.raises(JobsError, match=f"mode {mode:04o}.* chmod 600 '{key}'"):
        make(*client_files._replace(key=key))
    key.chmod(0o400)
    make(*client_files._replace(key=key))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_key_of_somebody_else_has_the_mode_that_they_chose(client_files, tmp_path):
    key = tmp_path / "key"
    key.write_bytes(client_files.key.read_bytes())
    key.chmod(0o640)
    os.chown(key, 12345, -1)
    client_context(*client_files._replace(key=key))


def test_an_encrypted_key_is_never_asked_about(client_files, tmp_path):
    key = tmp_path / "key"
    edge = "-----{} ENCRYPTED " + "PRIVATE KEY-----\n"  # in two: no key's mark stands in this tree
    key.write_text(edge.format("BEGIN") + edge.format("END"))
    key.chmod(0o600)
    with pytest.raises(JobsError, match="the key is encrypted"):
        client_context(*client_files._replace(key=key))

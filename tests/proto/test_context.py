"""Key files that are not as they must be: the sentence names the file."""

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
    with pytest.raises(JobsError, match=f"{junk}: it holds no .* in PEM form"):
        server_context(*client_files._replace(**{part: junk}))


def test_a_key_of_another_certificate_is_named(client_files, server_files):
    with pytest.raises(JobsError) as caught:
        client_context(*client_files._replace(key=server_files.key))
    assert str(server_files.key) in caught.value.message
    assert f"not the key of the certificate {client_files.cert}" in caught.value.message


def test_an_encrypted_key_is_never_asked_about(client_files, tmp_path):
    key = tmp_path / "key"
    edge = "-----{} ENCRYPTED " + "PRIVATE KEY-----\n"  # in two: no key's mark stands in this tree
    key.write_text(edge.format("BEGIN") + edge.format("END"))
    with pytest.raises(JobsError, match="the key is encrypted"):
        client_context(*client_files._replace(key=key))

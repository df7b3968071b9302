"""Where a client's settings come from, what wins, and what is said when they are wrong."""

from pathlib import Path

import pytest

from jobs_proto.errors import JobsError
from jobs_rpc.config import (
    Settings,
    default_path,
    load_settings,
    parse_server,
    write_contexts,
)

FILE = """
default = "dev"
[contexts.dev]
server = "dev.test"
ca = "ca.crt"
cert = "admin.crt"
key = "/abs/admin.key"
[contexts.other]
server = "other.test:1"
ca = "~/ca.crt"
cert = "../c"
key = "k"
"""
SINGLE = {"JOBS_SERVER": "env.test", "JOBS_CA": "a", "JOBS_CERT": "b", "JOBS_KEY": "c"}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(FILE)
    return path


def refusal(**kwargs):
    with pytest.raises(JobsError) as caught:
        load_settings(**kwargs)
    return caught.value.message


def host(*, environ=None, **kwargs):
    return load_settings(environ=environ or {}, **kwargs).host


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", 7520)),
        ("host:1", ("host", 1)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[::1]:5", ("::1", 5)),
        ("[::1]", ("::1", 7520)),
        ("::1", ("::1", 7520)),
        ("fe80::1%eth0", ("fe80::1%eth0", 7520)),
    ],
)
def test_servers(text, expected):
    assert parse_server(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":1", "host:", "host:x", "host:0", "host:65536", "a:b:c", "[]", "[::1", "a b:1"]
)
def test_what_is_no_server(text):
    with pytest.raises(ValueError):
        parse_server(text)


def test_files_are_relative_to_the_file_that_names_them(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    settings = load_settings(config=str(config), environ={})
    assert settings == Settings(
        server="dev.test",
        ca=config.parent / "ca.crt",
        cert=config.parent / "admin.crt",
        key=Path("/abs/admin.key"),
    )
    other = load_settings(config=str(config), context="other", environ={})
    assert other.ca == Path("/home/u/ca.crt")
    assert other.cert == config.parent / "../c"


def test_single_arguments_need_no_file():
    settings = load_settings(server="h:1", ca="a", cert="b", key="c", environ={})
    assert (settings.host, settings.port, settings.ca) == ("h", 1, Path("a"))


def test_single_variables_need_no_file():
    assert host(environ=SINGLE) == "env.test"


def test_arguments_win_over_variables(config):
    assert host(server="arg.test", environ=SINGLE) == "arg.test"
    assert host(config=str(config), environ=SINGLE) == "dev.test"
    environ = SINGLE | {"JOBS_CONFIG": str(config)}
    assert host(context="other", environ=environ) == "other.test"


def test_single_variables_win_over_the_context_of_their_layer(config):
    environ = {"JOBS_CONFIG": str(config), "JOBS_SERVER": "env.test"}
    assert host(environ=environ) == "env.test"
    assert load_settings(environ=environ).ca == config.parent / "ca.crt"
    assert host(config=str(config), server="arg.test") == "arg.test"


def test_contexts_are_chosen_by_argument_variable_default(config):
    environ = {"JOBS_CONFIG": str(config)}
    assert host(environ=environ) == "dev.test"
    assert host(environ=environ | {"JOBS_CONTEXT": "other"}) == "other.test"
    assert host(environ=environ | {"JOBS_CONTEXT": "other"}, context="dev") == "dev.test"
    # JOBS_CONTEXT is a name in JOBS_CONFIG's file, not in one that was named instead of it.
    assert host(environ={"JOBS_CONTEXT": "nope"}, config=str(config)) == "dev.test"


def test_the_users_own_file_comes_last(tmp_path):
    folder = tmp_path / "xdg" / "jobs"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(FILE)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "JOBS_SERVER": ""}
    assert host(environ=environ) == "dev.test"
    assert host(environ=environ | SINGLE) == "env.test"
    assert default_path({"HOME": "/h"}) == Path("/h/.config/jobs/config.toml")


def test_the_only_context_needs_no_default(config):
    config.write_text(FILE.partition("[contexts.other]")[0].replace('default = "dev"', ""))
    assert host(config=str(config)) == "dev.test"


def test_nothing_is_configured(tmp_path):
    message = refusal(environ={"HOME": str(tmp_path)})
    assert message.startswith("no supervisor is configured: ")
    for way in ("--server", "JOBS_CONFIG", "jobs-supervisor --dev"):
        assert way in message


def test_something_is_missing(tmp_path):
    message = refusal(server="h", ca="x", environ={"HOME": str(tmp_path)})
    assert message.startswith("cert, key not given: ")


def test_a_context_without_a_file(tmp_path):
    message = refusal(context="dev", environ={"HOME": str(tmp_path)})
    where = f"there is no {tmp_path}/.config/jobs/config.toml to find the context 'dev' in"
    assert message == f"{where}; write it, or name another file with --config or JOBS_CONFIG"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("default = ", "is not a TOML file: Invalid value (at "),
        ("x = 1", "unknown: x (there are: default, contexts)"),
        (FILE + "colour = 1", "['other']: unknown: colour (there are: server, ca, cert, key)"),
        ("[contexts]\nx = 5", "contexts['x']: must be a map"),
        ('[contexts.a]\nserver = "h"\nca = "x"\ncert = "y"', "contexts['a'].key: is missing"),
        ('[contexts.a]\nserver = 5\nca = "x"\ncert = "y"\nkey="k"', "must be text, not 5"),
        (FILE.replace("dev.test", "h:x"), "a server is HOST or HOST:PORT"),
        (FILE.replace('"dev"', '"prod"'), "has no context 'prod'; it has these: dev, other"),
        (FILE.replace('default = "dev"', ""), "says no `default` context"),
        ("", "has no context; write one: [contexts.NAME] with server, ca, cert and key"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_named(config, text, why):
    config.write_text(text)
    message = refusal(config=str(config), environ={})
    assert str(config) in message
    assert why in message


def test_a_file_that_cannot_be_read_is_named(config, tmp_path):
    nowhere = f"{tmp_path}/nowhere.toml"
    expected = (
        f"cannot read {nowhere}: No such file or directory; --config or JOBS_CONFIG can name "
        "another file"
    )
    assert refusal(config=nowhere, environ={}) == expected
    assert refusal(environ={"JOBS_CONFIG": nowhere}) == expected
    config.write_bytes(b"\xff")
    assert "is not a TOML file" in refusal(config=str(config), environ={})


def test_a_bad_server_argument():
    assert "not 'h:x'" in refusal(server="h:x", ca="a", cert="b", key="c", environ={})


def test_what_is_written_is_read_again(tmp_path):
    folder = tmp_path / 'a "b" \\ \x7f ü'
    folder.mkdir()
    contexts = {
        name: Settings(
            server=f"127.0.0.1:{port}",
            ca=folder / "ca.crt",
            cert=folder / "sub" / f"{port}.crt",
            key=tmp_path / "key",
        )
        for port, name in enumerate(["dev", "dev-alice", 'odd "." name'], 1)
    }
    path = folder / "config.toml"
    write_contexts(path, contexts, "dev")
    for name, settings in contexts.items():
        assert load_settings(config=str(path), context=name, environ={}) == settings
    assert host(config=str(path)) == "127.0.0.1"
    moved = folder.rename(tmp_path / "moved")
    assert load_settings(config=str(moved / "config.toml"), environ={}).ca == moved / "ca.crt"


def test_writing_replaces_a_file_whole_or_not_at_all(config):
    with pytest.raises(ValueError):
        write_contexts(config, {}, "dev")
    broken = Settings(server="h", ca=Path("\udcff"), cert=Path("c"), key=Path("k"))
    with pytest.raises(UnicodeError):
        write_contexts(config, {"dev": broken}, "dev")
    assert config.read_text() == FILE
    assert list(config.parent.iterdir()) == [config]

"""Where a client finds its supervisor and its certificate: arguments, environment, file.

Three layers, the first one wins:

1.  explicit arguments (the CLI's flags): `server ca cert key` one by one, `config` and `context`;
2.  the environment: `JOBS_SERVER JOBS_CA JOBS_CERT JOBS_KEY`, or `JOBS_CONFIG` and `JOBS_CONTEXT`;
3.  `~/.config/jobs/config.toml`, or under `$XDG_CONFIG_HOME`.

Within a layer, a single value wins over the context's; what it leaves open, the context gives. A
context or file that was asked for explicitly is taken whole: the environment's single values,
meant for another supervisor, do not mix with it.
"""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from attrs import field, fields_dict, frozen

from jobs_proto.errors import JobsError
from jobs_proto.wire import structure

DEFAULT_PORT: Final = 7520

_SINGLE: Final = ("server", "ca", "cert", "key")
_HELP: Final = (
    "name them with --server --ca --cert --key, or with JOBS_SERVER JOBS_CA JOBS_CERT JOBS_KEY; or "
    "point --config or JOBS_CONFIG at a file with contexts (`jobs-supervisor --dev` writes one, "
    "and prints the line to export)"
)


def parse_server(text: str) -> tuple[str, int]:
    """Read `host`, `host:port`, `[v6]:port` or a bare IPv6 address.

    Raises:
        ValueError: it is none of them.
    """
    if _is_ipv6(text):
        return text, DEFAULT_PORT
    match = re.fullmatch(r"(?:\[(?P<v6>.+)]|(?P<host>[^][:/\s]+))(?::(?P<port>[0-9]{1,5}))?", text)
    if match is None or (match["v6"] and not _is_ipv6(match["v6"])):
        raise ValueError(f"a server is HOST or HOST:PORT or [IPV6]:PORT, not {text!r}")
    host, port = match["v6"] or match["host"], int(match["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"a port is 1 to 65535, not {port}")
    return host, port


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _server(_entry: object, _field: object, text: str) -> None:
    parse_server(text)


@frozen(kw_only=True)
class Settings:
    """Whom to connect to, and as whom.

    Attributes:
        server: `host[:port]`.
        ca: PEM file of the CA that the server's certificate must be of.
        cert: PEM file of our certificate.
        key: PEM file of its private key.
    """

    server: str = field(validator=_server)
    ca: Path
    cert: Path
    key: Path

    @property
    def host(self) -> str:
        """The name or address that the server's certificate must bear."""
        return parse_server(self.server)[0]

    @property
    def port(self) -> int:
        """The TCP port."""
        return parse_server(self.server)[1]


@frozen(kw_only=True)
class _Entry:
    """One context, as it stands in the file."""

    server: str = field(validator=_server)
    ca: str
    cert: str
    key: str


@frozen(kw_only=True)
class _File:
    """The file: contexts by name, and which one to take when none is named."""

    default: str | None = None
    contexts: dict[str, _Entry] = field(factory=dict)


def load_settings(
    *,
    config: str | None = None,
    context: str | None = None,
    server: str | None = None,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Find the settings; see the head of this file for what wins over what.

    Args:
        config: file with contexts.
        context: name of one in it.
        server: `host[:port]`.
        ca: file.
        cert: file.
        key: file.
        environ: where the `JOBS_…` variables, `XDG_CONFIG_HOME` and `HOME` come from.

    Raises:
        JobsError: something is missing or wrong; the sentence says where, and what to do.
    """
    single = {"server": server, "ca": ca, "cert": cert, "key": key}
    if not (config or context):
        for name in _SINGLE:
            single[name] = single[name] or environ.get(f"JOBS_{name.upper()}")
    found = {name: value for name, value in single.items() if value}
    if len(found) < len(_SINGLE):
        path = config or environ.get("JOBS_CONFIG")
        chosen = context or (None if config else environ.get("JOBS_CONTEXT"))
        found = _from_file(path, chosen, environ, found) | found
    return _settings(found)


def _from_file(
    given: str | None, context: str | None, environ: Mapping[str, str], found: Mapping[str, str]
) -> dict[str, str]:
    path = Path(given).expanduser() if given else default_path(environ)
    if not given and not path.exists():
        if context:
            raise JobsError(
                "failed_precondition",
                f"there is no {path} to find the context {context!r} in; write it, or name another "
                "file with --config or JOBS_CONFIG",
            )
        missing = ", ".join(name for name in _SINGLE if name not in found)
        what = f"{missing} not given" if found else "no supervisor is configured"
        raise JobsError("failed_precondition", f"{what}: {_HELP}")
    entry = _choose(_read(path), context, path)
    files = {name: getattr(entry, name) for name in ("ca", "cert", "key")}
    base = path.absolute().parent
    return {
        "server": entry.server,
        **{name: str(base / Path(value).expanduser()) for name, value in files.items()},
    }


def default_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Give the path of the user's own configuration file."""
    base = environ.get("XDG_CONFIG_HOME")
    home = Path(environ.get("HOME") or Path.home())
    return (Path(base) if base else home / ".config") / "jobs" / "config.toml"


def _read(path: Path) -> _File:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobsError(
            "failed_precondition",
            f"cannot read {path}: {error.strerror}; --config or JOBS_CONFIG can name another file",
        ) from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise JobsError("failed_precondition", f"{path} is not a TOML file: {error}") from None
    try:
        return structure(raw, _File, str(path))
    except JobsError as error:
        raise JobsError("failed_precondition", error.message, error.detail) from None


def _choose(file: _File, context: str | None, path: Path) -> _Entry:
    name = (
        context or file.default or (next(iter(file.contexts)) if len(file.contexts) == 1 else None)
    )
    if not file.contexts:
        raise JobsError(
            "failed_precondition",
            f"{path} has no context; write one: [contexts.NAME] with server, ca, cert and key",
        )
    there = ", ".join(file.contexts)
    if name is None:
        raise JobsError(
            "failed_precondition",
            f"{path} says no `default` context; name one with --context or JOBS_CONTEXT: {there}",
        )
    if name not in file.contexts:
        raise JobsError(
            "failed_precondition", f"{path} has no context {name!r}; it has these: {there}"
        )
    return file.contexts[name]


def _settings(found: Mapping[str, str]) -> Settings:
    files = {name: Path(found[name]).expanduser() for name in ("ca", "cert", "key")}
    try:
        return Settings(server=found["server"], **files)
    except ValueError as error:
        raise JobsError("failed_precondition", str(error)) from None


def write_contexts(path: Path, contexts: Mapping[str, Settings], default: str) -> None:
    """Write a configuration file, at once or not at all.

    Args:
        path: the file; the folder exists.
        contexts: by name. Files below the folder of `path` are written relative to it, so that
            the folder can be moved.
        default: the name of the one to use when none is named.

    Raises:
        OSError: it cannot be written.
        ValueError: `default` is not among the contexts.
    """
    if default not in contexts:
        raise ValueError(f"the default {default!r} is not among the contexts")
    lines = [f"default = {_quoted(default)}"]
    for name, settings in contexts.items():
        lines += ["", f"[contexts.{_quoted(name)}]"]
        for each in fields_dict(Settings):
            value = getattr(settings, each)
            text = _relative(value, path.parent) if isinstance(value, Path) else value
            lines.append(f"{each} = {_quoted(text)}")
    _replace(path, "\n".join(lines) + "\n")


def _relative(file: Path, folder: Path) -> str:
    absolute, base = file.absolute(), folder.absolute()
    return str(absolute.relative_to(base) if absolute.is_relative_to(base) else absolute)


def _quoted(text: str) -> str:
    """Write a TOML basic string: JSON's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise

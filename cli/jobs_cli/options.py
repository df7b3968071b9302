"""Options made of an attrs class of the protocol: one definition of each field, and of its help."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter, Token

from jobs_cli import duration, pairs, size
from jobs_cli.prose import parameters_joined


def options_of(cls: type, *, skip: frozenset[str]) -> type:
    """Make the class of options that a protocol class's fields are on the command line.

    `timeout_s: float` becomes `--timeout DURATION`, a map becomes a repeatable `--env KEY=VALUE`,
    any other field an option of its own name and type. The help is the class's own docstring.

    Args:
        cls: an attrs class.
        skip: fields that are not options by themselves.
    """
    made = attrs.make_class(
        f"{cls.__name__}Options",
        {
            field.name: attrs.field(
                default=None, type=_annotation(field), metadata={_IS_MAP: _is_map(field)}
            )
            for field in attrs.fields(cls)
            if field.name not in skip
        },
        frozen=True,
        kw_only=True,
    )
    made.__doc__ = _help(cls.__doc__ or "")
    flattened: type = Parameter(name="*")(made)
    return flattened


def _help(docstring: str) -> str:
    """Say to people what was said to programmers."""
    return (
        parameters_joined(docstring)
        .replace("; None: ", "; default: ")
        .replace(": seconds of ", ": ")
        .replace(": bytes of ", ": ")
        .replace("`output_policy`", "--output-policy")
    )


def given(options: "attrs.AttrsInstance | None") -> dict[str, Any]:
    """Give the protocol class's fields that were set by options.

    Args:
        options: an instance of the class that was made; None: no option was given.

    Raises:
        ValueError: a `KEY=VALUE` is none.
    """
    values = {
        field: getattr(options, field.name)
        for field in (attrs.fields(type(options)) if options else ())
    }
    return {
        field.name: pairs.as_map(value, f"--{field.name}") if field.metadata[_IS_MAP] else value
        for field, value in values.items()
        if value is not None
    }


def _named(_type: object, tokens: Sequence[Token]) -> str:
    if not tokens[0].value.strip():
        raise ValueError("an ID is empty; perhaps a variable of the shell is not set")
    return tokens[0].value


Id = Annotated[str, Parameter(converter=_named, metavar="ID")]
"""The type of an argument that names a job."""

_SECONDS: Final = "_s"
_IS_MAP: Final = "is_map"
_NAMES: Final = {"enforcement": "--limits", "binds": "--bind"}
"""Options that are not called as their fields."""

_METAVARS: Final = {
    "binds": "SRC:DST[:ro]",
    "tmpfs": "DST[:SIZE]",
    "rootfs": "DIR",
    "cwd": "DIR",
    "user": "USER",
    "output_policy": "POLICY",
    "cpus": "N",
    "cpuset": "CPUS",
    "pids": "N",
    "io_read_iops": "N",
    "io_write_iops": "N",
    "io_device": "PATH",
    "nofile": "N",
    "enforcement": "MODE",
    "network": "MODE",
    "hostname": "NAME",
    "cap_add": "CAP",
    "cap_drop": "CAP",
}


def _is_map(field: "attrs.Attribute[Any]") -> bool:
    return field.type == dict[str, str]


def _annotation(field: "attrs.Attribute[Any]") -> Any:
    if _is_map(field):
        return Annotated[tuple[str, ...] | None, pairs.OPTION]
    if field.name.endswith(_SECONDS):
        option = f"--{field.name.removesuffix(_SECONDS)}"
        return Annotated[field.type, duration.OPTION, Parameter(name=option)]
    if field.name.endswith(("_bytes", "_bps")):
        option = f"--{field.name.removesuffix('_bytes').replace('_', '-')}"
        return Annotated[field.type, size.OPTION, Parameter(name=option)]
    name = Parameter(name=_NAMES.get(field.name), metavar=_METAVARS.get(field.name))
    return Annotated[field.type | None, name]  # type: ignore[operator]  # a class, or a union

"""From untrusted maps to attrs classes and back: strict, with every fault named by its path.

Nothing is coerced: a number is not a string, true is not 1, an unknown key is refused.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_origin

import cattrs
import cattrs.cols
from attrs import fields_dict, has
from cattrs import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from jobs_proto.errors import JobsError

MAX_FAULTS = 20
"""Faults that are named in one list or map; to name all of a large message's takes seconds."""

T = TypeVar("T")

_SAID = {
    str: "text",
    bytes: "bytes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _exactly(cls: type, *also: type) -> Callable[[Any, Any], Any]:
    accepted = (cls, *also)

    def hook(value: Any, _cls: Any) -> Any:
        if type(value) is cls:
            return value
        if not isinstance(value, accepted) or (cls is not bool and isinstance(value, bool)):
            shown = type(value).__name__ if cls is bytes else repr(value)[:80]  # may be a secret
            raise TypeError(f"must be {_SAID[cls]}, not {shown}")
        return cls(value)

    return hook


def _one_of(value: Any, cls: type[StrEnum]) -> StrEnum:
    try:
        return cls(value)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(cls)}, not {value!r:.80}") from None


def _is_optional(cls: Any) -> bool:
    """Whether it is some other type or None."""
    is_union = get_origin(cls) in (Union, UnionType)
    return is_union and NoneType in cls.__args__ and len(cls.__args__) == 2


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(str, _exactly(str))
    converter.register_structure_hook(StrEnum, _one_of)  # it is a str, and must not become one
    converter.register_structure_hook(int, _exactly(int))
    converter.register_structure_hook(float, _exactly(float, int))
    converter.register_structure_hook(bool, _exactly(bool))
    converter.register_structure_hook(bytes, _exactly(bytes))

    @converter.register_structure_hook_factory(_is_optional)
    def _optional(cls: Any) -> Callable[[Any, Any], Any]:
        (item,) = (each for each in cls.__args__ if each is not NoneType)
        hook = converter.get_structure_hook(item)
        return lambda value, _cls: None if value is None else hook(value, item)

    @converter.register_structure_hook_factory(cattrs.cols.is_sequence)
    def _list(cls: Any) -> Callable[[Any, Any], Any]:
        item = cls.__args__[0]
        each = converter.get_structure_hook(item)

        def hook(value: Any, _cls: Any) -> Any:
            if not isinstance(value, (list, tuple)):
                raise TypeError(f"must be a list, not {value!r:.80}")
            if not value:
                return ()
            return tuple(_structured(enumerate(value), each, item))

        return hook

    @converter.register_structure_hook_factory(cattrs.cols.is_mapping)
    def _map(cls: Any) -> Callable[[Any, Any], Any]:
        key, item = cls.__args__
        each_key, each = map(converter.get_structure_hook, (key, item))

        def hook(value: Any, _cls: Any) -> Any:
            if not isinstance(value, dict):
                raise TypeError(f"must be a map, not {value!r:.80}")
            if not value:
                return {}
            keys = tuple(_structured(((name, name) for name in value), each_key, key))
            return dict(zip(keys, _structured(value.items(), each, item), strict=True))

        return hook

    return converter


def _structured(
    named: Iterable[tuple[Any, Any]], hook: Callable[[Any, Any], Any], cls: Any
) -> Iterator[Any]:
    """Make each item of a list or map; raise with the first `MAX_FAULTS` of what is wrong."""
    faults: list[Exception] = []
    for name, item in named:
        try:
            yield hook(item, cls)
        except Exception as error:  # noqa: BLE001  as `structure`
            error.add_note(IterableValidationNote("", name, cls))
            faults.append(error)
            if len(faults) == MAX_FAULTS:
                break
    if faults:
        raise IterableValidationError("items", faults, cls)


converter = _make_converter()


def _why(error: BaseException, wanted: object = None) -> str:
    if isinstance(error, ForbiddenExtraKeysError):
        unknown = ", ".join(sorted(map(str, error.extra_fields)))
        return f"unknown: {unknown} (there are: {', '.join(fields_dict(error.cl))})"
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(wanted, type) and has(wanted):
        return "must be a map"  # what is wrong within one comes as a group of errors
    return str(error)


def _faults(error: BaseException, path: str, wanted: object = None) -> list[str]:
    """Flatten cattrs' nested groups into `path: what is wrong` lines."""
    if isinstance(error, ClassValidationError):
        named, others = error.group_exceptions()
        return [
            *(
                f
                for e, note in named
                for f in _faults(e, f"{path}.{note.name}".lstrip("."), note.type)
            ),
            *(f for e in others for f in _faults(e, path)),
        ]
    if isinstance(error, IterableValidationError):
        indexed, others = error.group_exceptions()
        return [
            *(f for e, note in indexed for f in _faults(e, f"{path}[{note.index!r}]", note.type)),
            *(f for e in others for f in _faults(e, path)),
        ]
    why = _why(error, wanted)
    return [f"{path}: {why}" if path else why]


def structure(raw: object, cls: type[T], what: str) -> T:
    """Make a `cls` of a map that somebody sent or wrote.

    Args:
        raw: what msgpack or TOML decoded.
        cls: an attrs class.
        what: the thing's name, for the message: `params of run`, `supervisor.toml`.

    Raises:
        JobsError: `invalid_argument`, with every fault named.
    """
    if not isinstance(raw, dict):
        raise JobsError("invalid_argument", f"{what} must be a map, not {type(raw).__name__}")
    try:
        return converter.structure(raw, cls)
    except Exception as error:  # noqa: BLE001  cattrs raises groups of what validators raise
        faults = _faults(error, "")
        raise JobsError(
            "invalid_argument", f"{what}: {'; '.join(faults)}", {"faults": faults}
        ) from None


def unstructure(value: object) -> dict[str, Any]:
    """Make the map of an attrs instance: plain MessagePack (and JSON) types."""
    result: dict[str, Any] = converter.unstructure(value)
    return result

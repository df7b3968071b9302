"""Sizes as people write them: `1000`, `64k`, `512M`, `1.5G`; powers of 1024."""

import re
from types import MappingProxyType
from typing import Final

UNITS: Final = MappingProxyType({"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40})

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?)([KMGT]?)(?:I?B)?")


def in_bytes(text: str) -> int:
    """Read a size; `512M`, `512MB` and `512MiB` are one.

    Raises:
        ValueError: this is no size.
    """
    found = _SIZE.fullmatch(text.upper())
    if not found:
        raise ValueError(f"{text!r} is no size; write 1000, 64K, 512M or 1.5G")
    number, unit = found.groups()
    return round(float(number) * UNITS[unit])

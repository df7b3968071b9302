"""Sizes as options: `--memory 512M`."""

from collections.abc import Sequence
from typing import Final

from cyclopts import Parameter, Token

from jobs_proto.sizes import in_bytes


def _convert(_type: object, tokens: Sequence[Token]) -> int:
    return in_bytes(tokens[0].value)


OPTION: Final = Parameter(converter=_convert, metavar="SIZE")

"""Fills the holes in the heap, so that what comes after lies together; imported before the rest.

Theory. obmalloc gives a new object the first free block of its size, wherever the death of another
has left one: objects that are made together, and later used together, end up on as many pages as
there are holes. To use an object is to count a reference, which is to write; and in a forked
process the first write to a page makes a copy of it. So before the modules of the shim are
imported, and again before the first fork, each size's holes are filled with objects that nobody
will ever touch. What comes then comes from fresh pools, one after the other. Locks are there for
the small blocks of malloc(3), from which Python takes new ones for every forked process.

`tests/bench/README.md` has the figures.
"""

import _thread

# The modules of others that the shim uses; here, so that theirs and ours do not mix.
import ctypes  # noqa: F401
import fcntl  # noqa: F401
import resource  # noqa: F401
import select  # noqa: F401
import time  # noqa: F401
from collections.abc import Iterator
from types import FunctionType, ModuleType

import msgpack  # noqa: F401

_POOL, _POOL_HEADER = 16384, 48  # Objects/obmalloc.c
_SMALL, _LARGEST, _STEP = 48, 512, 16  # a bytes object has 33 bytes more than it holds
_ENOUGH = 500  # on an interpreter with other pools: no more than that of any size
_LOCKS = 1000

_fillers: list[object] = []


def fill_holes() -> None:
    """Use up what is free between objects."""
    _fill_heap()
    _fill_pools()


def _fill_heap() -> None:
    """Use up the holes of malloc(3), which has what is larger than obmalloc's sizes."""
    top = id(bytes(100_000))  # no hole is as large: this was above all that there is
    size = 65536
    while size > _LARGEST:
        filler = bytes(size)
        if id(filler) < top:
            _fillers.append(filler)
        else:
            size = size * 3 // 4
    _fillers.extend(_thread.allocate_lock() for _ in range(_LOCKS))


def _fill_pools() -> None:
    """Use up the free blocks of obmalloc's pools."""
    for size in range(_SMALL, _LARGEST + 1, _STEP):
        for _ in range(_ENOUGH):
            filler = bytes(size - 33)
            if id(filler) % _POOL == _POOL_HEADER:
                break  # the first block of a fresh pool: there are no more holes
            _fillers.append(filler)
    for number in range(1 << 40, (1 << 40) + _ENOUGH):
        integer = number + 1  # of 32 bytes, a size that no bytes object has
        if id(integer) % _POOL == _POOL_HEADER:
            break
        _fillers.append(integer)


def gather_code(*modules: ModuleType) -> None:
    """Have the code of all functions of these modules together; each call writes to its head.

    Only what is too large for obmalloc, which has a pool for each size of the others.
    """
    functions = [f for module in modules for f in _functions_of(module)]
    large = [f for f in functions if f.__code__.__sizeof__() > _LARGEST]
    _fill_heap()
    copies = [f.__code__.replace() for f in large]
    for function, copy in zip(large, copies, strict=True):
        function.__code__ = copy


def _functions_of(module: ModuleType) -> Iterator[FunctionType]:
    for value in vars(module).values():
        if isinstance(value, FunctionType):
            yield value
        elif isinstance(value, type) and value.__module__ == module.__name__:
            yield from (v for v in vars(value).values() if isinstance(v, FunctionType))


fill_holes()

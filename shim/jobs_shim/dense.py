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

import msgpack  # noqa: F401

_POOL, _POOL_HEADER = 16384, 48  # Objects/obmalloc.c
_SMALL, _LARGEST, _STEP = 48, 512, 16  # a bytes object has 33 bytes more than it holds
_ENOUGH = 5000  # on an interpreter with other pools: no more than that of any size
_LOCKS = 1000

_fillers: list[object] = []


def fill_holes() -> None:
    """Use up what is free in the pools that are in use."""
    _fillers.extend(_thread.allocate_lock() for _ in range(_LOCKS))
    for size in range(_SMALL, _LARGEST + 1, _STEP):
        for _ in range(_ENOUGH):
            filler = bytes(size - 33)
            if id(filler) % _POOL == _POOL_HEADER:
                break  # the first block of a fresh pool: there are no more holes
            _fillers.append(filler)
    for number in range(1 << 40, (1 << 40) + _ENOUGH):
        filler = number + 1  # an int of 32 bytes, a size that no bytes object has
        if id(filler) % _POOL == _POOL_HEADER:
            break
        _fillers.append(filler)


fill_holes()

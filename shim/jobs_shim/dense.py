import os
_filling = []
_POOL = 16384  # obmalloc.c
_POOL_HEADER = 48


def fill_holes() -> None:
    """Use up what is free."""
    for size in range(48, 513, 16):
        for _ in range(2000):
            filler = bytes(size - 33)
            if id(filler) % _POOL == _POOL_HEADER:
                break
            _filling.append(filler)
    if "LOCKS" in os.environ:
        import _thread
        for _ in range(1000): _filling.append(_thread.allocate_lock())

if 'EARLY' in os.environ: fill_holes()


def lay_out():
    import sys
    from types import FunctionType
    codes = []
    for name, module in list(sys.modules.items()):
        if name.startswith("jobs_") or name == "__main__":
            for value in list(vars(module).values()):
                if isinstance(value, type) and value.__module__.startswith("jobs_"):
                    found = list(vars(value).values())
                else:
                    found = [value]
                for f in found:
                    f = getattr(f, "__func__", f)
                    if isinstance(f, FunctionType) and f.__module__ == name:
                        codes.append(f)
    fill_holes()
    if "BIG" in os.environ:
        for size in range(560, 4096, 48):
            for _ in range(20):
                _filling.append(bytes(size - 33))
    for f in codes:
        f.__code__ = f.__code__.replace()

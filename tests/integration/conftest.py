"""Fixtures are in a module of their own, for other folders to have them too."""

import signal

from fixtures import (  # noqa: F401  # fixtures are found here by name
    deadline,
    gates,
    make_shared,
    make_supervisor,
    shared,
    supervisor,
)
from forkservers import compiled, isolated, plain, server, stack  # noqa: F401
from isolated import apart, folder, rootfs  # noqa: F401
from refusals import serves_on, serving  # noqa: F401

# In the background of a shell it is ignored, and programs that tests start would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

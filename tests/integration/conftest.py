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
from isolated import apart, folder, rootfs  # noqa: F401

# In the background of a shell it is ignored, and programs that tests start would ignore it, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

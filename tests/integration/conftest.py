"""Fixtures are in a module of their own, for other folders to have them too."""

from fixtures import (  # noqa: F401  # fixtures are found here by name
    deadline,
    gates,
    make_shared,
    make_supervisor,
    shared,
    supervisor,
)
from isolated import apart, folder, rootfs  # noqa: F401

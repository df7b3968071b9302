"""As for the integration tests."""

from fixtures import (  # noqa: F401  # fixtures are found here by name
    deadline,
    gates,
    make_shared,
    make_supervisor,
    shared,
    supervisor,
)

"""What holds for all tests."""

import os

import pytest


def pytest_collection_modifyitems(items):
    """Skip what needs root, without it."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))

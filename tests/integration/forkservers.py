"""Fixtures: fork servers of their own, without a supervisor."""

import compileall
import contextlib

import pytest
import shims

import jobs_proto
import jobs_shim


@pytest.fixture(scope="session")
def compiled():
    """Have the shim's modules compiled, as an installed wheel has them: compiling leaves its mark.

    A fork server that compiles has a larger and more scattered heap, and so have all its shims.
    """
    for package in (jobs_proto, jobs_shim):
        assert compileall.compile_dir(next(iter(package.__path__)), quiet=1)


@pytest.fixture
def plain(tmp_path, compiled):
    """A fork server whose jobs have no namespaces and no cgroup: what everybody can have."""
    server = shims.ForkServer(tmp_path, isolated=False)
    yield server
    server.close()


@pytest.fixture
def isolated(tmp_path, compiled):
    """A fork server whose jobs are isolated."""
    server = shims.ForkServer(tmp_path, isolated=True)
    yield server
    server.close()


@pytest.fixture(params=["plain", pytest.param("isolated", marks=pytest.mark.root)])
def server(request):
    """Give each of the two in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def stack():
    """What is to be closed at the end."""
    with contextlib.ExitStack() as stack:
        yield stack

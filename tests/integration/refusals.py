"""What tests of refusals share: a supervisor with limits in reach, which has to serve on."""

import pytest
from harness import JobsError
from wire import Wire

HANDSHAKE_S = 0.5
MAX_MESSAGE = 1 << 20


@pytest.fixture(scope="module")
def serving(make_shared):
    """Give a supervisor with limits that a test can reach."""
    return make_shared(server={"handshake_s": HANDSHAKE_S, "max_message": MAX_MESSAGE})


@pytest.fixture
def serves_on(serving):
    """Whatever was done to it: the next one is served."""
    yield
    with Wire(serving) as wire:
        error, job = wire.call("run", {"spec": {"argv": ["true"]}})
        assert error is None
        error, job = wire.call("wait", {"id": job["id"]})
    assert (error, job["outcome"]) == (None, "completed")
    assert "Traceback" not in serving.log.read_text()


async def refusal_of(function, *arguments, **options) -> JobsError:
    """Give the refusal that a call ends with."""
    with pytest.raises(JobsError) as refusal:
        await function(*arguments, **options)
    return refusal.value

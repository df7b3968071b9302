"""Today's supervisor and shims of each version that it must speak with; recorded by `record.py`."""

import os
import signal
import tomllib
from pathlib import Path

import harness
import pytest
import shims
import trio
from harness import in_thread, until_running
from othershim import OtherShim

from jobs_proto import files
from jobs_proto import shim as protocol
from jobs_supervisor import reattach

FOLDER = Path(__file__).parent

KINDS = {
    value
    for name, value in vars(protocol).items()
    if name.isupper() and isinstance(value, str) and name.lower() == value
}


class Recording:
    """What was said in one version.

    Attributes:
        packets: [(who, bytes)], in order.
    """

    def __init__(self, version: int) -> None:
        text = (FOLDER / f"shim-v{version}.toml").read_text()
        entries = tomllib.loads(text)["packet"]
        self.packets = [(each["from"], bytes.fromhex(each["hex"])) for each in entries]

    def last(self, who: str, kind: str, **wanted: object) -> bytes:
        """Give the last packet of this kind, with these values in it."""
        for name, packet in reversed(self.packets):
            got, body = protocol.unpack(packet)
            if (name, got) == (who, kind) and wanted.items() <= body.items():
                return packet
        raise LookupError(f"{who} does not say {kind} {wanted} in this recording")

    def body(self, who: str, kind: str) -> dict:
        return protocol.unpack(self.last(who, kind))[1]


VERSIONS = [version for version in protocol.SPOKEN if version > 0]


@pytest.fixture(params=VERSIONS)
def recording(request):
    """Give the recording of each version that is spoken."""
    return Recording(request.param)


def test_all_that_this_version_says_was_recorded():
    """If this fails, the protocol has a new message: record it, by record.py."""
    packets = Recording(protocol.PROTOCOL).packets
    assert {protocol.unpack(packet)[0] for _, packet in packets} == KINDS


def test_what_this_version_writes_is_what_was_recorded():
    """Byte for byte: the same message is the same packet."""
    for _, packet in Recording(protocol.PROTOCOL).packets:
        assert protocol.pack(*protocol.unpack(packet)) == packet


@pytest.mark.root
def test_todays_shim_obeys_a_supervisor_of_that_version(recording, tmp_path):
    server = shims.ForkServer(tmp_path, isolated=True)
    try:
        sleeper = "trap '' USR1; sleep 1000 & trap 'echo heard' USR1"  # which alone hears of it
        script = f"{sleeper}; echo ready; while :; do wait; done"
        job = server.launch(["sh", "-c", script])
        say = job.connection.send
        job.expect(protocol.STARTED)
        say(protocol.pack(protocol.WATCH, {"offset": 0}))
        assert job.expect(protocol.GREW) == {"total": 6}
        say(recording.last("supervisor", protocol.WATCH, offset=6))
        say(recording.last("supervisor", protocol.SIGNAL))
        assert job.expect(protocol.GREW) == {"total": 12}
        assert job.output == b"ready\nheard\n"
        say(recording.last("supervisor", protocol.USAGE))
        assert job.expect(protocol.USAGE)["output"]["stdout"] == 12
        for frozen in (True, False):
            say(recording.last("supervisor", protocol.FREEZE, frozen=frozen))
            assert job.expect(protocol.FROZEN) == {"frozen": frozen}
        say(recording.last("supervisor", protocol.UPDATE))
        say(recording.last("supervisor", protocol.KILL))
        ended = job.end()
        asked = recording.body("supervisor", protocol.KILL)
        assert (ended["status"], ended["killed_by"]) == (asked["signal"], asked["by"])
    finally:
        server.close()


@pytest.fixture
async def orphaned(supervisor):
    """Give a client, a job whose shim another one can be in the place of, and its directory."""
    async with supervisor.client() as client:
        job = await until_running(client, await client.run(["sh", "-c", "echo ready; sleep 1000"]))
        # That it runs is on the disk with what is answered after it, at the latest.
        await client.wait((await client.run(["true"])).id)
        init = supervisor.init(job)
        await in_thread(supervisor.kill)
        os.kill(supervisor.shim(job), signal.SIGKILL)  # and its init with it, and the job
        assert await in_thread(shims.gone, init)
        for cgroup in supervisor.job_cgroups():
            if cgroup.name == job.id:
                cgroup.rmdir()  # as the shim would have done
        yield client, job, supervisor.job_directory(job)


@pytest.mark.root
async def test_todays_supervisor_works_with_a_shim_of_that_version(recording, supervisor, orphaned):
    """A peer that says what a shim of that version has said, to the end of its job."""
    client, job, directory = orphaned
    shim = OtherShim(directory)
    try:
        await in_thread(supervisor.start)
        await in_thread(shim.accept, recording.last("shim", protocol.HELLO))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_answer_usage, shim, recording)
            seen = await client.inspect(job.id)
        told = recording.body("shim", protocol.USAGE)
        assert (seen.phase, seen.notes) == ("running", job.notes)
        assert seen.usage.memory_bytes == told["usage"]["memory_bytes"]
        assert seen.output.stdout == told["output"]["stdout"]

        await client.kill(job.id, signal="TERM", grace_s=0.5)
        heard = await in_thread(shim.hear)
        assert heard == (protocol.KILL, {"signal": signal.SIGTERM, "grace_s": 0.5, "by": "admin"})
        exited = recording.last("shim", protocol.EXITED)
        (directory / files.EXIT).write_bytes(files.encode(protocol.unpack(exited)[1]))
        shim.connection.send(exited)
        ended = await client.wait(job.id)
        how = (ended.outcome, ended.exit.signal, ended.exit.killed_by)
        assert how == ("stopped", "TERM", "admin")
        assert ended.output.total == protocol.unpack(exited)[1]["output"]["total"]
    finally:
        shim.close()


async def _answer_usage(shim, recording):
    assert await in_thread(shim.hear) == (protocol.USAGE, {})
    shim.connection.send(recording.last("shim", protocol.USAGE))


@pytest.mark.root
async def test_a_shim_of_a_version_that_is_not_spoken_is_left_alone(supervisor, orphaned):
    client, job, directory = orphaned
    recording = Recording(protocol.PROTOCOL)
    shim = OtherShim(directory)
    try:
        await in_thread(supervisor.start)
        hello = recording.body("shim", protocol.HELLO) | {"protocol": protocol.PROTOCOL + 7}
        await in_thread(shim.accept, protocol.pack(protocol.HELLO, hello))
        seen = await client.inspect(job.id)
        assert seen.phase == "running"
        assert f"version {protocol.PROTOCOL + 7} " in seen.notes[-1]
        assert seen.notes[-1] in supervisor.said()
        with pytest.raises(harness.JobsError, match="cannot be reached"):
            await client.signal(job.id, "TERM")
        assert (await client.kill(job.id, grace_s=0)).phase == "stopping"
        shim.end(files.encode(recording.body("shim", protocol.EXITED) | {"of_later": 1}))
        ended = await client.wait(job.id)
        assert (ended.outcome, ended.exit.signal, ended.notes) == ("stopped", "TERM", job.notes)
        assert reattach.SILENT not in supervisor.said()
    finally:
        shim.close()

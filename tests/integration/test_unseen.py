"""A job that may not be seen and one that is not there: plugins are asked the same of both.

They may take seconds, and have the same to do for both. That a record is decoded for one of them
is left to who measures microseconds: `Dispatcher._find`.
"""

import pytest
from harness import JobsError, in_thread

PLUGIN = """
import os
from jobs_plugins import hookimpl

@hookimpl
def jobs_authorize(identity, action, request, job):
    with open(os.environ["ASKED"], "a") as file:
        print(identity.name, action, type(request).__name__, job is None, file=file)
"""
NO_JOB = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Install a plugin for the supervisor; give a function that tells what it was asked since."""
    package = tmp_path / "packages"
    info = package / "noting-1.0.dist-info"
    info.mkdir(parents=True)
    (package / "noting.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: noting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jobs]\nnoting = noting\n")
    notes = tmp_path / "asked"
    notes.touch()
    monkeypatch.setenv("PYTHONPATH", str(package))
    monkeypatch.setenv("ASKED", str(notes))

    def asked():
        lines = notes.read_text().splitlines()
        notes.write_text("")
        return lines

    return asked


@pytest.mark.parametrize("named_by", ["id", "prefix", "name"])
async def test_plugins_are_asked_the_same(asked, make_supervisor, named_by):
    supervisor = await in_thread(make_supervisor)
    async with supervisor.client() as admin, supervisor.client("dev-alice") as alice:
        job = await admin.run(["true"], name="secret")
        hidden = {"id": job.id, "prefix": job.id[:12], "name": "secret"}[named_by]
        missing = {"id": NO_JOB, "prefix": NO_JOB[:12], "name": "nothing"}[named_by]
        asked()
        found = []
        for ident in (hidden, missing):
            for action in ("inspect", "kill", "wait", "follow"):
                with pytest.raises(JobsError) as caught:
                    await alice.call(action, {"id": ident})
                assert caught.value.code == "not_found"
                found.append((ident == hidden, action, asked()))
        assert [asked for seen, _, asked in found if seen] == [
            asked for seen, _, asked in found if not seen
        ]
        assert all(asked == ["alice inspect NoneType False"] for _, _, asked in found)

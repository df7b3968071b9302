"""What people run: archives, binary data, compilers, scripts; each byte as it was written."""

import hashlib
import os
import random
import subprocess

import harness
import pytest
import trio
from harness import collect, finish

MEGABYTES = 300


async def test_an_archive_comes_out_as_tar_wrote_it(shared):
    # In a user namespace root's files seem to be nobody's, and tar would write that down.
    owner = [] if os.geteuid() == 0 else ["--owner=0", "--group=0", "--numeric-owner"]
    argv = ["tar", *owner, "-C", "/usr", "-cf", "-", "share/doc"]
    direct = await harness.in_thread(
        lambda: subprocess.run([harness.program("tar"), *argv[1:]], capture_output=True, check=True)
    )
    through = await harness.in_thread(lambda: shared.cli("run", "-f", "--", *argv))
    assert through.returncode == 0, through.stderr
    assert through.stderr == b""
    assert len(through.stdout) > 0
    assert hashlib.sha256(through.stdout).digest() == hashlib.sha256(direct.stdout).digest()


GENERATOR = f"""
import random, sys
source = random.Random(7)
for _ in range({MEGABYTES}):
    sys.stdout.buffer.write(source.randbytes(1 << 20))
"""


async def test_hundreds_of_megabytes_of_binary_data(shared):
    source, expected = random.Random(7), hashlib.sha256()
    async with shared.client() as client:
        job = await client.run(["python3", "-c", GENERATOR])
        received, size = hashlib.sha256(), 0
        async for item in client.follow(job.id):
            if isinstance(item, harness.Chunk):
                received.update(item.data)
                size += len(item.data)
        done = await client.inspect(job.id)
    for _ in range(MEGABYTES):
        expected.update(source.randbytes(1 << 20))
    assert size == MEGABYTES << 20
    assert received.digest() == expected.digest()
    assert (done.outcome, done.output.total, done.output.lost) == ("completed", size, 0)


@pytest.mark.skipif(harness.program("cc") is None, reason="there is no C compiler, cc, here")
async def test_a_compiler(shared):
    source = '#include <stdio.h>\\nint main(void) { puts(\\"compiled\\"); return 3; }\\n'
    script = f'dir=$(mktemp -d) && cd "$dir" && printf "{source}" > a.c && cc a.c -o a && ./a'
    async with shared.client() as client:
        done, output = await finish(client, ["sh", "-c", f'{script}; s=$?; rm -r "$dir"; exit $s'])
    assert (output.stdout, output.stderr) == (b"compiled\n", b"")
    assert (done.outcome, done.exit.code) == ("failed", 3)


BOTH = """
import sys
for n in range(5000):
    sys.stdout.buffer.write(b"out %d \\x00\\xff\\n" % n)
    sys.stdout.flush()
    sys.stderr.buffer.write(b"err %d \\xfe\\x00\\n" % n)
    sys.stderr.flush()
"""


async def test_both_streams_each_exact(shared):
    out = b"".join(b"out %d \x00\xff\n" % n for n in range(5000))
    err = b"".join(b"err %d \xfe\x00\n" % n for n in range(5000))
    async with shared.client() as client:
        done, both = await finish(client, ["python3", "-c", BOTH])
        only_out = await collect(client, done.id, stream="stdout")
        only_err = await collect(client, done.id, stream="stderr")
        stamped = await collect(client, done.id, timestamps=True)
    cli = await harness.in_thread(lambda: shared.cli("follow", done.id))
    assert (both.stdout, both.stderr) == (out, err)
    assert (only_out.stdout, only_out.stderr) == (out, b"")
    assert (only_err.stdout, only_err.stderr) == (b"", err)
    assert (stamped.stdout, stamped.stderr) == (out, err)
    assert (cli.returncode, cli.stdout, cli.stderr) == (0, out, err)
    counted = (done.output.total, done.output.stdout, done.output.stderr)
    assert counted == (len(out) + len(err), len(out), len(err))


TICKS = 20
LATE = 12


async def test_three_followers_one_of_them_late(shared, gates):
    """Each tick is printed when all who follow have had the one before: live, not at the end."""
    gate = gates()
    heard = [trio.Event() for _ in range(TICKS)]
    followers = 2
    counts = [0] * TICKS
    results = []

    def hear(chunk):
        for line in chunk.data.split():
            tick = int(line)
            counts[tick] += 1
            if counts[tick] >= followers:
                heard[tick].set()

    async def follow(client, job):
        results.append(await collect(client, job.id, on_chunk=hear))

    async with shared.client() as client, trio.open_nursery() as nursery:
        script = f"while read -r tick; do echo $tick; done < {gate.path}"
        job = await client.run(["sh", "-c", script])
        nursery.start_soon(follow, client, job)
        nursery.start_soon(follow, client, job)
        for tick in range(TICKS):
            if tick == LATE:
                followers = 3
                nursery.start_soon(follow, client, job)
            gate.say(str(tick))
            await heard[tick].wait()
        gate.close()
    every = "".join(f"{tick}\n" for tick in range(TICKS)).encode()
    assert [result.stdout for result in results] == [every] * 3
    assert [result.end.exit.code for result in results] == [0] * 3


async def test_a_follow_from_anywhere(shared):
    async with shared.client() as client:
        done, whole = await finish(client, ["seq", "1", "2000"])
        for start in (0, 1, 17, done.output.total - 1, done.output.total):
            part = await collect(client, done.id, start=start)
            assert part.stdout == whole.stdout[start:]
            assert part.end.total == done.output.total


async def test_logs_does_not_wait(shared, gates):
    gate = gates()
    async with shared.client() as client:
        job = await client.run(["sh", "-c", f"echo so far; read -r line < {gate.path}"])
        await harness.until_running(client, job)
        logs = await harness.in_thread(lambda: shared.cli("logs", job.id))
        assert (logs.returncode, logs.stdout) == (0, b"so far\n")
        now = await collect(client, job.id, wait=False)
        assert (now.end.exit, now.end.job.phase) == (None, "running")
        gate.close()
        assert (await client.wait(job.id)).outcome == "failed"  # `read` met the end of the file


WORDS = [
    '["a", "b"]',
    "{}",
    "[]",
    "",
    " ",
    "--follow",
    "-f",
    "--",
    "--help",
    "a=b",
    "\n",
    "'\"",
    "\u00e9\u20ac",
    "*",
    "1e3",
    "None",
]


def test_a_command_arrives_word_for_word(shared):
    """Whatever a word looks like to an option parser, to JSON or to a shell."""
    argv = ["printf", "%s\\0", *WORDS]
    done = shared.cli("run", "-f", "--", *argv)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split("\0")[:-1] == WORDS


def test_environment_and_place(shared):
    words = ["--env", "A=1=2", "--env", "B=", "--cwd", "/usr", "--name", "placed", "--label", "x=y"]
    done = shared.cli("run", "-f", *words, "--", "sh", "-c", 'echo "$A|$B|$PWD|$HOME"; env | sort')
    first, *environment = done.stdout.decode().splitlines()
    assert first.startswith("1=2||/usr|")
    names = {line.partition("=")[0] for line in environment}
    given = {"A", "B", "HOME", "JOBS_JOB_ID", "LANG", "LOGNAME", "PATH", "SHELL", "USER"}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == given
    inspected = harness.json.loads(shared.cli("inspect", "placed", "--json").stdout)
    assert (inspected["name"], inspected["labels"]) == ("placed", {"x": "y"})
    assert inspected["spec"]["env"] == {"A": "1=2", "B": ""}

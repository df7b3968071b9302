"""Who floods, dawdles or does not read is alone with it: the next client is served as ever."""

import contextlib
import os
import re
import resource
import signal
import socket
import ssl
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
from harness import JobsError, in_thread
from wire import ANSWER_S, Wire

ABUSER, CLIENT = "127.0.0.2", "127.0.0.1"

MANY = 1000
ROUNDS, RUNS = 5, 15
DEADLINE_S = 60


@pytest.fixture(autouse=True, scope="module")
def _descriptors():
    """Have room for our ends of so many connections."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connect(supervisor, host=ABUSER):
    """Connect from an address, and say nothing."""
    return socket.create_connection(
        ("127.0.0.1", supervisor.port), timeout=ANSWER_S, source_address=(host, 0)
    )


def context_of(supervisor, name="admin", folder=None):
    context = ssl.create_default_context(cafile=supervisor.certs / "ca.crt")
    folder = folder or supervisor.certs
    context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return context


def hello_of(context):
    """Give what a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def half_open(supervisor, hello):
    """Begin a handshake, and leave it where the supervisor waits for us."""
    sock = connect(supervisor)
    sock.sendall(hello)
    return sock


def rss_kb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)[1])


def is_closed(sock):
    """Whether the supervisor has closed a connection; what it said before is passed over."""
    sock.settimeout(0)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def time_run(wire):
    """Time from asking to run to the answer."""
    begin = time.perf_counter()
    error, job = wire.call("run", {"spec": {"argv": ["true"]}})
    took = time.perf_counter() - begin
    assert error is None
    error, job = wire.call("wait", {"id": job["id"]})
    assert job["outcome"] == "completed"
    return took


def compare(supervisor, flood, what):
    """Time a run's answer in quiet, while a flood comes, and when all of it is there; in turns.

    On one machine, in one run, so that what else keeps it busy tells on all three.
    """
    quiet, coming, there = [], [], []
    with Wire(supervisor) as wire, ThreadPoolExecutor(1) as pool:
        for _ in range(RUNS):
            time_run(wire)  # the first ones find nothing warm
        for _ in range(ROUNDS):
            quiet += [time_run(wire) for _ in range(RUNS)]
            with contextlib.ExitStack() as stack:
                flooding = pool.submit(flood, stack)
                while not flooding.done():
                    coming.append(time_run(wire))
                flooding.result()
                there += [time_run(wire) for _ in range(RUNS)]
    usual, *others = (statistics.median(times) for times in (quiet, coming, there))
    print(  # noqa: T201  shown by -s
        f"run: {1e3 * usual:.1f} ms; while {MANY} {what} come: {1e3 * others[0]:.1f} ms "
        f"({len(coming)} of them); when they are there: {1e3 * others[1]:.1f} ms"
    )
    assert max(others) < 2 * usual


def test_a_thousand_half_open_handshakes_of_one_address(supervisor):
    hello = hello_of(context_of(supervisor))

    def flood(stack):
        sockets = [
            stack.enter_context(half_open(supervisor, hello) if number % 2 else connect(supervisor))
            for number in range(MANY)
        ]
        with Wire(supervisor, source=ABUSER) as wire:  # the last in the queue: all are there by now
            assert wire.call("whoami", {})[0] is None
        return sockets

    compare(supervisor, flood, "half-open handshakes")
    with contextlib.ExitStack() as stack:
        sockets = flood(stack)
        with Wire(supervisor, source=CLIENT) as wire:  # not only one that was there before
            assert wire.call("whoami", {})[0] is None
        with Wire(supervisor, source=ABUSER) as wire:  # nor only one from elsewhere
            assert wire.call("whoami", {})[0] is None
        assert sum(map(is_closed, sockets)) >= MANY - 256
        assert not is_closed(sockets[-1])


def test_a_thousand_idle_connections_of_one_address(make_supervisor):
    supervisor = make_supervisor(quotas={"connections": 2 * MANY})
    context = context_of(supervisor, "alice")
    sizes = []

    def flood(stack):
        before = rss_kb(supervisor.pid)
        for _ in range(MANY):
            sock = context.wrap_socket(connect(supervisor), server_hostname="127.0.0.1")
            stack.enter_context(sock)
        sock.sendall(b"\x94\x00\x00\xa6whoami\x80")
        assert sock.recv(65536)  # all are known by now
        sizes.append((rss_kb(supervisor.pid) - before) / MANY)

    compare(supervisor, flood, "idle connections")
    print(f"an idle connection: {sizes[0]:.0f} kB")  # noqa: T201  shown by -s
    assert sizes[0] < 200


def test_one_certificate_cannot_take_all_connections(make_supervisor):
    supervisor = make_supervisor(server={"max_connections": 6}, quotas={"connections": 4})
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            wire = stack.enter_context(Wire(supervisor, "alice"))
            assert wire.call("whoami", {})[0] is None
        with Wire(supervisor, "alice") as wire:
            error = wire.last_words()
        assert error["code"] == "resource_exhausted"
        assert error["detail"] == {"quota": "connections", "limit": 4, "used": 4}
        others = [stack.enter_context(Wire(supervisor, name)) for name in ("admin", "viewer")]
        who = others[0].call("whoami", {})[1]
        assert who["quotas"]["connections"] == {"limit": 4, "used": 1}
        with Wire(supervisor, "viewer") as wire:
            assert "max_connections" in wire.last_words()["message"]
    told = [line["why"] for line in supervisor.audit() if line["event"] == "connection"]
    assert sum("your quota (connections)" in why for why in told) == 1
    done = supervisor.cli("audit", "verify", str(supervisor.state))
    assert (done.returncode, done.stderr) == (0, b"")


def test_followers_are_counted_apart(make_supervisor):
    supervisor = make_supervisor(quotas={"followers": 1})
    with Wire(supervisor) as first, Wire(supervisor) as second:
        _, job = first.call("run", {"spec": {"argv": ["sleep", "1000"]}})
        assert first.call("follow", {"id": job["id"]})[0] is None
        error, _ = second.call("follow", {"id": job["id"]})
        assert error["detail"] == {"quota": "followers", "limit": 1, "used": 1}
        first.socket.close()
        while second.call("follow", {"id": job["id"]})[0] is not None:
            pass


def test_a_message_that_trickles_in_is_cut_off(make_supervisor):
    """Though the client waits for an answer, and so is not idle."""
    supervisor = make_supervisor(server={"message_s": 0.5})
    with Wire(supervisor) as wire:
        _, job = wire.call("run", {"spec": {"argv": ["sleep", "1000"]}})
        wire.ask("wait", {"id": job["id"]}, 1)
        begin = time.monotonic()
        wire.socket.settimeout(0.05)
        words = b""
        for byte in b"\x94\x00\x02\xa4list\x81\xa5" * 1000:
            with contextlib.suppress(OSError):
                wire.send(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                words = wire.socket.recv(65536)
                break
        assert b"did not come whole within 0.5 s" in words
        assert time.monotonic() - begin < DEADLINE_S


def test_a_client_that_reads_no_answers_is_cut_off_and_held_in_bounds(make_supervisor):
    supervisor = make_supervisor(server={"answer_s": 1.0})
    size = 2 << 20
    with Wire(supervisor) as wire:
        spec = {"argv": ["true"], "env": {f"V{n}": "x" * 100_000 for n in range(size // 100_000)}}
        _, job = wire.call("run", {"spec": spec})
        wire.call("wait", {"id": job["id"]})
        before = rss_kb(supervisor.pid)
        for ident in range(1, 256):
            wire.ask(("wait", "inspect")[ident % 2], {"id": job["id"]}, ident)
        most = before
        end = time.monotonic() + DEADLINE_S
        while "took no answer" not in supervisor.log.read_text():
            most = max(most, rss_kb(supervisor.pid))
            assert time.monotonic() < end
            time.sleep(0.02)
    print(f"256 answers of {size >> 10} kB that nobody reads: {most - before} kB")  # noqa: T201  shown by -s
    assert most - before < 256 * (size >> 10) / 3
    with Wire(supervisor) as wire:
        assert wire.call("whoami", {})[0] is None


@pytest.mark.parametrize("method", ["run", "list"])
def test_large_requests_behind_answers_that_nobody_reads_are_left_unread(supervisor, method):
    size, many = 4 << 20, 64
    with Wire(supervisor) as wire:
        spec = {"argv": ["true"], "env": {f"V{n}": "x" * 100_000 for n in range(20)}}
        _, job = wire.call("run", {"spec": spec})
        wire.call("wait", {"id": job["id"]})
    with Wire(supervisor, "viewer") as wire:
        for ident in range(many):
            wire.ask("inspect", {"id": job["id"]}, ident)
        before = most = rss_kb(supervisor.pid)
        wire.socket.settimeout(2.0)  # so long it reads nothing, which is how it holds us up
        with contextlib.suppress(TimeoutError):
            for ident in range(many, 2 * many):
                wire.ask(method, {"junk": "x" * size}, ident)
                most = max(most, rss_kb(supervisor.pid))
            pytest.fail("it has read all of them")
    print(f"{many} requests of {size >> 10} kB: {most - before} kB")  # noqa: T201  shown by -s
    assert most - before < many * (size >> 10) / 2


async def test_no_descriptors_left_is_no_end(supervisor):
    """accept(2) fails: who is connected is served, and others are when there is room."""
    async with supervisor.client() as client:
        await client.whoami()
        before = resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE)
        used = len(list(Path(f"/proc/{supervisor.pid}/fd").iterdir()))
        resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, (used + 3, before[1]))
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(connect(supervisor))
            while "connections have to wait" not in supervisor.log.read_text():
                await client.whoami()
            ticks = cpu_ticks(supervisor.pid)
            await trio.sleep(1)  # a second in which it must not spin
            assert cpu_ticks(supervisor.pid) - ticks < 50
            assert (await client.whoami())["identity"] == "admin"
        resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, before)
        await in_thread(lambda: Wire(supervisor).__exit__())


def cpu_ticks(pid):
    stat = Path(f"/proc/{pid}/stat").read_text()
    return sum(map(int, stat.rpartition(")")[2].split()[11:13]))


async def test_a_shim_that_reads_nothing_holds_nobody_up(supervisor):
    async with supervisor.client() as client:
        job = await client.run(["sleep", "1000"])
        while (await client.inspect(job.id)).phase != "running":
            pass
        shim = supervisor.shim(job)
        os.kill(shim, signal.SIGSTOP)
        try:
            refused = 0
            with trio.fail_after(DEADLINE_S):
                for _ in range(2000):  # more than its socket holds
                    try:
                        await client.signal(job.id, "CONT")
                    except JobsError:
                        refused += 1
                        break
            assert refused  # the link was given up, and is looked for again
            assert (await client.whoami())["identity"] == "admin"
        finally:
            os.kill(shim, signal.SIGCONT)
        await client.kill(job.id, grace_s=0)
        assert (await client.wait(job.id)).outcome == "stopped"

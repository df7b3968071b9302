"""The plugin against a real HTTP server, through the manager that the supervisor has."""

import json
from functools import partial

import pytest
import trio
from jobs_opa_policy import OpaPolicy

from jobs_plugins.testing import TriedPlugin, make_identity, make_job, refused_settings

ALICE = make_identity("alice", "operator")


class Server:
    """Answers each POST with what it was told to."""

    def __init__(self):
        self.body = b'{"result": true}'
        self.status = b"200 OK"
        self.silent = False
        self.asked = []

    async def serve(self, stream):
        async with stream:
            text = b""
            while True:
                while b"\r\n\r\n" not in text:
                    if not (part := await stream.receive_some()):
                        return
                    text += part
                head, _, text = text.partition(b"\r\n\r\n")
                (length,) = [
                    int(x.split(b":")[1])
                    for x in head.lower().split(b"\r\n")
                    if x.startswith(b"content-length")
                ]
                while len(text) < length:
                    text += await stream.receive_some()
                self.asked.append(json.loads(text[:length])["input"])
                text = text[length:]
                if self.silent:
                    await trio.sleep_forever()
                size = str(len(self.body)).encode()
                await stream.send_all(
                    b"HTTP/1.1 %s\r\nContent-Length: %s\r\n\r\n%s" % (self.status, size, self.body)
                )


@pytest.fixture
async def server(nursery):
    server = Server()
    listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
    port = listeners[0].socket.getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/v1/data/jobs/decision"
    return server


def tried(url, **settings) -> TriedPlugin:
    return TriedPlugin(OpaPolicy(), settings={"url": url, "timeout_s": 0.5, **settings})


@pytest.mark.parametrize(
    ("result", "allow", "why"),
    [
        ('{"result": true}', True, "the policy allows it"),
        ('{"result": false}', False, "the policy denies it"),
        ('{"result": {"allow": true, "reason": ""}}', True, "the policy allows it"),
        ('{"result": {"allow": false, "reason": "ask bob"}}', False, "ask bob"),
        ("{}", False, "the policy says nothing about it"),
        ('{"result": "yes"}', False, "the plugin tried failed when it was asked"),
        ('{"result": 1}', False, "the plugin tried failed when it was asked"),
        ("true", False, "the plugin tried failed when it was asked"),
        ("<html>", False, "the plugin tried failed when it was asked"),
    ],
)
async def test_answers(server, result, allow, why):
    server.body = result.encode()
    decision = await tried(server.url).decide(ALICE, "inspect", make_job(owner="bob"))
    assert (decision.allow, decision.why) == (allow, why)


async def test_the_input(server):
    job = make_job("make", owner="bob", labels={"team": "ml"})
    await tried(server.url).decide(ALICE, "kill", job)
    (asked,) = server.asked
    assert asked["identity"] == {"name": "alice", "roles": ["operator"]}
    assert asked["action"] == "kill"
    assert asked["job"] == {
        "owner": "bob",
        "name": None,
        "labels": {"team": "ml"},
        "argv": ["make"],
    }


async def test_answers_are_kept_for_a_while(server):
    plugin = tried(server.url)
    for _ in range(3):
        assert (await plugin.decide(ALICE, "list")).allow
    assert len(server.asked) == 1
    await plugin.decide(make_identity("bob"), "list")
    assert len(server.asked) == 2
    plugin = tried(server.url, cache_s=0)
    for _ in range(2):
        await plugin.decide(ALICE, "list")
    assert len(server.asked) == 4


async def test_a_server_that_is_silent_or_failing_or_gone_denies(server):
    server.silent = True
    with trio.fail_after(10):
        assert not (await tried(server.url).decide(ALICE, "list")).allow
    server.silent, server.status = False, b"500 Internal Server Error"
    assert not (await tried(server.url).decide(ALICE, "list")).allow
    assert not (await tried("http://127.0.0.1:1/").decide(ALICE, "list")).allow


@pytest.mark.parametrize(
    "settings", [{}, {"url": 1}, {"url": "ftp://x"}, {"url": "http://x", "timeout": 1}]
)
def test_wrong_settings(settings):
    refused_settings(OpaPolicy(), settings)

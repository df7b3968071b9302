"""Who somebody is: the built-in rule, its refusals, and plugins before it."""

import pytest
from attrs import evolve

from jobs_certs import describe, init, issue
from jobs_certs.pem import load_certificate
from jobs_plugins import hookimpl
from jobs_plugins.manager import make_manager
from jobs_plugins.plugins import Plugins
from jobs_proto.errors import JobsError
from jobs_proto.identity import CLIENT_AUTH, SERVER_AUTH, Identity, PeerCertificate
from jobs_proto.wire import structure, unstructure

ALICE = PeerCertificate(
    common_name="alice",
    organizational_units=("viewer", "operator", "viewer"),
    serial=1,
    fingerprint="f" * 64,
    not_before="2026-01-01T00:00:00.000000Z",
    not_after="2026-04-01T00:00:00.000000Z",
    extended_key_usages=(CLIENT_AUTH,),
)


class Plugin:
    def __init__(self, answer):
        self.answer = answer

    @hookimpl
    def jobs_identify(self, certificate):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


async def ask(certificate, *answers, failures=None):
    failures = [] if failures is None else failures
    plugins = [(f"p{n}", Plugin(answer)) for n, answer in enumerate(answers)]
    asked = Plugins(make_manager(plugins, load=False), failed=failures.append)
    return await asked.identify(certificate)


async def test_the_cn_and_the_ous():
    who = await ask(ALICE)
    assert (who.name, who.roles) == ("alice", ("operator", "viewer"))
    assert (who.fingerprint, who.not_after) == (ALICE.fingerprint, ALICE.not_after)


async def test_the_one_uri_wins():
    assert (await ask(evolve(ALICE, uris=("spiffe://a/b",)))).name == "spiffe://a/b"
    assert (
        await ask(evolve(ALICE, uris=("spiffe://a/b",), common_name=None))
    ).name == "spiffe://a/b"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"extended_key_usages": ()}, "clientAuth"),
        ({"extended_key_usages": (SERVER_AUTH,)}, "clientAuth"),
        ({"uris": ("spiffe://a/b", "spiffe://a/c")}, "it has 2 URIs"),
        ({"uris": ("",)}, "empty"),
        ({"uris": ("bob",)}, "has no scheme"),
        ({"uris": ("@ops:x",)}, "has no scheme"),
        ({"uris": ("spiffe://a/\x07",)}, "cannot be shown"),
        ({"uris": ("spiffe://a/" + "b" * 2048,)}, "2048 are the limit"),
        ({"common_name": None}, "not exactly one CN"),
        ({"common_name": ""}, "empty"),
        ({"common_name": " "}, "space"),
        ({"common_name": "a\nb"}, "cannot be shown"),
        ({"common_name": "a\0"}, "cannot be shown"),
        ({"common_name": "\u202eecila"}, "cannot be shown"),
        ({"common_name": "spiffe://a/b"}, "reads as a URI"),
        ({"common_name": "@ops"}, "reads as a group"),
        ({"organizational_units": ("admin\n",)}, "cannot be shown"),
        ({"organizational_units": ("",)}, "empty"),
    ],
)
async def test_certificates_that_name_nobody(change, why):
    with pytest.raises(JobsError, match=why) as caught:
        await ask(evolve(ALICE, **change))
    assert caught.value.code == "permission_denied"
    assert caught.value.message.isprintable()


async def test_what_we_issue_is_somebody(tmp_path):
    init(tmp_path / "ca")
    client = issue(tmp_path / "ca", "alice", role=["operator", "viewer"])
    named = issue(tmp_path / "ca", "ci", role="operator", sans=["spiffe://example.com/ci"])
    server = issue(tmp_path / "ca", "localhost", role="server")
    assert (await ask(describe(load_certificate(client.certificate)))).name == "alice"
    assert (await ask(describe(load_certificate(client.certificate)))).roles == (
        "operator",
        "viewer",
    )
    assert (
        await ask(describe(load_certificate(named.certificate)))
    ).name == "spiffe://example.com/ci"
    with pytest.raises(JobsError, match="clientAuth"):
        await ask(describe(load_certificate(server.certificate)))


async def test_a_plugin_is_asked_before_the_built_in():
    bob = Identity(name="bob", fingerprint="", not_after="")
    assert await ask(ALICE, bob) is bob
    assert (await ask(ALICE, None)).name == "alice"


async def test_a_plugins_refusal_is_final():
    refusal = JobsError("permission_denied", "Not from this network.")
    with pytest.raises(JobsError, match="Not from this network") as caught:
        await ask(ALICE, refusal)
    assert caught.value is refusal


@pytest.mark.parametrize("answer", [ValueError("a secret"), SystemExit(1), "bob", True, ALICE])
async def test_a_plugin_that_fails_lets_nobody_in(answer):
    failures = []
    with pytest.raises(JobsError, match="plugin p0 failed") as caught:
        await ask(ALICE, answer, failures=failures)
    assert [failure.plugin for failure in failures] == ["p0"]
    assert caught.value.code == "permission_denied"
    assert "a secret" not in caught.value.message


async def test_nobody_knows():
    manager = make_manager(load=False)
    manager.unregister(name="jobs.identity")
    with pytest.raises(JobsError, match="No plugin knows"):
        await Plugins(manager).identify(ALICE)


async def test_an_identity_survives_the_wire():
    who = await ask(ALICE)
    assert structure(unstructure(who), Identity, "identity") == who


def test_roles_are_no_single_word():
    with pytest.raises(TypeError, match="list of words"):
        Identity(name="alice", roles="admin", fingerprint="", not_after="")

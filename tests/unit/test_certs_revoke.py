"""What was revoked stays revoked; what is renewed is the same somebody, whatever interrupts it."""

import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from jobs_certs import (
    CertsError,
    init,
    issue,
    load_trust,
    refresh,
    renew,
    revoke,
    show,
    show_crl,
    verify,
)
from jobs_certs.pem import load_certificate, load_crls, load_key

FSYNCS = 40
"""More than a renewal has."""


@pytest.fixture
def ca(tmp_path):
    init(tmp_path / "ca")
    issue(tmp_path / "ca", "alice", role=["operator", "viewer"])
    return tmp_path / "ca"


def fault(ca, name="alice", crl="ca.crl"):
    return load_trust(ca / "ca.crt", ca / crl).fault(load_certificate(ca / f"{name}.crt"))


def test_a_first_list_is_empty(ca):
    refresh(ca)
    assert show_crl(ca / "ca.crl").revoked == ()
    assert fault(ca) is None
    assert (ca / "ca.crl").stat().st_mode & 0o777 == 0o644


def test_there_may_be_no_list_yet(ca):
    with pytest.raises(CertsError, match=r"no list .*ca\.crl\. Make an empty one"):
        show_crl(ca / "ca.crl")


def test_each_list_has_a_higher_number_also_after_empty_ones(ca):
    numbers = [show_crl(refresh(ca)).number for _ in range(3)]
    numbers.append(show_crl(revoke(ca, [ca / "alice.crt"]).path).number)
    assert numbers == [1, 2, 3, 4]


def test_what_was_revoked_is_not_verified(ca):
    issue(ca, "bob", role="viewer")
    revoke(ca, [ca / "alice.crt"])
    with pytest.raises(CertsError, match=r"alice\.crt was revoked: it is on the list .*ca\.crl"):
        verify(ca / "alice.crt")
    assert verify(ca / "bob.crt") == "client"


def test_a_list_of_another_authority_is_no_list_to_verify_by(ca, tmp_path):
    init(tmp_path / "other")
    shutil.copy(refresh(tmp_path / "other"), ca)
    with pytest.raises(CertsError, match="that no authority"):
        verify(ca / "alice.crt")


def test_revoked_by_file_or_by_serial_and_kept_by_each_new_list(ca):
    issue(ca, "bob", role="viewer")
    issue(ca, "carol", role="viewer")
    revoke(ca, [ca / "alice.crt"])
    revoke(ca, serials=[show(ca / "bob.crt").serial.lower()])
    revoke(ca, [ca / "alice.crt"])
    refresh(ca)
    listed = show_crl(ca / "ca.crl")
    assert listed.revoked == (show(ca / "alice.crt").serial, show(ca / "bob.crt").serial)
    assert (listed.number, listed.days_left) == (3, 29)
    assert "revoked" in fault(ca, "alice")
    assert "revoked" in fault(ca, "bob")
    assert fault(ca, "carol") is None


def test_what_is_on_the_list_is_told_and_changes_nothing(ca):
    issue(ca, "bob", role="viewer")
    alice, bob = show(ca / "alice.crt").serial, show(ca / "bob.crt").serial
    assert revoke(ca, [ca / "alice.crt"]).already == ()
    before = (ca / "ca.crl").read_bytes()
    assert revoke(ca, [ca / "alice.crt"], serials=[alice]).already == (alice,)
    assert (ca / "ca.crl").read_bytes() == before
    assert revoke(ca, [ca / "alice.crt", ca / "bob.crt"]).already == (alice,)
    assert show_crl(ca / "ca.crl").revoked == (alice, bob)


def test_an_authority_cannot_revoke_itself(ca):
    for what in ({"certificates": [ca / "ca.crt"]}, {"serials": [show(ca / "ca.crt").serial]}):
        with pytest.raises(CertsError, match=r"the authority's own .* make another one"):
            revoke(ca, **what)
    assert not (ca / "ca.crl").exists()


def test_an_entry_keeps_its_date(ca):
    revoke(ca, [ca / "alice.crt"])
    first = load_crls(ca / "ca.crl")[0][0]
    refresh(ca)
    assert load_crls(ca / "ca.crl")[0][0].revocation_date_utc == first.revocation_date_utc


@pytest.mark.parametrize("serial", ["", "0", "-1", "xyz", "1_0", "F" * 41, " 1F", "1F\n"])
def test_what_is_no_serial_number(ca, serial):
    with pytest.raises(CertsError, match="no serial number"):
        revoke(ca, serials=[serial])
    assert not (ca / "ca.crl").exists()


def test_openssl_writes_serials_otherwise(ca):
    revoke(ca, serials=["0a:1b", "0x1f"])
    assert show_crl(ca / "ca.crl").revoked == ("A1B", "1F")


def test_what_cannot_be_revoked(ca, tmp_path):
    init(tmp_path / "other")
    bob = issue(tmp_path / "other", "bob", role="viewer").certificate
    with pytest.raises(CertsError, match="not issued by this authority"):
        revoke(ca, [bob])
    with pytest.raises(CertsError, match="at least one"):
        revoke(ca)
    for days in (0, 36_501):
        with pytest.raises(CertsError, match="1 to 36500 days"):
            refresh(ca, days=days)


def test_a_list_that_is_not_our_own_is_not_replaced(ca, tmp_path):
    init(tmp_path / "other")
    shutil.copy(refresh(tmp_path / "other"), ca / "ca.crl")
    before = (ca / "ca.crl").read_bytes()
    with pytest.raises(CertsError, match="not this authority's own list"):
        revoke(ca, [ca / "alice.crt"])
    (ca / "ca.crl").write_bytes(b"rubbish")
    with pytest.raises(CertsError, match="no revocation list"):
        refresh(ca)
    (ca / "ca.crl").write_bytes(before[:200])
    with pytest.raises(CertsError, match="no revocation list"):
        refresh(ca)


def test_two_who_revoke_at_once_lose_nothing(ca):
    code = "import sys, jobs_certs; jobs_certs.revoke(sys.argv[1], serials=sys.argv[2:])"
    serials = [f"{number:X}" for number in range(1, 9)]
    processes = [subprocess.Popen([sys.executable, "-c", code, ca, each]) for each in serials]
    assert [process.wait(60) for process in processes] == [0] * len(serials)
    assert sorted(show_crl(ca / "ca.crl").revoked) == serials


# -- trust ---------------------------------------------------------------------------------


def test_several_authorities_need_a_list_each(ca, tmp_path):
    init(tmp_path / "new")
    issue(tmp_path / "new", "bob", role="viewer")
    both, lists = tmp_path / "both.crt", tmp_path / "both.crl"
    both.write_bytes((ca / "ca.crt").read_bytes() + (tmp_path / "new/ca.crt").read_bytes())
    one, other = revoke(ca, [ca / "alice.crt"]).path, refresh(tmp_path / "new")
    with pytest.raises(CertsError, match="0 lists of"):
        load_trust(both, one)
    with pytest.raises(CertsError, match="no authority in"):
        load_trust(ca / "ca.crt", other)
    lists.write_bytes(one.read_bytes() + b"between\n" + other.read_bytes())
    trust = load_trust(both, lists)
    assert "revoked" in trust.fault(load_certificate(ca / "alice.crt"))
    assert trust.fault(load_certificate(tmp_path / "new/bob.crt")) is None
    lists.write_bytes(one.read_bytes() * 2 + other.read_bytes())
    with pytest.raises(CertsError, match="2 lists of"):
        load_trust(both, lists)


def test_an_authority_that_is_gone(ca, tmp_path):
    init(tmp_path / "new")
    trust = load_trust(tmp_path / "new/ca.crt", None)
    assert "not trusted here any more" in trust.fault(load_certificate(ca / "alice.crt"))


def signed(ca, *, start, end, critical=False):
    """A list that `refresh` would not make."""
    issuer, key = load_certificate(ca / "ca.crt"), load_key(ca / "ca.key")
    now = datetime.now(UTC)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(now + start).next_update(now + end)
    if critical:
        builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    (ca / "ca.crl").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def test_an_old_list_is_overdue_and_still_counts(ca):
    day = timedelta(days=1)
    signed(ca, start=-2 * day, end=-day)
    trust = load_trust(ca / "ca.crt", ca / "ca.crl")
    assert trust.overdue() == (show(ca / "ca.crt").subject,)
    revoke(ca, [ca / "alice.crt"])
    trust = load_trust(ca / "ca.crt", ca / "ca.crl")
    assert trust.overdue() == ()


def test_a_part_of_a_list_is_refused(ca):
    signed(ca, start=timedelta(), end=timedelta(days=1), critical=True)
    with pytest.raises(CertsError, match="only a part"):
        load_trust(ca / "ca.crt", ca / "ca.crl")


# -- renewal -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bob", {"role": ["operator", "viewer"]}),
        ("ci", {"role": "operator", "sans": ["spiffe://example.com/ci"]}),
        ("host", {"role": "server", "sans": ["host.example.com", "192.0.2.7"]}),
    ],
)
def test_the_renewed_is_the_same_with_another_key(ca, name, options):
    issue(ca, name, days=1, **options)
    old, old_key = show(ca / f"{name}.crt"), (ca / f"{name}.key").read_bytes()
    made = renew(ca, name)
    new = show(made.certificate)
    for field in ("kind", "subject", "issuer", "name", "roles", "sans"):
        assert getattr(new, field) == getattr(old, field)
    assert new.serial != old.serial
    assert new.days_left == (364 if new.kind == "server" else 89)
    assert verify(made.certificate) == old.kind
    assert verify(ca / f"old/{name}-{old.serial}.crt", ca=ca / "ca.crt") == old.kind
    assert made.key.read_bytes() != old_key
    assert (ca / f"old/{name}-{old.serial}.key").read_bytes() == old_key
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert not (ca / "renewing").exists()
    assert not (ca / "ca.crl").exists()


def test_the_old_one_is_revoked_if_wanted(ca):
    old = show(ca / "alice.crt").serial
    renew(ca, "alice", days=7, revoke_old=True)
    assert show_crl(ca / "ca.crl").revoked == (old,)
    assert fault(ca) is None
    assert show(ca / "alice.crt").days_left == 6


def test_what_cannot_be_renewed(ca, tmp_path):
    with pytest.raises(CertsError, match=r"no certificate .*nobody\.crt to renew\. .* issue it"):
        renew(ca, "nobody")
    with pytest.raises(CertsError, match="path separator"):
        renew(ca, "../alice")
    with pytest.raises(CertsError, match="'ca' is the name"):
        renew(ca, "ca")
    init(tmp_path / "other")
    shutil.copy(issue(tmp_path / "other", "bob", role="viewer").certificate, ca)
    with pytest.raises(CertsError, match="not issued by the authority"):
        renew(ca, "bob")
    assert sorted(path.name for path in ca.iterdir()) == [
        "alice.crt",
        "alice.key",
        "bob.crt",
        "ca.crt",
        "ca.key",
    ]


RENEW_AND_DIE = """
import os, sys, jobs_certs
fsync, left = os.fsync, int(sys.argv[2])
def dying(fd):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    fsync(fd)
os.fsync = dying
jobs_certs.renew(sys.argv[1], "alice", revoke_old=True)
"""


def test_a_renewal_that_dies_anywhere_is_finished_by_the_next(ca, tmp_path):
    old = show(ca / "alice.crt").serial
    for survived in range(FSYNCS):
        copy = tmp_path / f"ca-{survived}"
        shutil.copytree(ca, copy)
        died = subprocess.run(
            [sys.executable, "-c", RENEW_AND_DIE, copy, str(survived)], check=False
        )
        pair = [path for path in copy.rglob("*.crt") if path.stem != "ca"]
        assert show(copy / "alice.crt").roles  # there is always a certificate in its place
        assert all(list(copy.rglob(f"{path.stem}.key")) for path in pair)
        if died.returncode == 0:
            break
        assert died.returncode == 9
        unfinished = copy / "renewing/alice.crt"
        going_on = show(unfinished).serial if unfinished.exists() else None
        renew(copy, "alice", revoke_old=True)
        assert verify(copy / "alice.crt") == "client"
        assert going_on in (None, show(copy / "alice.crt").serial)
        assert old in show_crl(copy / "ca.crl").revoked
        assert show(copy / "alice.crt").serial not in show_crl(copy / "ca.crl").revoked
        assert not (copy / "renewing").exists()
    assert 5 < survived < FSYNCS - 1


def test_what_was_left_of_another_certificate_is_not_put_in_its_place(ca):
    """Alice was an admin, her renewal was cut short, and she was then issued less."""
    admin = ca.with_name("admin-ca")
    shutil.copytree(ca, admin)
    for name in ("alice.crt", "alice.key"):
        (admin / name).unlink()
    issue(admin, "alice", role="admin")
    (ca / "renewing").mkdir(mode=0o700)
    for name in ("alice.crt", "alice.key"):
        shutil.copy(admin / name, ca / "renewing" / name)
    renew(ca, "alice")
    assert show(ca / "alice.crt").roles == ("operator", "viewer")
    assert verify(ca / "alice.crt") == "client"

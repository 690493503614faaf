"""The local issuer's CRL: its content, when it is made anew, and who waits for whom (RFC 5280 §5)."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.exchange import RevocationReason
from cmpd.issuers.local import CreatedCA, LocalIssuer
from cmpd.issuers.local.keys import KEY_TYPES
from cmpd.ports import CRLState, KeptCRL, Revocation, StoreUnavailable
from tests.contract.issuer import approve, split
from tests.issuers.conftest import openssl
from tests.issuers.lint import lint_crl

Make = Callable[[str], LocalIssuer]
NOW = datetime.now(UTC)
WEEK = timedelta(days=7)


class Revocations:
    """The part of the store that a CRL is made from; counts and can hold back or refuse its answers."""

    def __init__(self, *revoked: Revocation) -> None:
        self.list = list(revoked)
        self.number = 0
        self.kept: dict[bytes, KeptCRL] = {}
        self.fetched = 0
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.down = False

    async def _ask(self, issuer: str) -> None:
        self.asked.append(issuer)
        await self.gate.wait()
        if self.down:
            raise StoreUnavailable("database is locked")

    async def crl_state(self, issuer: str, ca: bytes) -> CRLState:
        await self._ask(issuer)
        kept = self.kept.get(ca)
        return CRLState(len(self.list), 0 if kept is None else kept.number)

    async def crl(self, issuer: str, ca: bytes) -> KeptCRL | None:
        await self._ask(issuer)
        self.fetched += 1
        return self.kept.get(ca)

    async def keep_crl(self, issuer: str, ca: bytes, crl: KeptCRL, *, seen: int) -> bool:
        await self._ask(issuer)
        kept = self.kept.get(ca)
        if seen != (0 if kept is None else kept.number):
            return False
        self.kept[ca] = crl
        return True

    async def revoked(self, issuer: str) -> tuple[Revocation, ...]:
        await self._ask(issuer)
        return tuple(self.list)

    async def next_crl_number(self, issuer: str) -> int:
        await self._ask(issuer)
        self.number += 1
        return self.number


def store(revocations: Revocations) -> Any:
    return revocations


def revoked(serial: int, reason: RevocationReason = RevocationReason.keyCompromise) -> Revocation:
    return Revocation(serial, reason, NOW - timedelta(hours=1, microseconds=5))


async def test_the_content_of_a_crl(local_issuer: Make) -> None:
    """RFC 5280 §5.1, §5.2: v2, authorityKeyIdentifier, cRLNumber, thisUpdate, nextUpdate, the entries."""
    issuer = local_issuer("ec-p256")
    revocations = Revocations(*(revoked(100 + reason, reason) for reason in RevocationReason))
    revocations.number = 41
    der = await issuer.crl(store(revocations), NOW)
    crl = x509.load_der_x509_crl(der)
    issuing = x509.load_der_x509_certificate((await issuer.chain())[0])
    assert crl.is_signature_valid(issuing.public_key())  # type: ignore[arg-type]
    assert split(split(der)[0])[0] == b"\x02\x01\x01"
    assert split(split(der)[0])[2] == split(split((await issuer.chain())[0])[0])[5]
    assert crl.last_update_utc == NOW.replace(microsecond=0)
    assert crl.next_update_utc == (NOW + WEEK).replace(microsecond=0)
    found = {one.value.__class__: one for one in crl.extensions}
    assert found.keys() == {x509.AuthorityKeyIdentifier, x509.CRLNumber}
    assert not any(one.critical for one in found.values())
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 42
    identifier = issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == identifier
    assert len(list(crl)) == len(RevocationReason)
    for reason in RevocationReason:
        entry = crl.get_revoked_certificate_by_serial_number(100 + reason)
        assert entry is not None
        assert entry.revocation_date_utc == (NOW - timedelta(hours=1, microseconds=5)).replace(microsecond=0)
        # RFC 5280 §5.3.1: unspecified SHOULD be absent; removeFromCRL only appears in delta CRLs
        expected = [] if reason.name in {"unspecified", "removeFromCRL"} else [x509.ReasonFlags[_flag(reason)]]
        assert [one.value.reason for one in entry.extensions] == expected


def _flag(reason: RevocationReason) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in reason.name).replace(
        "c_a_", "ca_"
    ).replace("a_a_", "aa_")  # fmt: skip


@pytest.mark.parametrize("key_type", KEY_TYPES)
async def test_every_key_type_signs_a_crl_that_is_clean_for_pkilint(key_type: str, local_issuer: Make) -> None:
    issuer = local_issuer(key_type)
    issuing = x509.load_der_x509_certificate((await issuer.chain())[0])
    for revocations in (Revocations(), Revocations(revoked(5), revoked(6, RevocationReason.unspecified))):
        der = await local_issuer(key_type).crl(store(revocations), NOW)
        assert x509.load_der_x509_crl(der).is_signature_valid(issuing.public_key())  # type: ignore[arg-type]
        assert lint_crl(der) == set()


def test_the_linter_can_find_something(local_issuer: Make) -> None:
    issuer = local_issuer("ec-p256")
    assert any(severity == "ERROR" for severity, _ in lint_crl(issuer._authority.crl([], 1 << 161, NOW, NOW - WEEK)))


async def test_openssl_refuses_a_revoked_certificate(
    local_issuer: Make, made_ca: Callable[[str], CreatedCA], tmp_path: Path
) -> None:
    issuer = local_issuer("ec-p256")
    files = {}
    for name in ("good", "bad"):
        files[name] = await issuer.issue(approve())
        pem = x509.load_der_x509_certificate(files[name].der).public_bytes(Encoding.PEM)
        (tmp_path / f"{name}.pem").write_bytes(pem)
    der = await issuer.crl(store(Revocations(revoked(files["bad"].serial))), NOW)
    (tmp_path / "crl.der").write_bytes(der)
    (tmp_path / "crl.pem").write_bytes(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM))
    folder = made_ca("ec-p256").directory
    done = openssl(
        "crl", "-verify", "-inform", "DER", "-in", tmp_path / "crl.der", "-noout", "-CAfile", folder / "issuing.pem"
    )
    assert (done.returncode, done.stderr.strip()) == (0, "verify OK")
    chain = ("-CAfile", folder / "root.pem", "-untrusted", folder / "issuing.pem", "-CRLfile", tmp_path / "crl.pem")
    assert openssl("verify", "-crl_check", *chain, tmp_path / "good.pem").returncode == 0
    refused = openssl("verify", "-crl_check", *chain, tmp_path / "bad.pem")
    assert refused.returncode == 2
    assert "certificate revoked" in refused.stderr


async def test_a_crl_is_kept_until_something_is_revoked(local_issuer: Make) -> None:
    issuer, revocations = local_issuer("ec-p256"), Revocations()
    first = await issuer.crl(store(revocations), NOW)
    assert await issuer.crl(store(revocations), NOW + timedelta(days=3)) is first
    assert revocations.number == 1
    revocations.list.append(revoked(7))
    second = x509.load_der_x509_crl(await issuer.crl(store(revocations), NOW + timedelta(days=3)))
    assert second.get_revoked_certificate_by_serial_number(7) is not None
    assert revocations.number == 2
    assert set(revocations.asked) == {"local"}


async def test_a_crl_is_made_anew_after_half_of_its_validity(local_issuer: Make) -> None:
    issuer, revocations = local_issuer("ec-p256"), Revocations()
    first = await issuer.crl(store(revocations), NOW)
    assert await issuer.crl(store(revocations), NOW + WEEK / 2 - timedelta(seconds=1)) is first
    second = x509.load_der_x509_crl(await issuer.crl(store(revocations), NOW + WEEK / 2))
    assert second.next_update_utc == (NOW + WEEK * 1.5).replace(microsecond=0)


async def test_what_is_revoked_while_a_crl_is_made_comes_with_the_next(
    local_issuer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer, revocations = local_issuer("ec-p256"), Revocations()
    real = revocations.revoked

    async def late(name: str) -> tuple[Revocation, ...]:
        found = await real(name)
        revocations.list.append(revoked(8))
        return found

    monkeypatch.setattr(revocations, "revoked", late)
    assert not list(x509.load_der_x509_crl(await issuer.crl(store(revocations), NOW)))
    monkeypatch.undo()
    assert len(list(x509.load_der_x509_crl(await issuer.crl(store(revocations), NOW)))) == 1


async def test_callers_at_the_same_time_share_one(local_issuer: Make) -> None:
    issuer, revocations = local_issuer("ec-p256"), Revocations(revoked(1))
    revocations.gate.clear()
    callers = [asyncio.ensure_future(issuer.crl(store(revocations), NOW)) for _ in range(20)]
    await asyncio.sleep(0)
    revocations.gate.set()
    assert len(set(await asyncio.gather(*callers))) == 1
    assert revocations.number == 1


async def test_a_cancelled_caller_does_not_take_the_others_along(local_issuer: Make) -> None:
    issuer, revocations = local_issuer("ec-p256"), Revocations(revoked(1))
    revocations.gate.clear()
    first, second = (asyncio.ensure_future(issuer.crl(store(revocations), NOW)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    revocations.gate.set()
    assert await second
    assert first.cancelled() or (await asyncio.gather(first, return_exceptions=True))


async def test_a_long_list_is_written_in_a_worker_thread(local_issuer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = local_issuer("ec-p256")
    threads: list[int] = []
    real = issuer._authority.crl

    class Spy:
        @staticmethod
        def crl(*arguments: Any) -> bytes:
            threads.append(threading.get_ident())
            return real(*arguments)

    monkeypatch.setattr(issuer, "_authority", Spy)
    revocations = Revocations()
    await issuer.crl(store(revocations), NOW)
    assert threads == [threading.get_ident()]
    revocations.list += [revoked(serial) for serial in range(1, 1001)]
    crl = x509.load_der_x509_crl(await issuer.crl(store(revocations), NOW))
    assert len(list(crl)) == 1000
    assert threads[1] != threading.get_ident()


async def test_the_last_crl_serves_while_the_store_is_away(local_issuer: Make) -> None:
    """A CRL is good until its nextUpdate, whatever has become of the database."""
    issuer, revocations = local_issuer("ec-p256"), Revocations()
    revocations.down = True
    with pytest.raises(StoreUnavailable):
        await issuer.crl(store(revocations), NOW)
    revocations.down = False
    first = await issuer.crl(store(revocations), NOW)
    revocations.down = True
    assert await issuer.crl(store(revocations), NOW + timedelta(days=6)) is first
    with pytest.raises(StoreUnavailable):
        await issuer.crl(store(revocations), NOW + WEEK)


async def test_the_validity_is_as_configured(ca: CreatedCA) -> None:
    table = ca.table(ca.directory) | {"crl_validity": "12h"}
    issuer = LocalIssuer.from_config(table, base=ca.directory, url="", name="local")
    crl = x509.load_der_x509_crl(await issuer.crl(store(Revocations()), NOW))
    assert crl.next_update_utc is not None
    assert crl.next_update_utc - crl.last_update_utc == timedelta(hours=12)


def number_of(der: bytes) -> int:
    return x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


async def test_all_processes_serve_the_same_octets(local_issuer: Make) -> None:
    """Whichever makes it; the others fetch it once, and ask for no more than its number after that."""
    one, other, third = (local_issuer("ec-p256") for _ in range(3))
    revocations = Revocations()
    first = await one.crl(store(revocations), NOW)
    assert await other.crl(store(revocations), NOW) == first
    assert (revocations.number, revocations.fetched) == (1, 1)
    asked = len(revocations.asked)
    assert await other.crl(store(revocations), NOW) == first
    assert len(revocations.asked) == asked + 1
    revocations.list.append(revoked(7))
    second = await other.crl(store(revocations), NOW)
    assert [await issuer.crl(store(revocations), NOW) for issuer in (one, third, other)] == [second] * 3
    assert (number_of(first), number_of(second)) == (1, 2)
    renewed = await third.crl(store(revocations), NOW + WEEK / 2)
    assert [await issuer.crl(store(revocations), NOW) for issuer in (one, other)] == [renewed] * 2
    assert number_of(renewed) == 3


async def test_a_restart_goes_on_with_the_crl_that_is_kept(local_issuer: Make) -> None:
    revocations = Revocations(revoked(1))
    first = await local_issuer("ec-p256").crl(store(revocations), NOW)
    assert await local_issuer("ec-p256").crl(store(revocations), NOW + timedelta(days=3)) == first


async def test_who_is_second_has_the_crl_of_the_first(local_issuer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have made one; the numbers of what is served only grow."""
    one, other = (local_issuer("ec-p256") for _ in range(2))
    revocations = Revocations(revoked(1))
    served = []
    real = revocations.next_crl_number

    async def overtaken(issuer: str) -> int:
        number = await real(issuer)
        monkeypatch.setattr(revocations, "next_crl_number", real)
        served.append(await other.crl(store(revocations), NOW))
        return number

    monkeypatch.setattr(revocations, "next_crl_number", overtaken)
    served.append(await one.crl(store(revocations), NOW))
    assert served[0] == served[1]
    assert number_of(served[0]) == 2, "the first number was taken by the one that was second, and is in no CRL"
    assert await one.crl(store(revocations), NOW) == served[0]


async def test_a_winner_that_lacks_a_revocation_is_not_enough(
    local_issuer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revocation is on the CRL that is fetched next, whoever has made another one without it meanwhile."""
    one, other = (local_issuer("ec-p256") for _ in range(2))
    before, revocations = Revocations(), Revocations(revoked(9))
    await other.crl(store(before), NOW)
    revocations.number = 1
    real = revocations.keep_crl

    async def late(issuer: str, ca: bytes, crl: KeptCRL, *, seen: int) -> bool:
        monkeypatch.setattr(revocations, "keep_crl", real)
        revocations.kept.update(before.kept)
        return await real(issuer, ca, crl, seen=seen)

    monkeypatch.setattr(revocations, "keep_crl", late)
    der = await one.crl(store(revocations), NOW)
    assert [entry.serial_number for entry in x509.load_der_x509_crl(der)] == [9]
    assert number_of(der) == 3


async def test_the_crl_of_a_ca_that_was_replaced_is_not_served(local_issuer: Make) -> None:
    old, new = local_issuer("ec-p256"), local_issuer("ec-p384")
    revocations = Revocations(revoked(1))
    first = await old.crl(store(revocations), NOW)
    second = x509.load_der_x509_crl(await new.crl(store(revocations), NOW))
    issuing = x509.load_der_x509_certificate((await new.chain())[0])
    assert second.is_signature_valid(issuing.public_key())  # type: ignore[arg-type]
    assert number_of(second.public_bytes(Encoding.DER)) > number_of(first)
    assert await old.crl(store(revocations), NOW) == first, "two that are side by side do not take turns"


async def test_a_shorter_validity_counts_at_once(ca: CreatedCA) -> None:
    """Also for a CRL that was made with a longer one."""
    revocations = Revocations()
    for validity, made in (("7d", 1), ("12h", 2), ("7d", 2)):
        table = ca.table(ca.directory) | {"crl_validity": validity}
        issuer = LocalIssuer.from_config(table, base=ca.directory, url="", name="local")
        for hours in (0, 5, 7):
            await issuer.crl(store(revocations), NOW + timedelta(hours=hours))
        assert revocations.number == made


async def test_a_store_that_was_restored_has_its_next_crl(local_issuer: Make) -> None:
    """Its numbers go on elsewhere, and it keeps no CRL: what a process still has is not served."""
    issuer, revocations = local_issuer("ec-p256"), Revocations(revoked(1))
    await issuer.crl(store(revocations), NOW)
    revocations.kept.clear()
    revocations.number = 1000
    assert number_of(await issuer.crl(store(revocations), NOW)) == 1001

"""What was approved is what is handed out, octet for octet, whatever the issuer does; and it is linted before."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from cmpd.asn1 import BodyType, PKIStatus, der, oids
from cmpd.enrollment.issuing import difference
from cmpd.exchange import Approved, CertificateRequest, RequestedExtension
from cmpd.ports import Issued
from tests.ee import new_key, san, spki
from tests.world import World

SECOND = timedelta(seconds=1)


class Deviating:
    """An issuer that issues something else than it was asked, or says something else of it."""

    def __init__(
        self,
        inner: Any,
        change: Callable[[Approved], Approved] = lambda approved: approved,
        say: Callable[[Issued], Issued] = lambda issued: issued,
    ) -> None:
        self.inner, self.change, self.say = inner, change, say

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def chain(self) -> tuple[bytes, ...]:
        return await self.inner.chain()  # type: ignore[no-any-return]

    async def issue(self, request: Approved) -> Issued:
        return self.say(await self.inner.issue(self.change(request)))


def another_key(approved: Approved) -> Approved:
    return replace(approved, spki=spki(new_key()))


def extensions(change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Callable[[Approved], Approved]:
    return lambda approved: replace(approved, extensions=change(approved.extensions))


def one_flipped(found: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*found[:-1], replace(found[-1], critical=not found[-1].critical))


def utf8_as_printable(approved: Approved) -> Approved:
    """The same subject in another string type: another certificate."""
    name = x509.Name.from_rfc4514_string("CN=device-1")
    attribute = x509.NameAttribute(x509.NameOID.COMMON_NAME, "device-1", x509.name._ASN1Type.PrintableString)
    assert name.public_bytes() == approved.subject
    return replace(approved, subject=x509.Name([attribute]).public_bytes())


CHANGES: dict[str, Callable[[Approved], Approved]] = {
    "subject": lambda approved: replace(approved, subject=x509.Name.from_rfc4514_string("CN=admin").public_bytes()),
    "subject in another string type": utf8_as_printable,
    "public key": another_key,
    "later end": lambda approved: replace(approved, not_after=approved.not_after + SECOND),
    "earlier beginning": lambda approved: replace(approved, not_before=approved.not_before - SECOND),
    "extension left out": extensions(lambda found: found[1:]),
    "criticality": extensions(one_flipped),
    "extension value": extensions(lambda found: (*found[:-1], replace(found[-1], value=der.sequence()))),
    "extension added": extensions(
        lambda found: (
            *found,
            type(found[0])(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), False, der.utf8_string("admin")),
        )
    ),
}
SAYINGS: dict[str, Callable[[Issued], Issued]] = {
    "end": lambda issued: replace(issued, not_after=issued.not_after - SECOND),
    "serial number": lambda issued: replace(issued, serial=issued.serial + 1),
    "no certificate": lambda issued: replace(issued, der=b""),
    "something else": lambda issued: replace(issued, der=der.sequence(der.sequence(), der.sequence(), der.null())),
    "half of it": lambda issued: replace(issued, der=issued.der[: len(issued.der) // 2]),
    "more than it": lambda issued: replace(issued, der=issued.der + b"\x00"),
}


async def refused(world: World) -> None:
    """systemFailure, a line in the log, and nothing else."""
    ee = await world.code()
    answer = await world.send(ee, ee.ir(extensions=[san("device-1.example.com")]))
    assert (answer.type, answer.status, answer.fail_info) == (BodyType.ip, PKIStatus.rejection, "systemFailure")
    assert answer.text == "the issuing CA issued something other than what was approved"
    assert world.last.private
    assert await world.store.certificates(10) == []
    assert await world.store.seats(10) == []
    assert await world.used() == 0
    assert [one.private for one in await world.store.refusals(10)] == [world.last.private]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_certificate_that_is_not_what_was_approved_is_not_handed_out(
    world: World, change: Callable[[Approved], Approved]
) -> None:
    world.issuer = Deviating(world.issuer, change=change)
    world.profile()
    await refused(world)


@pytest.mark.parametrize("say", SAYINGS.values(), ids=SAYINGS)
async def test_an_issuer_must_tell_the_truth_about_what_it_issued(
    world: World, say: Callable[[Issued], Issued]
) -> None:
    world.issuer = Deviating(world.issuer, say=say)
    world.profile()
    await refused(world)


async def test_every_octet_of_the_approved_fields_counts(world: World) -> None:
    """Flip any bit of validity, subject, key or an approved extension: it is noticed."""
    value = der.sequence(der.tlv(0x82, b"device-1.example.com"))
    request = CertificateRequest(
        0,
        x509.Name.from_rfc4514_string("CN=device-1").public_bytes(),
        spki(new_key()),
        (RequestedExtension(oids.SUBJECT_ALT_NAME, False, value),),
    )
    approved = world.profiles["device"].approve(request, transaction_id=bytes(16), now=world.clock())
    issued = await world.issuer.issue(approved)
    assert difference(approved, issued) is None
    octets = issued.der
    regions = [(approved.subject, 0), (approved.spki, 0), *((one.value, 0) for one in approved.extensions)]
    places = {octets.index(part) + at for part, _ in regions for at in range(len(part))}
    first = octets.index(approved.subject) - 32
    places |= set(range(first, first + 32))  # validity: two UTCTimes in a SEQUENCE
    unnoticed = []
    for place in sorted(places):
        for bit in (0, 3, 7):
            flipped = octets[:place] + bytes([octets[place] ^ 1 << bit]) + octets[place + 1 :]
            try:
                found = difference(approved, replace(issued, der=flipped))
            except (ValueError, IndexError):
                continue
            if found is None:
                unnoticed.append((place, bit))
    assert not unnoticed


async def test_what_an_issuer_adds_of_its_own_is_no_deviation(world: World) -> None:
    """Key identifiers, CRL and AIA; and its own end of validity, which the EE is told of."""
    world.profile(validity={"default": "50y", "max": "50y"})
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    assert answer.status is PKIStatus.grantedWithMods
    added = {extension.oid for extension in answer.certificate().extensions}
    assert oids.AUTHORITY_KEY_IDENTIFIER in added


async def test_the_rest_of_a_message_is_refused_with_it(world: World) -> None:
    world.issuer = Deviating(world.issuer, change=another_key)
    world.profile(enrollment={"several_requests": True})
    ee = await world.code()
    requests = [ee.cert_req_msg(new_key(), f"CN=device-{number}", cert_req_id=number) for number in (0, 1)]
    answer = await world.send(ee, ee.draft(BodyType.ir, der.sequence(*requests)))
    assert answer.fail_info == "systemFailure"
    assert await world.store.certificates(10) == []


# Linting


BROKEN = {"custom": [{"oid": "private_key_usage_period", "type": "utf8_string", "value": "always"}]}


async def test_lint_enforced_refuses_what_breaks_a_rule(world: World) -> None:
    world.profile(lint="enforce", extensions=BROKEN)
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    assert (answer.status, answer.fail_info) == (PKIStatus.rejection, "badCertTemplate")
    assert answer.text.startswith("lint: ")
    assert world.last.lint
    assert world.last.private
    assert await world.store.certificates(10) == []
    assert await world.used() == 0


async def test_lint_as_a_warning_issues_and_says_so(world: World) -> None:
    world.profile(lint="warn", extensions=BROKEN)
    ee = await world.code()
    assert (await world.send(ee, ee.ir())).status is PKIStatus.accepted
    assert world.last.lint


async def test_a_clean_certificate_passes(world: World) -> None:
    world.profile(lint="enforce")
    ee = await world.code()
    assert (await world.send(ee, ee.ir())).status is PKIStatus.accepted
    assert not world.last.fail_info


async def test_an_issuer_that_shows_no_preview_cannot_be_linted(world: World) -> None:
    class Plain:
        def __init__(self, inner: Any) -> None:
            self.issue, self.chain, self.cmp_credential = inner.issue, inner.chain, inner.cmp_credential

    world.issuer = Plain(world.issuer)
    world.profile(lint="enforce")
    ee = await world.code()
    answer = await world.send(ee, ee.ir())
    assert answer.fail_info == "systemFailure"
    assert "preview" in world.last.private

"""Who may enroll: each way of authenticating, each operation, right and wrong in one thing, and what comes of it.

`ok` is a certificate, or a pkiconf; `-` is left out, for the reason that stands behind, in the column certConf because
there is nobody who could have begun. There the transaction was begun by somebody who was right; then comes the
confirmation of who is not (any more). The last column is part of what the refusal says; where it is about the profile,
it names the key.
"""

from dataclasses import dataclass

import pytest

from cmpd.asn1 import BodyType, PKIStatus
from cmpd.exchange import TransactionState
from tests.access.ways import RESPONSES, WAYS
from tests.world import World

FAIL_INFO = {
    "nA": "notAuthorized",
    "nB": "notAuthorized",  # by certConf: not who began the transaction
    "nI": "notAuthorized",  # of a vendor's device: only an ir
    "bMC": "badMessageCheck",
    "bMB": "badMessageCheck",  # by certConf: of another global code than the one that began the transaction
    "wI": "wrongIntegrity",  # by MAC: a kur
    "wM": "wrongIntegrity",  # by signature: an ir, where codes are asked for
    "sNT": "signerNotTrusted",
    "cR": "certRevoked",
    "sU": "systemUnavail",
    "bCT": "badCertTemplate",
}
SAYS = {
    "nB": "not protected with the credential that began the transaction",
    "bMB": "the MAC does not verify",
    "nI": "good for an ir only",
    "wM": "protect the ir by a MAC",
    "wI": "must be signed with the certificate that it updates",
}
"""Where the last column does not apply."""
OPERATIONS = ("ir", "cr", "p10cr", "kur", "certConf")

UNVERIFIED = {"bMC", "bMB"}
"""The MAC was wrong: the answer is not protected by it."""

TABLE = """
way             | who                | ir  cr  p10cr kur certConf | says

code            | right              | ok  ok  ok    wI  ok       |
code            | wrong              | bMC bMC bMC   bMC bMC      | the MAC does not verify
code            | untrusted          | bMC bMC bMC   bMC bMC      | the MAC does not verify
code            | expired            | nA  nA  nA    wI  ok       | enrollment code expired at
code            | revoked            | nA  nA  nA    wI  ok       | enrollment code has been revoked
code            | not yet valid      | nA  nA  nA    wI  nB       | enrollment code is not valid before
code            | used up            | nA  nA  nA    wI  ok       | enrollment code has been used up
code            | locked             | sU  sU  sU    sU  ok       | too many wrong MACs with this reference
code            | other seat         | nA  nA  nA    wI  nB       | the enrollment code is for another seat
code            | other subject      | nA  nA  nA    wI  nB       | subject: the enrollment code is for another one
code            | other SAN          | nA  nA  nA    wI  nB       | subjectAltName: the enrollment code is not for
code            | other key          | bCT bCT bCT   wI  nB       | publicKey: the enrollment code is for another key
code            | wrong address      | nA  nA  nA    wI  ok       | enrollment.client_addresses
code            | wrong EKU          | -   -   -     -   -        | a code has no certificate
code            | wrong service user | -   -   -     -   -        | a service user is a set of certificates

code by URL     | right              | ok  ok  ok    wI  ok       |
code by URL     | wrong              | bMC bMC bMC   bMC bMC      | the MAC does not verify
code by URL     | untrusted          | bMC bMC bMC   bMC bMC      | the MAC does not verify
code by URL     | expired            | nA  nA  nA    wI  ok       | enrollment code expired at
code by URL     | revoked            | nA  nA  nA    wI  ok       | enrollment code has been revoked
code by URL     | not yet valid      | nA  nA  nA    wI  nB       | enrollment code is not valid before
code by URL     | used up            | nA  nA  nA    wI  ok       | enrollment code has been used up
code by URL     | locked             | sU  sU  sU    sU  ok       | too many wrong MACs with this reference
code by URL     | other seat         | nA  nA  nA    wI  nB       | the enrollment code is for another seat
code by URL     | other subject      | nA  nA  nA    wI  nB       | subject: the enrollment code is for another one
code by URL     | other SAN          | nA  nA  nA    wI  nB       | subjectAltName: the enrollment code is not for
code by URL     | other key          | bCT bCT bCT   wI  nB       | publicKey: the enrollment code is for another key
code by URL     | wrong address      | nA  nA  nA    wI  ok       | enrollment.client_addresses
code by URL     | wrong EKU          | -   -   -     -   -        | a code has no certificate
code by URL     | wrong service user | -   -   -     -   -        | a service user is a set of certificates

global code     | right              | ok  ok  ok    wI  ok       |
global code     | wrong              | bMC bMC bMC   bMC bMC      | the MAC does not verify
global code     | untrusted          | bMC bMC bMC   bMC bMC      | the MAC does not verify
global code     | expired            | nA  nA  nA    wI  ok       | enrollment code expired at
global code     | revoked            | bMC bMC bMC   bMC ok       | the MAC does not verify
global code     | not yet valid      | nA  nA  nA    wI  bMB      | enrollment code is not valid before
global code     | used up            | nA  nA  nA    wI  ok       | enrollment code has been used up
global code     | locked             | sU  sU  sU    sU  ok       | too many wrong MACs with this reference
global code     | other seat         | nA  nA  nA    wI  bMB      | the enrollment code is for another seat
global code     | other subject      | nA  nA  nA    wI  bMB      | subject: the enrollment code is for another one
global code     | other SAN          | nA  nA  nA    wI  bMB      | subjectAltName: the enrollment code is not for
global code     | other key          | bCT bCT bCT   wI  bMB      | publicKey: the enrollment code is for another key
global code     | wrong address      | nA  nA  nA    wI  ok       | enrollment.client_addresses
global code     | wrong EKU          | -   -   -     -   -        | a code has no certificate
global code     | wrong service user | -   -   -     -   -        | a service user is a set of certificates

signer          | right              | ok  ok  ok    ok  ok       |
signer          | wrong              | bMC bMC bMC   bMC bMC      | the signature does not verify
signer          | expired            | sNT sNT sNT   sNT sNT      | the CMP protection certificate
signer          | revoked            | cR  cR  cR    cR  cR       | the CMP protection certificate has been revoked
signer          | unknown whether    | sU  sU  sU    sU  sU       | cannot be found out now
signer          | untrusted          | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
signer          | not yet valid      | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
signer          | wrong EKU          | nA  nA  nA    nA  nA       | enrollment.client.extended_key_usages
signer          | wrong policy       | nA  nA  nA    nA  nA       | enrollment.client.certificate_policies
signer          | wrong subject      | nA  nA  nA    nA  nA       | enrollment.client.subject
signer          | wrong SAN          | nA  nA  nA    nA  nA       | enrollment.client.san
signer          | wrong issuer       | nA  nA  nA    nA  nA       | enrollment.client.issuer
signer          | wrong fingerprint  | nA  nA  nA    nA  nA       | enrollment.client.fingerprints
signer          | wrong service user | nA  nA  nA    nA  nB       | enrollment.service_user
signer          | user by its names  | ok  ok  ok    ok  ok       |
signer          | wrong address      | nA  nA  nA    nA  ok       | enrollment.client_addresses

TLS             | right              | ok  ok  ok    ok  ok       |
TLS             | wrong              | -   -   -     -   -        | the handshake has proven the key
TLS             | none               | bMC bMC bMC   bMC bMC      | needs a TLS client certificate
TLS             | expired            | sNT sNT sNT   sNT sNT      | the TLS client certificate
TLS             | revoked            | cR  cR  cR    cR  cR       | the TLS client certificate has been revoked
TLS             | unknown whether    | sU  sU  sU    sU  sU       | cannot be found out now
TLS             | untrusted          | sNT sNT sNT   sNT sNT      | the TLS client certificate does not validate
TLS             | not yet valid      | sNT sNT sNT   sNT sNT      | the TLS client certificate does not validate
TLS             | wrong EKU          | nA  nA  nA    nA  nA       | enrollment.client.extended_key_usages
TLS             | wrong policy       | nA  nA  nA    nA  nA       | enrollment.client.certificate_policies
TLS             | wrong subject      | nA  nA  nA    nA  nA       | enrollment.client.subject
TLS             | wrong SAN          | nA  nA  nA    nA  nA       | enrollment.client.san
TLS             | wrong issuer       | nA  nA  nA    nA  nA       | enrollment.client.issuer
TLS             | wrong fingerprint  | nA  nA  nA    nA  nA       | enrollment.client.fingerprints
TLS             | wrong service user | nA  nA  nA    nA  nB       | enrollment.service_user
TLS             | user by its names  | ok  ok  ok    ok  ok       |
TLS             | wrong address      | nA  nA  nA    nA  ok       | enrollment.client_addresses

TLS = signer    | right              | ok  ok  ok    ok  ok       |
TLS = signer    | wrong              | bMC bMC bMC   bMC bMC      | the signature does not verify
TLS = signer    | none               | nA  nA  nA    nA  nA       | enrollment.tls.required
TLS = signer    | another client     | nA  nA  nA    nA  nA       | enrollment.tls.binding
TLS = signer    | expired            | sNT sNT sNT   sNT sNT      | the CMP protection certificate
TLS = signer    | revoked            | cR  cR  cR    cR  cR       | the CMP protection certificate has been revoked
TLS = signer    | unknown whether    | sU  sU  sU    sU  sU       | cannot be found out now
TLS = signer    | untrusted          | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
TLS = signer    | not yet valid      | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
TLS = signer    | wrong EKU          | nA  nA  nA    nA  nA       | enrollment.client.extended_key_usages
TLS = signer    | wrong policy       | nA  nA  nA    nA  nA       | enrollment.client.certificate_policies
TLS = signer    | wrong subject      | nA  nA  nA    nA  nA       | enrollment.client.subject
TLS = signer    | wrong SAN          | nA  nA  nA    nA  nA       | enrollment.client.san
TLS = signer    | wrong issuer       | nA  nA  nA    nA  nA       | enrollment.client.issuer
TLS = signer    | wrong fingerprint  | nA  nA  nA    nA  nA       | enrollment.client.fingerprints
TLS = signer    | wrong service user | nA  nA  nA    nA  nB       | enrollment.service_user
TLS = signer    | user by its names  | ok  ok  ok    ok  ok       |
TLS = signer    | wrong address      | nA  nA  nA    nA  ok       | enrollment.client_addresses

TLS ~ signer    | right              | ok  ok  ok    ok  ok       |
TLS ~ signer    | wrong              | bMC bMC bMC   bMC bMC      | the signature does not verify
TLS ~ signer    | none               | nA  nA  nA    nA  nA       | enrollment.tls.required
TLS ~ signer    | another client     | nA  nA  nA    nA  nA       | enrollment.tls.binding
TLS ~ signer    | expired            | sNT sNT sNT   sNT sNT      | the TLS client certificate
TLS ~ signer    | revoked            | cR  cR  cR    cR  cR       | the TLS client certificate has been revoked
TLS ~ signer    | unknown whether    | sU  sU  sU    sU  sU       | cannot be found out now
TLS ~ signer    | untrusted          | sNT sNT sNT   sNT sNT      | the TLS client certificate does not validate
TLS ~ signer    | not yet valid      | sNT sNT sNT   sNT sNT      | the TLS client certificate does not validate
TLS ~ signer    | wrong EKU          | nA  nA  nA    nA  nA       | enrollment.client.extended_key_usages
TLS ~ signer    | wrong policy       | nA  nA  nA    nA  nA       | enrollment.client.certificate_policies
TLS ~ signer    | wrong subject      | nA  nA  nA    nA  nA       | enrollment.client.subject
TLS ~ signer    | wrong SAN          | nA  nA  nA    nA  nA       | enrollment.client.san
TLS ~ signer    | wrong issuer       | nA  nA  nA    nA  nA       | enrollment.client.issuer
TLS ~ signer    | wrong fingerprint  | nA  nA  nA    nA  nA       | enrollment.client.fingerprints
TLS ~ signer    | wrong service user | nA  nA  nA    nA  nB       | enrollment.service_user
TLS ~ signer    | user by its names  | ok  ok  ok    ok  ok       |
TLS ~ signer    | wrong address      | nA  nA  nA    nA  ok       | enrollment.client_addresses

TLS RA + signer | right              | ok  ok  ok    ok  ok       |
TLS RA + signer | wrong              | bMC bMC bMC   bMC bMC      | the signature does not verify
TLS RA + signer | none               | nA  nA  nA    nA  nA       | enrollment.tls.required
TLS RA + signer | another client     | nA  nA  nA    nA  nA       | enrollment.tls.binding
TLS RA + signer | expired            | sNT sNT sNT   sNT sNT      | the TLS client certificate
TLS RA + signer | revoked            | cR  cR  cR    cR  cR       | the TLS client certificate has been revoked
TLS RA + signer | unknown whether    | sU  sU  sU    sU  sU       | cannot be found out now
TLS RA + signer | untrusted          | sNT sNT sNT   sNT sNT      | the TLS client certificate does not validate
TLS RA + signer | not yet valid      | sNT sNT sNT   sNT sNT      | the TLS client certificate does not validate
TLS RA + signer | wrong EKU          | sNT sNT sNT   sNT sNT      | does not validate
TLS RA + signer | wrong service user | nA  nA  nA    nA  nB       | enrollment.service_user
TLS RA + signer | user by its names  | ok  ok  ok    ok  ok       |
TLS RA + signer | wrong address      | nA  nA  nA    nA  ok       | enrollment.client_addresses

TLS + code      | right              | ok  ok  ok    wI  ok       |
TLS + code      | wrong              | bMC bMC bMC   bMC bMC      | the MAC does not verify
TLS + code      | none               | nA  nA  nA    nA  nA       | enrollment.tls.required
TLS + code      | expired            | sNT sNT sNT   sNT sNT      | the TLS client certificate
TLS + code      | revoked            | cR  cR  cR    cR  cR       | the TLS client certificate has been revoked
TLS + code      | unknown whether    | sU  sU  sU    sU  sU       | cannot be found out now
TLS + code      | untrusted          | sNT sNT sNT   sNT sNT      | the TLS client certificate does not validate
TLS + code      | not yet valid      | sNT sNT sNT   sNT sNT      | the TLS client certificate does not validate
TLS + code      | wrong EKU          | nA  nA  nA    nA  nA       | enrollment.client.extended_key_usages
TLS + code      | wrong policy       | nA  nA  nA    nA  nA       | enrollment.client.certificate_policies
TLS + code      | wrong subject      | nA  nA  nA    nA  nA       | enrollment.client.subject
TLS + code      | wrong SAN          | nA  nA  nA    nA  nA       | enrollment.client.san
TLS + code      | wrong issuer       | nA  nA  nA    nA  nA       | enrollment.client.issuer
TLS + code      | wrong fingerprint  | nA  nA  nA    nA  nA       | enrollment.client.fingerprints
TLS + code      | wrong service user | nA  nA  nA    wI  ok       | enrollment.service_user
TLS + code      | user by its names  | ok  ok  ok    wI  ok       |
TLS + code      | wrong address      | nA  nA  nA    wI  ok       | enrollment.client_addresses

vendor          | right              | ok  nI  nI    nI  ok       |
vendor          | wrong              | bMC bMC bMC   bMC bMC      | the signature does not verify
vendor          | expired            | sNT sNT sNT   sNT sNT      | the CMP protection certificate
vendor          | revoked            | cR  cR  cR    cR  cR       | the CMP protection certificate has been revoked
vendor          | unknown whether    | sU  sU  sU    sU  sU       | cannot be found out now
vendor          | untrusted          | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
vendor          | not yet valid      | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
vendor          | not listed         | nA  nA  nA    nA  nA       | enrollment.vendor.allow_list
vendor          | no serial          | nA  nA  nA    nA  nA       | serial
vendor          | other device       | bCT nI  nI    nI  nB       | is not that of the device (enrollment.vendor)
vendor          | wrong address      | nA  nA  nA    nA  ok       | enrollment.client_addresses
vendor          | wrong EKU          | -   -   -     -   -        | not asked of devices
vendor          | wrong service user | -   -   -     -   -        | a service user is a set of certificates

RA by cmcRA     | right              | ok  ok  ok    ok  ok       |
RA by cmcRA     | wrong              | bMC bMC bMC   bMC bMC      | the signature does not verify
RA by cmcRA     | expired            | sNT sNT sNT   sNT sNT      | the CMP protection certificate
RA by cmcRA     | revoked            | cR  cR  cR    cR  cR       | the CMP protection certificate has been revoked
RA by cmcRA     | unknown whether    | sU  sU  sU    sU  sU       | cannot be found out now
RA by cmcRA     | untrusted          | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
RA by cmcRA     | not yet valid      | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
RA by cmcRA     | wrong EKU          | sNT sNT sNT   sNT sNT      | does not validate
RA by cmcRA     | wrong address      | nA  nA  nA    nA  ok       | enrollment.client_addresses
RA by cmcRA     | wrong service user | -   -   -     -   -        | a service user is a set of certificates

RA listed       | right              | ok  ok  ok    ok  ok       |
RA listed       | wrong              | bMC bMC bMC   bMC bMC      | the signature does not verify
RA listed       | expired            | sNT sNT sNT   sNT sNT      | the CMP protection certificate
RA listed       | revoked            | ok  ok  ok    ok  ok       | it is its own trust anchor
RA listed       | unknown whether    | ok  ok  ok    ok  ok       | it is its own trust anchor
RA listed       | untrusted          | sNT sNT sNT   sNT sNT      | the CMP protection certificate does not validate
RA listed       | not yet valid      | sNT sNT sNT   sNT -        | the CMP protection certificate does not validate
RA listed       | wrong EKU          | -   -   -     -   -        | whoever is listed needs no cmcRA
RA listed       | wrong address      | nA  nA  nA    nA  ok       | enrollment.client_addresses
RA listed       | wrong service user | -   -   -     -   -        | a service user is a set of certificates

own             | right              | wM  ok  ok    ok  ok       |
own             | wrong              | wM  bMC bMC   bMC bMC      | the signature does not verify
own             | expired            | wM  sNT sNT   sNT sNT      | does not validate
own             | revoked            | wM  cR  cR    cR  cR       | has been revoked
own             | untrusted          | wM  sNT sNT   sNT sNT      | does not validate
own             | other profile      | wM  nA  nA    nA  nB       | was issued by another profile
own             | not confirmed      | wM  nA  nA    nA  nB       | has not been confirmed
own             | other name         | wM  bCT bCT   bCT nB       | subject
own             | wrong address      | wM  nA  nA    nA  ok       | enrollment.client_addresses
own             | not yet valid      | -   -   -     -   -        | what is issued is valid at once
own             | wrong EKU          | -   -   -     -   -        | not asked of what the profile has issued
own             | wrong service user | -   -   -     -   -        | it may be updated, see test_fleet
"""


@dataclass(frozen=True)
class Cell:
    way: str
    who: str
    operation: str
    expected: str
    says: str

    def __str__(self) -> str:
        return f"{self.way}, {self.who}: {self.operation}"


def cells() -> list[Cell]:
    found = []
    for line in filter(None, TABLE.strip().splitlines()[1:]):
        way, who, outcomes, says = (part.strip() for part in line.split("|"))
        columns = outcomes.split()
        assert len(columns) == len(OPERATIONS), line
        assert says or not set(columns) - {"ok", *SAYS}, line
        found += [Cell(way, who, *one, says) for one in zip(OPERATIONS, columns, strict=True)]
    return found


CELLS = cells()


def test_the_table_is_complete() -> None:
    """For every way there is a line for each of these, or a reason why not."""
    asked = {"right", "wrong", "expired", "revoked", "untrusted", "not yet valid", "wrong EKU", "wrong service user"}
    lines = {(cell.way, cell.who) for cell in CELLS}
    assert not {(way, who) for way in WAYS for who in asked} - lines
    assert len({(cell.way, cell.who, cell.operation) for cell in CELLS}) == len(CELLS)


class State:
    """What the store holds that a stranger must not change."""

    def __init__(self, world: World) -> None:
        self.transactions = world.query("SELECT transaction_id, state, last_request FROM cmp_transaction ORDER BY id")
        self.certificates = world.query("SELECT serial, status FROM certificate ORDER BY serial")
        self.uses = world.query("SELECT id, used FROM enrollment_code ORDER BY id")
        self.devices = world.query("SELECT * FROM device")


STRANGERS = {"badMessageCheck", "signerNotTrusted", "wrongIntegrity", "systemUnavail", "certRevoked"}
"""With these it is not known who has sent the message, or it is not to be known."""


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.expected != "-"], ids=str)
async def test_who_may_enroll(world: World, cell: Cell) -> None:
    way = WAYS[cell.way](world, cell.who)
    await way.prepare()
    confirms = cell.operation == "certConf"
    changes = cell.who in way.changes
    right = await way.party(cell.who if changes else "right") if confirms else None
    begun = None
    if right is not None:
        draft = right.draft(way.begins)
        begun = await world.send(right.ee, draft, **right.arrival)
        assert begun.status is PKIStatus.accepted, begun.text
    party = right if right is not None and changes else await way.party(cell.who)
    if cell.who in way.changes:
        await way.later(cell.who, party)
    party.ee.now = world.clock()
    before = State(world)
    draft = party.draft(cell.operation) if begun is None else party.confirm(begun)
    answer = await world.send(party.ee, draft, **party.arrival)
    assert world.last.exception is None
    if cell.expected == "ok":
        assert answer.protected
        if begun is None:
            assert answer.type is RESPONSES[cell.operation], answer.text
            assert answer.status is PKIStatus.accepted, answer.text
            assert len(State(world).certificates) == len(before.certificates) + 1
        else:
            assert answer.type is BodyType.pkiconf, answer.text
        return
    fail_info = FAIL_INFO[cell.expected]
    assert (answer.fail_info, answer.status) == (fail_info, PKIStatus.rejection), answer.text
    assert SAYS.get(cell.expected, cell.says) in answer.text
    not_looked_at = cell.who == "locked"
    assert answer.protected is (party.ee.secret is None or not (cell.expected in UNVERIFIED or not_looked_at))
    after = State(world)
    assert after.certificates == before.certificates
    assert after.uses == before.uses
    assert after.devices == before.devices
    if confirms or fail_info in STRANGERS or answer.type is BodyType.error:
        assert after.transactions == before.transactions
    else:
        states = [state for _, state, _ in after.transactions[len(before.transactions) :]]
        assert states == [TransactionState.refused], "who is known is told the same when it asks again"
    if right is not None and begun is not None and not changes:
        done = await world.send(right.ee, right.confirm(begun), **right.arrival)
        assert done.type is BodyType.pkiconf, "who began it can still confirm"

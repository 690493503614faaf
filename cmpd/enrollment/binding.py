"""What an enrollment code is bound to: seat, subject, subjectAltName, key. Held against what would be issued."""

import hashlib
from dataclasses import replace
from functools import lru_cache

from cmpd import asn1
from cmpd.asn1 import der, oids
from cmpd.errors import BadCertTemplate, NotAuthorized
from cmpd.exchange import Approved, EnrollmentCode
from cmpd.profile import Pattern, Profile

_KINDS = {"DNS": "dns", "email": "email", "URI": "uri", "IP": "ip", "directoryName": "dn", "registeredID": "rid"}
_UPN = f"otherName:{oids.name(oids.MS_UPN)}"


def bound(code: EnrollmentCode, approved: Approved, profile: Profile) -> Approved:
    """Refuse a certificate that the code is not meant for; raises NotAuthorized or BadCertTemplate.

    Where the profile does not say where in a request the seat is (seat.id_mapping), it is the code's. The texts do not
    say what the code is meant for: who stole it is not to learn that.
    """
    seat = None if code.seat is None else profile.seat_id(code.seat)
    if seat is not None and (approved.seat is None or not profile.maps_seats):
        approved = replace(approved, seat=seat)
    if seat is not None and approved.seat != seat:
        raise NotAuthorized("the enrollment code is for another seat", private=f"seat {asn1.printable(seat)}")
    if code.key is not None and hashlib.sha256(approved.spki).hexdigest() != code.key:
        raise BadCertTemplate("publicKey: the enrollment code is for another key")
    if code.subject is not None and not _compiled(code.subject).matches(asn1.name_text(approved.subject)):
        raise NotAuthorized("subject: the enrollment code is for another one", private=f"subject {code.subject}")
    if code.san:
        patterns = [_compiled(text) for text in code.san]
        for entry in san_entries(approved):
            if not any(pattern.matches(entry) for pattern in patterns):
                raise NotAuthorized(
                    f"subjectAltName: the enrollment code is not for {asn1.printable(entry)[:80]}",
                    private=f"san {' '.join(code.san)}",
                )
    return approved


def san_entries(approved: Approved) -> list[str]:
    """The subjectAltName entries as patterns see them: `dns:a.example`, `email:a@b`, `uri:…`, `ip:…`, `upn:a@b`."""
    entries = []
    for extension in approved.extensions:
        if extension.oid == oids.SUBJECT_ALT_NAME:
            for name in der.children(extension.value):
                kind, _, value = asn1.general_name_text(name).partition(":")
                whole = f"{kind}:{value}"
                if whole.startswith(f"{_UPN}:"):
                    entries.append(f"upn:{whole.removeprefix(f'{_UPN}:')}")
                else:
                    entries.append(f"{_KINDS.get(kind, kind)}:{value.lower() if kind == 'DNS' else value}")
    return entries


@lru_cache(maxsize=4096)
def _compiled(text: str) -> Pattern:
    """Compile what was compiled before when the code was made."""
    return Pattern(text)

"""Who can get in: a profile that nobody could use, or everybody could, is a fault.

`access_faults` and `access_notices` are pure: what is known of the world around a profile, its daemon and its store,
is in `Surroundings`. What is not known there is not judged.
"""

import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final, Protocol, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from cmpd.asn1 import MalformedError, der, name_text, read_time
from cmpd.asn1.certificate import spki, subject, tbs
from cmpd.exchange import ServiceUserCertificate
from cmpd.profile.profile import Profile
from cmpd.profile.syntax import Pattern

AHEAD: Final = timedelta(days=30)
"""How long before the end of a trusted certificate a notice speaks of it."""
_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
"""Where systems keep the public roots that OpenSSL does not load at once."""
_FIRST: Final = frozenset({"ir", "cr", "p10cr"})
"""Operations that somebody can begin with who has no certificate of ours."""
_SIGNED: Final = frozenset({"cr", "p10cr", "kur"})
"""Operations that a trusted certificate may sign although the profile asks for enrollment codes."""
_ANYTHING: Final = frozenset({".*", ".+", "^.*$", "^.+$", "(.*)", "(?s).*", "(?s).+"})
_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class _Listen(Protocol):
    def is_local(self) -> bool: ...


class _TLS(Protocol):
    @property
    def listen(self) -> _Listen: ...


class _Proxy(Protocol):
    @property
    def certificate(self) -> str: ...


class Server(Protocol):
    """What of [server] decides who can get here."""

    @property
    def listen(self) -> _Listen:
        """Where CMP is served."""

    @property
    def tls(self) -> _TLS | None:
        """[server.tls]."""

    @property
    def proxy(self) -> _Proxy | None:
        """[server.proxy]."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known of the daemon and its store; None is not known."""

    client_certificates: bool = True
    """A TLS client's certificate can get here: by [server.tls], or by [server.proxy] that passes it on."""
    loopback: bool = False
    """Every listener is on a loopback address, and no [server.proxy] names the clients' addresses."""
    siblings: bool = True
    """Another profile issues by the same issuer."""
    issued: bool | None = None
    """The profile has issued a certificate before."""
    service_users: Mapping[str, Collection[ServiceUserCertificate]] | None = None
    """The certificates of each service user."""
    devices: bool | None = None
    """The profile has a device in its list."""
    usable_code: bool | None = None
    """The profile has an enrollment code that can be used."""
    public_roots: frozenset[bytes] = frozenset()
    """The certificates that the system trusts for the web, DER; see `public_roots`."""

    @classmethod
    def of(cls, server: Server, profiles: Mapping[str, Profile], name: str) -> Self:
        """What is known around one of the profiles without asking the store."""
        issuer = profiles[name].issuer
        listeners = [server.listen, *([] if server.tls is None else [server.tls.listen])]
        try:
            loopback = server.proxy is None and all(one.is_local() for one in listeners)
        except (OSError, ValueError):  # no such host: a fault of its own
            loopback = False
        return cls(
            client_certificates=server.tls is not None
            or (server.proxy is not None and server.proxy.certificate != "off"),
            loopback=loopback,
            siblings=any(one.issuer == issuer for other, one in profiles.items() if other != name),
            public_roots=public_roots(),
        )


@cache
def public_roots() -> frozenset[bytes]:
    """The publicly trusted roots that this system has, DER; empty where none can be found."""
    found = set(ssl.create_default_context().get_ca_certs(binary_form=True))
    for bundle in _BUNDLES:
        if found:
            break
        with suppress(OSError, ssl.SSLError, ValueError):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cafile=bundle)
            found.update(context.get_ca_certs(binary_form=True))
    return frozenset(found)


# -------------------------------------------------------------------------------------------------------------- faults


def access_faults(profile: Profile, around: Surroundings) -> list[str]:
    """Why nobody could use a profile, or everybody could: `key: fault; what to do`, one line each."""
    return [*_unreachable(profile, around), *_nobody(profile, around), *_everybody(profile, around)]


def _unreachable(profile: Profile, around: Surroundings) -> Iterator[str]:
    """What asks for something that never gets here."""
    if not around.client_certificates:
        for key, wanted in (("required", profile.tls_required), ("unprotected", profile.unprotected)):
            if wanted:
                yield (
                    f"enrollment.tls.{key}: no TLS client's certificate gets here; add [server.tls] to cmpd.toml, or "
                    "set certificate in [server.proxy], or leave out the key"
                )
    networks = profile.client_addresses
    if networks and around.loopback and not any(_overlap(one, other) for one in networks for other in _LOOPBACK):
        yield (
            "enrollment.client_addresses: nobody can use the profile: the daemon listens on loopback addresses only, "
            "and none of the list is one; behind a reverse proxy add [server.proxy] to cmpd.toml, which names the "
            "clients' addresses"
        )


def _nobody(profile: Profile, around: Surroundings) -> Iterator[str]:
    """Nobody new can get in, and nobody has got in before."""
    with_tls = around.client_certificates or not profile.tls_required
    ways = _ways(profile)
    if with_tls and not ways and around.issued is not True:
        fault = _why_nobody(profile, around)
        if fault is not None:
            yield fault
    if profile.service_user is not None and around.service_users is not None:
        yield from _service_user(profile, profile.service_user, around.service_users.get(profile.service_user, ()))
    if _needs_both(profile):
        yield (
            "enrollment.tls.binding: 'same_certificate' asks for one certificate under trusted_certificates and under "
            "tls.trusted_certificates, and these have nothing in common; write 'same_subject', or leave out "
            "tls.trusted_certificates"
        )


def _ways(profile: Profile) -> frozenset[str]:
    """How somebody can begin who has no certificate of this profile."""
    operations, codes = profile.operations, profile.authentication_method == "enrollment_code"
    signable = operations & _SIGNED if codes else operations
    ways = set()
    if codes and operations & _FIRST and (not profile.tls_required or profile.tls_anchors):
        ways.add("code")
    if profile.trusted and signable:
        ways.add("signature")
    if profile.unprotected and profile.tls_trusted and signable:
        ways.add("TLS")
    if profile.vendor is not None and "ir" in operations:
        ways.add("vendor")
    if profile.ra_trusted and operations & _FIRST:
        ways.add("RA")
    return frozenset(ways)


def _why_nobody(profile: Profile, around: Surroundings) -> str | None:
    """What is missing for a first client; None when somebody may have got in before, as far as is known."""
    operations, codes = profile.operations, profile.authentication_method == "enrollment_code"
    if codes and operations & _FIRST:  # what is missing is the TLS client's trust anchor
        if around.siblings:
            return None
        return (
            "enrollment.tls.required: nobody can use the profile: no TLS client's certificate is trusted; name its CA "
            "in tls.trusted_certificates"
        )
    if profile.tls_trusted and not profile.unprotected and not profile.trusted:
        return (
            "enrollment.trusted_certificates: is missing, and nobody can use the profile: a TLS client is trusted, but "
            "not who signs its messages; name the CA of the signers, or set tls.unprotected = true"
        )
    if profile.vendor is not None and operations & _FIRST:
        return (
            "enrollment.allowed_operations: nobody can use the profile: a device enrolls by ir only, and that is not "
            "in the list; add it"
        )
    if around.issued is None:
        return None
    shown = ", ".join(sorted(operations))
    if codes:
        return (
            f"enrollment.allowed_operations: nobody can use the profile: {shown} needs a certificate, and the profile "
            "has never issued one; add ir, cr or p10cr"
        )
    return (
        f"enrollment.trusted_certificates: is missing, and nobody can use the profile: {shown} is signed with a "
        "certificate, and the profile has never issued one; name the CA of the clients"
    )


def _service_user(profile: Profile, user: str, entries: Collection[ServiceUserCertificate]) -> Iterator[str]:
    if not entries:
        yield (
            f"enrollment.service_user: nobody can use the profile: {user!r} has no certificate; "
            f"`cmpd service-user add {user} --certificate FILE` adds one"
        )
        return
    rules = profile.client
    if rules.fingerprints and all(one.fingerprint not in {None, *rules.fingerprints} for one in entries):
        yield (
            f"enrollment.client.fingerprints: nobody can use the profile: no certificate of the service user {user!r} "
            f"is in the list; leave out the list, or add what `cmpd service-user list {user}` shows"
        )
    for key, pattern in (("subject", rules.subject), ("issuer", rules.issuer)):
        names = [getattr(one, key) for one in entries]
        if pattern is not None and None not in names and not any(pattern.matches(_text(name)) for name in names):
            yield (
                f"enrollment.client.{key}: nobody can use the profile: no certificate of the service user {user!r} "
                "matches; leave out or correct the pattern"
            )


def _needs_both(profile: Profile) -> bool:
    """Whether TLS client and signer must be one, and cannot: of two PKIs that know nothing of each other."""
    if not profile.tls_required or profile.tls_binding != "same_certificate" or not profile.trusted:
        return False
    if profile.authentication_method != "tls_certificate" or profile.unprotected:
        return False
    signers, clients = profile.trusted, profile.tls_trusted
    signer_names, client_names = set(map(subject, signers)), set(map(subject, clients))
    below = client_names.intersection(map(_issuer, signers)) or signer_names.intersection(map(_issuer, clients))
    return signer_names.isdisjoint(client_names) and not below


def _everybody(profile: Profile, around: Surroundings) -> Iterator[str]:
    """What lets in whoever likes to come."""
    narrow = profile.service_user is not None or not _from_anywhere(profile)
    vendor = profile.vendor
    if vendor is not None and "ir" in profile.operations and not narrow:
        if not vendor.allow_list and vendor.free_subject:
            yield (
                "enrollment.vendor.free_subject: everybody with a device of the maker could enroll any name; set "
                "allow_list = true or free_subject = false, or name their networks in client_addresses"
            )
        for shown, root in _public(vendor.trusted, around.public_roots):
            yield (
                f"enrollment.vendor.trusted_certificates: everybody could enroll: {shown} {root}, and no maker's; name "
                "the maker's own CA"
            )
    if narrow:
        return
    for shown, root in _public(profile.ra_trusted, around.public_roots):
        yield (
            f"enrollment.ra_certificates: {shown} {root}: whom it certifies as an RA could enroll everybody; name the "
            "RA's own certificate, or set service_user or client_addresses"
        )
    if _is_narrowed(profile) or not {"signature", "TLS"} & _ways(profile):
        return
    advice = "narrow it by [enrollment.client], service_user or client_addresses"
    tls = list(_public(profile.tls_trusted, around.public_roots))
    if not profile.tls_required or tls:  # else the TLS client is of a PKI of its own
        for shown, root in _public(profile.trusted, around.public_roots):
            yield f"enrollment.trusted_certificates: everybody could enroll: {shown} {root}; {advice}"
    if profile.unprotected and profile.tls_trusted != profile.trusted:
        for shown, root in tls:
            yield f"enrollment.tls.trusted_certificates: everybody could enroll: {shown} {root}; {advice}"


def _from_anywhere(profile: Profile) -> bool:
    return not profile.client_addresses or any(one.prefixlen == 0 for one in profile.client_addresses)


def _is_narrowed(profile: Profile) -> bool:
    """Whether [enrollment.client] asks for something that not everybody can have; a purpose alone everybody can."""
    rules = profile.client
    patterns = [one for one in (rules.subject, rules.issuer, *rules.san) if one is not None]
    tight = [one for one in patterns if not (isinstance(one, Pattern) and one.text in _ANYTHING)]
    return bool(tight or rules.fingerprints or rules.certificate_policies)


def _public(anchors: Iterable[bytes], roots: frozenset[bytes]) -> Iterator[tuple[str, str]]:
    """Those of the anchors that are publicly trusted: their names, and what they are."""
    if not roots:
        return
    keys, names = _index(roots)
    for anchor in anchors:
        with suppress(MalformedError, ValueError):
            shown = repr(name_text(subject(anchor)))
            if spki(anchor) in keys:
                yield shown, "is a publicly trusted root"
                continue
            for above in names.get(_issuer(anchor), ()):
                if _has_issued(above, anchor):
                    yield shown, f"is a CA under the publicly trusted root {name_text(subject(above))!r}"
                    break


@lru_cache(maxsize=2)
def _index(roots: frozenset[bytes]) -> tuple[frozenset[bytes], dict[bytes, list[bytes]]]:
    """Keys and names of the roots."""
    keys: set[bytes] = set()
    names: dict[bytes, list[bytes]] = {}
    for one in roots:
        with suppress(MalformedError):
            keys.add(spki(one))
            names.setdefault(subject(one), []).append(one)
    return frozenset(keys), names


def _has_issued(above: bytes, below: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(below).verify_directly_issued_by(x509.load_der_x509_certificate(above))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


# ------------------------------------------------------------------------------------------------------------- notices


def access_notices(profile: Profile, around: Surroundings, now: datetime) -> list[str]:
    """What is allowed, and yet an operator should know it: `key: notice`, one line each."""
    return [*_prices(profile), *_empty(profile, around), *_idle(profile), *_ends(profile, now)]


def _prices(profile: Profile) -> Iterator[str]:
    """What costs security or certainty."""
    if profile.code.allow_global and profile.authentication_method == "enrollment_code":
        yield (
            "enrollment.code.allow_global: one secret can be good for every client: whoever learns it can enroll every "
            "name that the profile allows, until it is revoked; a code for each device does not cost that"
        )
    if _from_anywhere(profile) and profile.client_addresses:
        yield "enrollment.client_addresses: has a network that is the whole Internet, so that it keeps nobody out"
    vendor = profile.vendor
    if vendor is not None and not vendor.allow_list:
        yield (
            "enrollment.vendor.allow_list: every device of the makers may enroll, those of other customers too; a list "
            "(`cmpd device import`) lets in those that are yours"
        )
    rules = profile.revocation
    trusts = profile.trusted or profile.ra_trusted or profile.tls_trusted or profile.vendor
    if not trusts:
        return
    for source in rules.crls:
        if "://" in source or rules.crl == "off" or Path(source).exists():
            continue
        until = "is accepted" if rules.crl == "required" else "is held against it"
        yield f"enrollment.revocation.crls: {source} is not there; until it is, no certificate {until}"
    if rules.off:
        yield (
            "enrollment.revocation: is off: certificates of other PKIs count as good although they have been revoked"
        )


def _empty(profile: Profile, around: Surroundings) -> Iterator[str]:
    """What has to be filled before anybody can use it."""
    if around.usable_code is False and "code" in _ways(profile):
        yield (
            "enrollment.authentication_method: there is no enrollment code that can be used; "
            f"`cmpd code create --profile {profile.name}` makes one"
        )
    if profile.vendor is not None and profile.vendor.allow_list and around.devices is False:
        yield (
            "enrollment.vendor.allow_list: no device is in the list; "
            f"`cmpd device add --profile {profile.name} SERIAL` or `cmpd device import` fills it"
        )


def _idle(profile: Profile) -> Iterator[str]:
    """What has no effect."""
    signs = profile.trusted or profile.tls_trusted
    if profile.client != type(profile.client)() and not signs:
        yield "enrollment.client: has no effect: it is about clients under trusted_certificates, and there are none"
    if profile.vendor is not None and "ir" not in profile.operations:
        yield "enrollment.vendor: has no effect: a device enrolls by ir, and that is not in allowed_operations"
    if (
        profile.trusted
        and profile.authentication_method == "enrollment_code"
        and not profile.tls_required
        and not profile.operations & _SIGNED
    ):
        yield "enrollment.trusted_certificates: has no effect: an ir of this profile is protected by an enrollment code"
    if profile.tls_trusted != profile.trusted and not profile.tls_required and not profile.unprotected:
        yield (
            "enrollment.tls.trusted_certificates: has no effect without tls.required = true or tls.unprotected = true"
        )


def _ends(profile: Profile, now: datetime) -> Iterator[str]:
    """Trusted certificates that have ended, or end soon."""
    vendor = () if profile.vendor is None else profile.vendor.trusted
    for key, certificates in (
        ("enrollment.trusted_certificates", profile.trusted),
        ("enrollment.intermediate_certificates", profile.intermediates),
        ("enrollment.ra_certificates", profile.ra_trusted),
        ("enrollment.tls.trusted_certificates", [one for one in profile.tls_trusted if one not in profile.trusted]),
        ("enrollment.vendor.trusted_certificates", vendor),
    ):
        for one in certificates:
            with suppress(MalformedError):
                begin, end = map(read_time, der.children(tbs(one)[3], 2))
                shown = repr(name_text(subject(one)))
                if now < begin:
                    yield f"{key}: {shown} is not valid before {begin:%Y-%m-%dT%H:%M:%SZ}"
                elif end <= now + AHEAD:
                    tense = "ended" if end <= now else "ends"
                    yield f"{key}: {shown} {tense} at {end:%Y-%m-%dT%H:%M:%SZ}; put its successor into the file"


# -------------------------------------------------------------------------------------------------------------- reading


def _text(name: bytes) -> str:
    try:
        return name_text(name)
    except MalformedError:
        return ""


def _issuer(certificate: bytes) -> bytes:
    return tbs(certificate)[2]


def _overlap(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    return one.version == other.version and one.overlaps(other)

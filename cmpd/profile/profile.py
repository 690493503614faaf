"""The profile: what a request needs to know of it, and the decision on a request."""

import functools
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from cmpd.exchange import Approved, CertificateRequest, Finding, RequestedExtension, RevocationRules
from cmpd.profile import rules
from cmpd.profile.config import ContactConfig, OrganizationConfig, ProfileConfig, describe
from cmpd.profile.decision import Decision
from cmpd.profile.enrollment import ClientConfig, CodeConfig, RevocationConfig, VendorConfig
from cmpd.profile.extensions import EXTENDED_KEY_USAGE, KEY_USAGE, NOT_A_CA, ExtensionsPolicy
from cmpd.profile.key import KeyPolicy
from cmpd.profile.san import SUBJECT_ALT_NAME, SanPolicy
from cmpd.profile.seat import SeatPolicy
from cmpd.profile.subject import EMPTY_NAME, SubjectPolicy, common_name_is
from cmpd.profile.templates import Merged, merge
from cmpd.profile.validity import ValidityPolicy
from cmpd.profile.vendor import VendorRules
from cmpd.profile.vocabulary import SIGNATURE_ALGORITHMS, ProfileError, ProfileKeyError, PublicTrust
from cmpd.protection.client import ClientRules

_EVERY_ALGORITHM: Final = tuple(SIGNATURE_ALGORITHMS)
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Profile:
    """A checked profile; made by `load` or `from_config`."""

    name: str
    """As in /.well-known/cmp/p/NAME."""
    id: str
    """As in /cmp/ID."""
    issuer: str
    """Name of the `[issuers.NAME]` section."""
    description: str
    operations: frozenset[str]
    """Allowed body types: ir, cr, p10cr, kur."""
    authentication_method: str
    """enrollment_code or tls_certificate."""
    trusted: tuple[bytes, ...]
    """Trust anchors of signature-protected requests, DER."""
    intermediates: tuple[bytes, ...]
    """CA certificates below the trust anchors, DER; not trusted by themselves."""
    ra_trusted: tuple[bytes, ...]
    """Certificates of registration authorities, and CAs of such, DER."""
    tls_trusted: tuple[bytes, ...]
    """Trust anchors of TLS client certificates, DER."""
    code: CodeConfig
    client: ClientRules
    """What a client's certificate must be."""
    client_addresses: tuple[IPv4Network | IPv6Network, ...]
    """Where requests may come from; empty: anywhere."""
    requests_per_second: int | None
    tls_required: bool
    """Every request needs a TLS client certificate that the profile trusts."""
    tls_binding: str
    """same_certificate, same_subject or ra."""
    unprotected: bool
    """A TLS client's certificate may stand for the protection of the message."""
    revocation: RevocationRules
    vendor: VendorRules | None
    """Devices that enroll with their maker's certificate."""
    implicit_confirm: bool
    confirm_wait: timedelta
    several_requests: bool
    polling: bool
    """Whether clients can be told to wait."""
    message_time_tolerance: timedelta | None
    """None: messageTime is not checked."""
    missing_transaction_id: bool
    short_nonces: bool
    sha1_signatures: bool
    require_new_key: bool
    renewal_window: timedelta | None
    """A kur is accepted from so long before the old notAfter; None: at any time."""
    renewal_grace: timedelta
    """A kur is accepted until so long after the old notAfter."""
    display_name: str
    """For people."""
    base_template: str | None
    issuer_ca: str | None
    """The CA within the issuer, in the issuer's words; None: its only one."""
    issuer_options: Mapping[str, Any]
    """What the issuer is told in its own keys."""
    business_unit: str
    tags: tuple[str, ...]
    organization: OrganizationConfig | None
    contact: ContactConfig | None
    service_user: str | None
    """Name of the set of certificates that alone may use the profile; None: any trusted one."""
    validation_type: str | None
    """mailbox, organization, sponsor, individual or domain."""
    generation: str | None
    """strict or multipurpose."""
    usage: str | None
    """signing, key_management or dual_use."""
    same_key_elsewhere: bool
    """A key that another certificate has may be certified."""
    maps_seats: bool
    """The profile says where in a request the seat is."""
    duplicates: bool
    """A seat may have several valid certificates."""
    budget_per_day: int | None
    budget_per_seat: int | None
    lint: str
    """off, warn or enforce."""
    public_trust: PublicTrust | None
    """smime or tls."""
    signature_algorithms: tuple[str, ...]
    """What the issuer may sign with; empty: anything."""
    signature_algorithm: str | None
    """What is asked of an issuer that has a choice; None: the issuer's own."""
    _key: KeyPolicy = field(repr=False)
    _subject: SubjectPolicy = field(repr=False)
    _san: SanPolicy = field(repr=False)
    _extensions: ExtensionsPolicy = field(repr=False)
    _validity: ValidityPolicy = field(repr=False)
    _seat: SeatPolicy = field(repr=False)
    _common_name_from: tuple[str, ...] = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a profile file; its name without `.toml` is the profile's. Raises ProfileError."""
        return cls.from_config(path.stem, read_file(path), path.parent)

    @classmethod
    def from_config(
        cls, name: str, config: ProfileConfig | Mapping[str, Any], base: Path, *, today: date | None = None
    ) -> Self:
        """Check and prepare; files that the profile names are relative to `base`. Raises ProfileError.

        A mapping is merged with its base template. The rules of public trust are those of `today`, in UTC.
        """
        path = base / f"{name}.toml"
        if not _NAME.fullmatch(name):
            raise ProfileError(
                [f"{path}: the name of a profile is 1 to 64 characters of a-z 0-9 . _ -, the first a letter or digit"]
            )
        merged: Merged | None = None
        if not isinstance(config, ProfileConfig):
            merged = merge(path, config)
            try:
                config = ProfileConfig.model_validate(merged.table)
            except ValidationError as error:
                raise ProfileError(merged.traced(describe(path, error))) from None
        faults: list[str] = []
        parts: dict[str, Any] = {}
        for part, prepare in _preparations(config, base).items():
            try:
                parts[part] = prepare()
            except ProfileKeyError as fault:
                faults.append(f"{path}: {fault}")
        if merged is not None:
            faults = [*merged.forbidden(path), *merged.traced(faults)]
        if faults:
            raise ProfileError(faults)
        enrollment, kind, renewal = config.enrollment, config.certificate_type, config.renewal
        window = renewal.window_days if renewal.reject_outside_window else None
        default_algorithm = config.signature.default_algorithm
        del parts["checked"]
        parts["tls_trusted"] = parts["tls_trusted"] or parts["trusted"]
        profile = cls(
            name=name,
            id=config.id,
            issuer=config.issuer,
            description=config.description,
            operations=frozenset(enrollment.allowed_operations),
            authentication_method=enrollment.authentication_method,
            code=enrollment.code,
            client_addresses=enrollment.client_addresses,
            requests_per_second=enrollment.requests_per_second,
            tls_required=enrollment.tls.required,
            tls_binding=enrollment.tls.binding,
            unprotected=enrollment.tls.unprotected,
            implicit_confirm=enrollment.implicit_confirm,
            confirm_wait=enrollment.confirm_wait,
            several_requests=enrollment.several_requests,
            polling=enrollment.polling,
            message_time_tolerance=enrollment.message_time_tolerance,
            missing_transaction_id=enrollment.legacy.missing_transaction_id,
            short_nonces=enrollment.legacy.short_nonces,
            sha1_signatures=enrollment.legacy.sha1_signatures,
            require_new_key=renewal.require_new_key,
            renewal_window=None if window is None else timedelta(days=window),
            renewal_grace=renewal.grace,
            display_name=config.name or name,
            base_template=config.base_template,
            issuer_ca=config.issuer_ca,
            issuer_options=config.issuer_options,
            business_unit=config.business_unit,
            tags=config.tags,
            organization=config.organization,
            contact=config.contact,
            service_user=enrollment.service_user,
            validation_type=kind.validation_type,
            generation=kind.generation,
            usage=kind.usage,
            same_key_elsewhere=config.key.same_key_elsewhere,
            maps_seats=config.seat.id_mapping is not None,
            duplicates=config.seat.allow_duplicates,
            budget_per_day=config.budget.per_day,
            budget_per_seat=config.budget.per_seat,
            lint=config.lint,
            public_trust=config.public_trust,
            signature_algorithms=config.signature.allowed_algorithms,
            signature_algorithm=None if default_algorithm == "match_issuer" else default_algorithm,
            _common_name_from=config.subject.common_name_from,
            **parts,
        )
        if config.public_trust is not None:
            day = today or datetime.now(UTC).date()
            faults = [f"{path}: {fault}" for fault in rules.check_profile(_shortened(config, day), day)]
            if faults:
                raise ProfileError(faults if merged is None else merged.traced(faults))
        return profile

    @property
    def signed_ir(self) -> bool:
        """Whether an ir may be signed although the profile asks for enrollment codes: by a device or an RA."""
        return self.vendor is not None or bool(self.ra_trusted)

    @property
    def tls_anchors(self) -> tuple[bytes, ...]:
        """All that TLS client certificates may be under, intermediates included, DER: for the handshake."""
        vendor = () if self.vendor is None else self.vendor.trusted
        return (*self.trusted, *self.tls_trusted, *self.ra_trusted, *vendor, *self.intermediates)

    def seat_id(self, text: str) -> str:
        """A seat ID that an operator has written, in the spelling in which requests are found to have it."""
        return self._seat.spelled(text)

    def signature_faults(self, capable: Collection[str]) -> list[str]:
        """Hold [signature] against what an issuer can sign with, in the names of `SIGNATURE_ALGORITHMS`.

        One line for each fault, without the file; for whoever knows the issuer.
        """
        faults = []
        if self.signature_algorithms and not set(self.signature_algorithms) & set(capable):
            shown = ", ".join(capable) or "nothing known"
            faults.append(f"signature.allowed_algorithms: the issuer {self.issuer!r} signs with {shown} only")
        if self.signature_algorithm is not None and self.signature_algorithm not in capable:
            faults.append(
                f"signature.default_algorithm: the issuer {self.issuer!r} cannot sign with {self.signature_algorithm}"
            )
        return faults

    def approve(self, request: CertificateRequest, *, transaction_id: bytes, now: datetime) -> Approved:
        """Decide what the certificate will be, or refuse: BadCertTemplate, UnacceptedExtension, BadAlg, BadDataFormat.

        `now` is aware. Pure: the same arguments always give the same answer (RFC 9483 §5.1.1).
        """
        approved = self._decide(request, transaction_id, now, Decision())
        assert approved is not None
        return approved

    def explain(self, request: CertificateRequest, *, transaction_id: bytes, now: datetime) -> list[Finding]:
        """Hold every rule against a request, in the order of `approve`, and go on after one that is broken.

        Nothing raises; the first finding that is not ok is what `approve` refuses with.
        """
        decision = Decision(explain=True)
        self._decide(request, transaction_id, now, decision)
        return decision.findings or []

    def _decide(
        self, request: CertificateRequest, transaction_id: bytes, now: datetime, decision: Decision
    ) -> Approved | None:
        """Decide; None when what is asked cannot even be read. Raises CMPError unless `decision` is to explain."""
        policy = self._extensions
        key_type: str | None = None
        subject: bytes | None = None
        values: dict[x509.ObjectIdentifier, bytes] = {}
        honoured: list[RequestedExtension] = []
        attributes: dict[str, list[str]] = {}
        names: dict[str, list[str]] = {}
        san = key_usage = purposes = None
        with decision.reading("publicKey", "RFC 5280 §4.1.2.7"):
            key_type = self._key.check(request.spki, decision)
        with decision.reading("extensions", "RFC 5280 §4.2"):
            values, honoured = policy.sort(request.extensions, decision)
        with decision.reading("subject", "RFC 5280 §4.1.2.6"):
            subject, attributes = self._subject.resolve(request.subject, decision)
        with decision.reading("san", "RFC 5280 §4.2.1.6"):
            san, names = self._san.resolve(values.get(SUBJECT_ALT_NAME), subject == EMPTY_NAME, decision)
        self._check_common_name(attributes, names, decision)
        if key_type in self._key.types:
            with decision.reading("extensions.key_usage", "RFC 5280 §4.2.1.3"):
                key_usage = policy.key_usage.resolve(values.get(KEY_USAGE), key_type, decision)
            with decision.reading("extensions.extended_key_usage", "RFC 5280 §4.2.1.12"):
                purposes = policy.extended_key_usage.resolve(values.get(EXTENDED_KEY_USAGE), key_type, decision)
        cap = (
            None
            if self.public_trust is None
            else _longest(self.public_trust, self.generation, now.astimezone(UTC).date())
        )
        not_before, not_after = self._validity.resolve(request.not_before, request.not_after, now, cap, decision)
        seat = self._seat.find(attributes, names, decision)
        if key_type is None or subject is None:
            return None
        extensions: list[RequestedExtension] = [NOT_A_CA]
        extensions.extend(extension for extension in (key_usage, purposes, san) if extension is not None)
        extensions.extend(policy.own.values())
        extensions.extend(honoured)
        approved = Approved(
            profile=self.name,
            transaction_id=transaction_id,
            cert_req_id=request.cert_req_id,
            subject=subject,
            spki=request.spki,
            not_before=not_before,
            not_after=not_after,
            extensions=tuple(extensions),
            modified=tuple(decision.modified),
            seat=seat,
            lint=self.lint,
        )
        if self.public_trust is not None:
            with decision.reading("request", "RFC 5280 §4.1"):
                self._check_public_trust(approved, self.public_trust, now, decision)
        return approved

    def _check_common_name(
        self, attributes: dict[str, list[str]], names: dict[str, list[str]], decision: Decision
    ) -> None:
        """The common name repeats a name that is there already, where the profile says so. Raises BadCertTemplate."""
        rule, field_ = "subject.common_name_from", "subject.common_name"
        if not self._common_name_from:
            return
        for common in attributes.get("common_name", ()):
            if common_name_is(self._common_name_from, common, attributes, names):
                decision.passed(rule, field_, "is one of the other names")
            else:
                allowed = ", ".join(self._common_name_from)
                decision.refuse(rule, field_, f"is not one of the names in {allowed}")

    def _check_public_trust(self, approved: Approved, kind: PublicTrust, now: datetime, decision: Decision) -> None:
        """Hold the rules of public trust against what would be issued. Raises BadCertTemplate, BadAlg."""
        for finding in rules.check(
            approved,
            kind=kind,
            validation_type=self.validation_type,
            generation=self.generation,
            usage=self.usage,
            now=now,
        ):
            if finding.ok:
                if decision.findings is not None:
                    decision.passed(finding.rule, finding.field, finding.text)
            else:
                text = finding.text.removeprefix(f"{finding.field}: ")
                decision.refuse(finding.rule, finding.field, text, rules.refusal(finding))


@functools.lru_cache(maxsize=64)
def _longest(kind: PublicTrust, generation: str | None, day: date) -> timedelta:
    """The longest validity of public trust on a day."""
    return rules.max_validity(kind, generation, day)


def _shortened(config: ProfileConfig, day: date) -> ProfileConfig:
    """Where what is too long is shortened, the default is too: a rule's next step does not stop the profile."""
    if config.public_trust is None or config.validity.on_exceed != "shorten":
        return config
    cap = _longest(config.public_trust, config.certificate_type.generation, day)
    validity = config.validity.model_copy(update={"default": min(config.validity.default, cap)})
    return config.model_copy(update={"validity": validity})


def read_file(path: Path) -> dict[str, Any]:
    """Read a profile file as TOML. Raises ProfileError."""
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ProfileError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ProfileError([f"{path}: octet {error.start} is not UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ProfileError([f"{path}: is not TOML: {error}"]) from None


def _preparations(config: ProfileConfig, base: Path) -> dict[str, Callable[[], object]]:
    """What is worked out once, each part on its own so that one run reports the faults of all."""
    enrollment, types = config.enrollment, config.key.allowed_types
    return {
        "trusted": lambda: _trusted(config, base),
        "intermediates": lambda: _certificates(
            "enrollment.intermediate_certificates", enrollment.intermediate_certificates, base
        ),
        "ra_trusted": lambda: _certificates("enrollment.ra_certificates", enrollment.ra_certificates, base),
        "tls_trusted": lambda: _certificates(
            "enrollment.tls.trusted_certificates", enrollment.tls.trusted_certificates, base
        ),
        "client": lambda: _client(enrollment.client),
        "revocation": lambda: _revocation(enrollment.revocation, base),
        "vendor": lambda: _vendor(enrollment.vendor, base),
        "_key": lambda: KeyPolicy.from_config(config.key),
        "_subject": lambda: SubjectPolicy.from_config(config.subject, config.organization),
        "_san": lambda: SanPolicy.from_config(config.san),
        "_extensions": lambda: ExtensionsPolicy.from_config(config.extensions, types, config.certificate_type.usage),
        "_validity": lambda: ValidityPolicy.from_config(config.validity),
        "_seat": lambda: SeatPolicy.from_config(config.seat, config.subject, config.san, counted=_counts_seats(config)),
        "checked": lambda: _check(config),
    }


def _counts_seats(config: ProfileConfig) -> bool:
    return not config.seat.allow_duplicates or config.budget.per_seat is not None


def _check(config: ProfileConfig) -> None:
    """See that keys of different tables agree. Raises ProfileKeyError."""
    kind, contact, signature = config.certificate_type, config.contact, config.signature
    if config.public_trust is None and (kind.validation_type or kind.generation):
        key = "validation_type" if kind.validation_type else "generation"
        raise ProfileKeyError(f"certificate_type.{key}", "goes with public_trust only")
    enrollment = config.enrollment
    if (
        enrollment.service_user is not None
        and enrollment.authentication_method != "tls_certificate"
        and not enrollment.tls.required
    ):
        raise ProfileKeyError(
            "enrollment.service_user", "goes with authentication_method = 'tls_certificate' or tls.required = true only"
        )
    if enrollment.tls.required and enrollment.tls.binding == "ra" and not enrollment.ra_certificates:
        raise ProfileKeyError("enrollment.tls.binding", "'ra' needs enrollment.ra_certificates")
    if enrollment.code.lock_max < enrollment.code.lock_for:
        raise ProfileKeyError("enrollment.code.lock_max", "is shorter than lock_for")
    if contact is not None:
        given = [key for key in ContactConfig.model_fields if key != "mode" and getattr(contact, key) is not None]
        if contact.mode == "linked" and given:
            raise ProfileKeyError(f"contact.{given[0]}", "goes with mode = 'custom' only")
        if contact.mode == "linked" and config.organization is None:
            raise ProfileKeyError("contact.mode", "'linked' is the contact of an organization: needs [organization]")
        missing = {"first_name", "last_name", "email"}.difference(given)
        if contact.mode == "custom" and missing:
            raise ProfileKeyError(f"contact.{min(missing)}", "is missing")
    if signature.default_algorithm not in ("match_issuer", *(signature.allowed_algorithms or _EVERY_ALGORITHM)):
        raise ProfileKeyError(
            "signature.default_algorithm", f"{signature.default_algorithm} is not in allowed_algorithms"
        )


def _trusted(config: ProfileConfig, base: Path) -> tuple[bytes, ...]:
    key, enrollment = "enrollment.trusted_certificates", config.enrollment
    if (
        enrollment.authentication_method == "tls_certificate"
        and "ir" in enrollment.allowed_operations
        and not (
            enrollment.trusted_certificates
            or enrollment.ra_certificates
            or enrollment.vendor
            or enrollment.tls.trusted_certificates
        )
    ):
        raise ProfileKeyError(
            key, "is missing: with authentication_method = 'tls_certificate' an ir is signed under one"
        )
    return _certificates(key, enrollment.trusted_certificates, base)


def _client(config: ClientConfig) -> ClientRules:
    return ClientRules(
        subject=config.subject,
        issuer=config.issuer,
        san=config.san,
        extended_key_usages=frozenset(map(x509.ObjectIdentifier, config.extended_key_usages)),
        certificate_policies=frozenset(config.certificate_policies),
        fingerprints=frozenset(config.fingerprints),
    )


def _revocation(config: RevocationConfig, base: Path) -> RevocationRules:
    """Read where CRLs are; a file need not be there yet."""
    crls = tuple(source if "://" in source else str((base / source).absolute()) for source in config.crls)
    return RevocationRules(config.crl, config.ocsp, crls, config.ocsp_url)


def _vendor(config: VendorConfig | None, base: Path) -> VendorRules | None:
    if config is None:
        return None
    return VendorRules(
        trusted=_certificates("enrollment.vendor.trusted_certificates", config.trusted_certificates, base),
        serial_from=config.serial_from,
        allow_list=config.allow_list,
        subject=config.subject,
        free_subject=config.free_subject,
        seat_from_serial=config.seat == "serial",
    )


def _certificates(key: str, files: tuple[str, ...], base: Path) -> tuple[bytes, ...]:
    """Read the certificates of PEM files. Raises ProfileKeyError."""
    found: dict[bytes, None] = {}
    for file in files:
        try:
            certificates = x509.load_pem_x509_certificates((base / file).read_bytes())
        except OSError as error:
            raise ProfileKeyError(key, f"{file!r} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ProfileKeyError(key, f"{file!r} is not a PEM file with certificates") from None
        found |= dict.fromkeys(certificate.public_bytes(Encoding.DER) for certificate in certificates)
    return tuple(found)

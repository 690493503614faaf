"""`cmpd explain`: a request taken through the responder's own steps, with nothing issued and nothing kept.

The responder itself makes the answer, over a store that forgets, an issuer that shows previews and a profile that
notes what it is asked. Where that stops early, the steps after it are taken one by one, as far as they go.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cmpd import asn1, daemon, enrollment, lint, reply
from cmpd.asn1 import BodyType
from cmpd.asn1.text import certificate_tree, describe, extensions_tree, tree_lines
from cmpd.cli import message as messages
from cmpd.cli.dry_run import DryStore, WatchedProfile, dry
from cmpd.cli.operation import faults, now, store_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json
from cmpd.cli.refused import write_findings
from cmpd.enrollment import Operation, Wanted
from cmpd.errors import CMPError
from cmpd.exchange import Arrival, CertificateRequest, EnrollmentCode, Exchange, Finding, TLSClient
from cmpd.ports import IssuerFailure, IssuerUnavailable, Store
from cmpd.profile import Profile
from cmpd.protection import Credential, MacCredential, is_mac
from cmpd.responder import Responder
from cmpd.revocation import Revocations
from cmpd.settings import Settings

_ADDRESS = "127.0.0.1"
"""Where a message comes from unless an option says so."""


@dataclass(slots=True)
class Step:
    """A stage that a request passes or not."""

    name: str
    ok: bool
    text: str


@dataclass(slots=True)
class Certificate:
    """What would come out."""

    der: bytes
    modified: tuple[str, ...]
    seat: str | None
    lint: list[str]


@dataclass(slots=True)
class Explanation:
    """All that is found out about a message."""

    message: asn1.PKIMessage | None
    at: datetime
    steps: list[Step] = field(default_factory=list)
    findings: list[list[Finding]] = field(default_factory=list)
    """Of each request of the message."""
    certificates: list[Certificate] = field(default_factory=list)
    answer: bytes = b""
    outcome: str = ""
    refusal: str = ""
    """Why the client is refused; empty when it is not."""
    private: str = ""
    before: str = ""
    """What has become of this message when it came before."""


def show(
    path: Path,
    file: str,
    *,
    profile: str,
    at: str | None,
    address: str | None,
    code: str | None,
    tls_certificate: Path | None,
    json: bool,
) -> None:
    """Print what would come of a message; a fault when the client would be refused."""
    with faults():
        arrival = Arrival(_address(address), profile, code=code, client=_tls_client(tls_certificate))
        try:
            data = messages.unwrap(messages.read(file))
        except ValueError as error:
            raise OperatorError(f"{plain(file)}: {plain(str(error))}") from None
        found = asyncio.run(explain(Settings.load(path), data, arrival, at))
    if json:
        write_json(_public(found, profile))
    else:
        _print(found, profile)
    if found.refusal:
        raise OperatorError(f"{plain(file)}: refused: {plain(found.refusal)}")


async def explain(settings: Settings, data: bytes, arrival: Arrival, at: str | None) -> Explanation:
    """Find everything out; `arrival` names the profile. Raises OperatorError, SettingsError, StoreUnavailable."""
    loaded = daemon.load(settings)
    name = arrival.profile or ""
    profile = loaded.profiles.get(name)
    if profile is None:
        raise OperatorError(f"--profile {plain(name)}: there is none; there are: {', '.join(loaded.profiles)}")
    try:
        message: asn1.PKIMessage | None = asn1.decode(data, settings.limits)
    except asn1.MalformedError:
        message = None
    moment = _moment(at, message)
    if settings.store.path is not None and not settings.store.path.exists():
        raise OperatorError(f"{settings.store.path}: there is no database; `cmpd serve` makes it")
    async with store_of(settings) as store:
        revocations = Revocations(limits=settings.limits)
        try:
            return await _Explainer(loaded, profile, store, data, message, moment, arrival, revocations).explain()
        finally:
            await revocations.close()


def _address(text: str | None) -> str:
    try:
        return _ADDRESS if text is None else str(ip_address(text))
    except ValueError:
        raise OperatorError(f"--address {plain(text or '')}: not an address; write 192.0.2.1 or 2001:db8::1") from None


def _tls_client(file: Path | None) -> TLSClient | None:
    """The TLS client's certificate of a PEM file, with the chain that follows it."""
    if file is None:
        return None
    try:
        found = [one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(file.read_bytes())]
    except ValueError:
        raise OperatorError(f"--tls-certificate {plain(str(file))}: not a PEM file with a certificate") from None
    return TLSClient(found[0], tuple(found[1:]))


def _moment(at: str | None, message: asn1.PKIMessage | None) -> datetime:
    if at is None:
        return now()
    if at == "message":
        time = None if message is None else message.header.messageTime
        if time is None:
            raise OperatorError("--at message: the message does not say when it was made")
        return asn1.read_time(asn1.raw(time))
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise OperatorError(f"--at {plain(at)}: not a time; write 2026-01-31T12:00:00Z, or `message`") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


class _Explainer:
    def __init__(
        self,
        loaded: daemon.Loaded,
        profile: Profile,
        store: Store,
        data: bytes,
        message: asn1.PKIMessage | None,
        moment: datetime,
        arrival: Arrival,
        revocations: Revocations,
    ) -> None:
        self._loaded = loaded
        self._arrival = arrival
        self._revocations = revocations
        self._profile = profile
        self._issuer = dry(loaded.issuers[profile.issuer])
        self._store = store
        self._data = data
        self._message = message
        self._found = Explanation(message, moment)

    async def explain(self) -> Explanation:
        found, message = self._found, self._message
        begins = message is not None and message.body_type in reply.RESPONSE_OF
        exchange, watched, store = await self._respond(None)
        if message is not None and begins and message.header.transactionID:
            earlier = await self._store.transaction(message.header.transactionID)
            if earlier is not None:
                found.before = f"{earlier.state.value}, begun {time_text(earlier.created)}"
                answer = found.answer
                exchange, watched, store = await self._respond(message.header.transactionID)
                found.answer = answer
        found.private = exchange.private
        found.outcome = exchange.outcome
        found.refusal = _refusal(found.answer)
        if message is None:
            return found
        self._authentication(message, exchange, store.code_seen)
        if begins:
            await self._requests(message, exchange, watched, store.code_seen)
        return found

    async def _respond(self, hidden: bytes | None) -> tuple[Exchange, WatchedProfile, DryStore]:
        """Have the responder answer; the transaction `hidden` is not there."""
        watched, store = WatchedProfile(self._profile), DryStore(self._store, hidden=hidden)
        exchanges: list[Exchange] = []
        responder = Responder(
            profiles={self._profile.name: cast("Profile", watched)},
            default=None,
            issuers={self._profile.issuer: self._issuer},
            store=store,
            limits=self._loaded.settings.limits,
            observe=exchanges.append,
            clock=lambda: self._found.at,
            revocations=self._revocations,
        )
        self._found.answer = await responder.respond(self._data, self._arrival)
        return exchanges[0], watched, store

    def _authentication(self, message: asn1.PKIMessage, exchange: Exchange, code: EnrollmentCode | None) -> None:
        """Who the sender is, and whether that is proved."""
        how = _protection(message, code)
        if exchange.client:
            self._step("TLS client", True, f"certificate of {exchange.client}")
        elif self._profile.tls_required and self._arrival.client is None:
            self._step("TLS client", False, "none; --tls-certificate says as whose TLS client it comes")
        if exchange.credential:
            self._step("authentication", True, f"{how}: verifies")
        else:
            self._step("authentication", False, f"{how}: {exchange.reason}")
        if code is not None:
            unusable = code.refusal(self._found.at)
            if unusable is None and code.locked_until is not None and self._found.at < code.locked_until:
                unusable = f"locked after wrong MACs until {time_text(code.locked_until)}"
            uses = "any number" if code.uses is None else code.uses
            self._step("enrollment code", unusable is None, unusable or f"used {code.used} of {uses} times")

    def _step(self, name: str, ok: bool, text: str) -> None:
        self._found.steps.append(Step(name, ok, text))

    async def _requests(
        self, message: asn1.PKIMessage, exchange: Exchange, watched: WatchedProfile, code: EnrollmentCode | None
    ) -> None:
        """The requests of a message: possession of the key, the rules, the certificate."""
        requests = watched.requests
        if requests:
            self._step("proof of possession", True, "verifies")
        else:
            wanted = self._read(message, exchange, code)
            requests = [one.request for one in wanted]
            for one in wanted:
                try:
                    one.check_pop()
                    self._step("proof of possession", True, "verifies")
                except (CMPError, asn1.MalformedError) as error:
                    self._step("proof of possession", False, str(error))
            stopped = exchange.credential and exchange.fail_info and all(step.ok for step in self._found.steps)
            if stopped:
                self._step("request", False, exchange.reason)
        transaction_id = message.header.transactionID or b""
        for request in requests:
            findings = self._profile.explain(request, transaction_id=transaction_id, now=self._found.at)
            self._found.findings.append(findings)
            if all(finding.ok for finding in findings):
                await self._certificate(request, transaction_id)
        if requests is watched.requests and exchange.fail_info and self._rules_are_kept():
            self._step("state", False, exchange.reason)

    def _rules_are_kept(self) -> bool:
        return all(finding.ok for findings in self._found.findings for finding in findings)

    def _read(self, message: asn1.PKIMessage, exchange: Exchange, code: EnrollmentCode | None) -> Sequence[Wanted]:
        """Read the requests where the responder did not come to that."""
        credential = None if code is None else MacCredential(code, cast("Any", None))
        try:
            operation = Operation(
                received=cast("Any", None),
                credential=cast("Credential", credential),
                body=message.decode_body(),
                digest=b"",
                realm=cast("Any", _Realm(self._profile)),
                store=self._store,
                limits=self._loaded.settings.limits,
                now=self._found.at,
                replier=cast("Any", None),
                exchange=exchange,
            )
            if message.body_type is BodyType.p10cr:
                return [enrollment.p10cr_request(operation)]
            return enrollment.crmf_requests(operation)
        except (CMPError, asn1.MalformedError) as error:
            self._step("request", False, str(error))
            return []

    async def _certificate(self, request: CertificateRequest, transaction_id: bytes) -> None:
        """What the certificate would be, and what the linter says of it."""
        profile = self._profile
        approved = profile.approve(request, transaction_id=transaction_id, now=self._found.at)
        try:
            preview = await self._issuer.preview(approved)
        except (IssuerUnavailable, IssuerFailure) as error:
            self._step("certificate", False, str(error))
            return
        try:
            said = lint.lint(
                preview,
                profile.public_trust or "pkix",
                validation_type=profile.validation_type,
                generation=profile.generation,
            )
            linted = [str(finding) for finding in said if finding.severity is not lint.Severity.info]
        except lint.LinterMissing:
            linted = ["not linted: pkilint is not installed (cmpd[lint])"]
        self._found.certificates.append(Certificate(preview, approved.modified, approved.seat, linted))


@dataclass(frozen=True, slots=True)
class _Realm:
    """As much of `enrollment.Realm` as reading a request needs."""

    profile: Profile


def _protection(message: asn1.PKIMessage, code: EnrollmentCode | None) -> str:
    """What a message is protected with."""
    if message.protection is None or message.header.protectionAlg is None:
        return "no protection"
    if is_mac(message):
        return "MAC" if code is None else f"MAC of enrollment code {asn1.printable(code.reference)}"
    try:
        subject = certificate_tree(message.extraCerts[0])["subject"] if message.extraCerts else "none that is sent"
    except asn1.MalformedError:
        subject = "one that cannot be read"
    return f"signature with the certificate of {subject}"


def _refusal(answer: bytes) -> str:
    """What an answer says about why it refuses; empty when it grants something."""
    message = asn1.decode(answer, messages.LIMITS)
    body: Any = message.decode_body()
    if message.body_type is BodyType.error:
        infos = [body.pKIStatusInfo]
    else:
        infos = [one.status for one in getattr(body, "response", ())]
    refused = [info for info in infos if info.status > asn1.PKIStatus.grantedWithMods]
    if not refused or len(refused) < len(infos):
        return ""
    bits = refused[0].failInfo.as_bytes() if refused[0].failInfo is not None else b""
    names = [bit.name for bit in asn1.PKIFailureInfo if bit < len(bits) * 8 and bits[bit // 8] & 0x80 >> bit % 8]
    return ": ".join([", ".join(names), *(refused[0].statusString or ())])


# ------------------------------------------------------------------------------------------------------------ printing


def _public(found: Explanation, profile: str) -> dict[str, Any]:
    answer = asn1.decode(found.answer, messages.LIMITS)
    return {
        "profile": profile,
        "at": time_text(found.at),
        "message": None if found.message is None else describe(found.message),
        "answered_before": found.before or None,
        "steps": [{"step": one.name, "ok": one.ok, "text": one.text} for one in found.steps],
        "rules": [
            [{"rule": one.rule, "field": one.field, "ok": one.ok, "text": one.text} for one in findings]
            for findings in found.findings
        ],
        "certificates": [
            certificate_tree(one.der)
            | {
                "extensions": extensions_tree(one.der),
                "modified": list(one.modified),
                "seat": one.seat,
                "lint": one.lint,
                "pem": x509.load_der_x509_certificate(one.der).public_bytes(Encoding.PEM).decode(),
            }
            for one in found.certificates
        ],
        "accepted": not found.refusal,
        "refusal": found.refusal or None,
        "private": found.private or None,
        "answer": {"body": answer.body_type.name, "outcome": found.outcome},
    }


def _print(found: Explanation, profile: str) -> None:
    if found.message is None:
        write("message         cannot be read")
    else:
        header = found.message.header
        identifier = header.transactionID.hex() if header.transactionID else "none"
        write(
            f"message         {found.message.body_type.name}, {len(found.message.der)} octets, transaction {identifier}"
        )
    write(f"profile         {profile}, as of {time_text(found.at)}")
    if found.before:
        write(
            f"before          this transaction is known: {found.before}",
            "                its answer is repeated; what follows is as if it came for the first time",
        )
    write("", "steps", *(f"  {'ok  ' if one.ok else 'FAIL'}  {one.name}: {plain(one.text)}" for one in found.steps))
    for findings in found.findings:
        write_findings([{"ok": one.ok, "text": one.text, "rule": one.rule} for one in findings])
    for certificate in found.certificates:
        tree: dict[str, Any] = dict(certificate_tree(certificate.der))
        del tree["serialNumber"]
        tree["extensions"] = extensions_tree(certificate.der)
        write("", "certificate (not issued)", *(f"  {plain(line)}" for line in tree_lines(tree)))
        if certificate.seat is not None:
            write(f"  seat: {plain(certificate.seat)}")
        write(*(f"  changed: {plain(one)}" for one in certificate.modified))
        write(*(f"  lint: {plain(one)}" for one in certificate.lint or ("nothing found",)))
    answer = asn1.decode(found.answer, messages.LIMITS)
    write("", f"answer          {answer.body_type.name}: {plain(found.refusal) or found.outcome}")
    if found.private:
        write(f"                (not told: {plain(found.private)})")

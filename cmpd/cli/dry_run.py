"""A store, an issuer and a profile for a responder that decides everything and leaves no trace."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from cryptography import x509

from cmpd.asn1.certificate import spki
from cmpd.enrollment import digest
from cmpd.exchange import (
    Approved,
    CertificateRequest,
    Device,
    EnrollmentCode,
    Finding,
    IssuedCertificate,
    Refusal,
    Transaction,
    TransactionState,
)
from cmpd.lint import Previewer
from cmpd.ports import (
    CMPSigner,
    CodeUnusable,
    Conditions,
    CRLState,
    Expired,
    Issued,
    Issuer,
    IssuerUnavailable,
    KeptCRL,
    Known,
    Named,
    Revocation,
    Store,
    TransactionExists,
    TransactionMoved,
    Unmet,
)
from cmpd.profile import Profile


class DryStore:
    """`ports.Store` over another one: reads go through, writes are judged as that one would and then forgotten."""

    def __init__(self, store: Store, *, hidden: bytes | None = None) -> None:
        self._store = store
        self._hidden = hidden
        self._codes: dict[int, EnrollmentCode] = {}

    @property
    def code_seen(self) -> EnrollmentCode | None:
        """The enrollment code that was asked for and found."""
        return next(iter(self._codes.values()), None)

    async def look_up(self, transaction_id: bytes, _: Callable[[], Named], /) -> Known:
        """See `ports.Store`."""
        return Known(await self.transaction(transaction_id))

    async def transaction(self, transaction_id: bytes, /) -> Transaction | None:
        """See `ports.Store`; the hidden one is not there."""
        return None if transaction_id == self._hidden else await self._store.transaction(transaction_id)

    async def code(self, profile: str, reference: bytes, /) -> EnrollmentCode | None:
        """See `ports.Store`."""
        found = await self._store.code(profile, reference)
        if found is not None:
            self._codes[found.id] = found
        return found

    async def global_code(self, profile: str, /) -> EnrollmentCode | None:
        """See `ports.Store`."""
        found = await self._store.global_code(profile)
        if found is not None:
            self._codes[found.id] = found
        return found

    async def wrong_mac(self, code: int, /, *, most: int, until: datetime, locks: int, count: int = 1) -> bool:  # noqa: ARG002
        """Counts nothing."""
        return False

    async def lock_code(self, code: int, /, *, until: datetime, locks: int) -> None:
        """Lock nothing."""

    async def is_service_user(self, user: str, fingerprint: str, issuer: bytes, subject: bytes, /) -> bool:
        """See `ports.Store`."""
        return await self._store.is_service_user(user, fingerprint, issuer, subject)

    async def device(self, profile: str, serial: str, /) -> Device | None:
        """See `ports.Store`."""
        return await self._store.device(profile, serial)

    async def certificate(self, serial: int, /) -> IssuedCertificate | None:
        """See `ports.Store`."""
        return await self._store.certificate(serial)

    async def certificates_of(self, transaction_id: bytes, /) -> tuple[IssuedCertificate, ...]:
        """See `ports.Store`."""
        return await self._store.certificates_of(transaction_id)

    async def unmet(
        self,
        profile: str,
        seat: str | None,
        spki_sha256: bytes,
        conditions: Conditions,
        now: datetime,
        /,
        *,
        others: int = 0,
    ) -> Unmet | None:
        """See `ports.Store`."""
        return await self._store.unmet(profile, seat, spki_sha256, conditions, now, others=others)

    async def issued(
        self,
        transaction: Transaction,
        certificates: Sequence[IssuedCertificate],
        /,
        *,
        code: int | None,
        now: datetime,
        conditions: Sequence[Conditions] = (),
    ) -> None:
        """Raise what the store would raise; keep nothing."""
        subject_to = conditions or (Conditions(),) * len(certificates)
        for one, subject in zip(certificates, subject_to, strict=True):
            key = digest(spki(one.der))
            others = len(certificates) - 1
            unmet = await self._store.unmet(one.profile, one.seat, key, subject, now, others=others)
            if unmet is not None:
                raise unmet
        await self.refused(transaction)
        if code is not None and (code not in self._codes or self._codes[code].refusal(now) is not None):
            raise CodeUnusable

    async def refused(self, transaction: Transaction, _refusal: Refusal | None = None, /) -> None:
        """Raise what the store would raise; keep nothing."""
        if await self.transaction(transaction.transaction_id) is not None:
            raise TransactionExists

    async def refusal(self, refusal: Refusal, /) -> None:
        """Keep nothing."""

    async def advance(
        self,
        transaction_id: bytes,
        /,
        *,
        seen: TransactionState,
        state: TransactionState,  # noqa: ARG002  the port's
        nonce: bytes,  # noqa: ARG002
        request: bytes,  # noqa: ARG002
        reply: bytes,  # noqa: ARG002
        confirmed: Sequence[int] = (),  # noqa: ARG002
        revoked: Sequence[Revocation] = (),  # noqa: ARG002
        kept: Sequence[int] = (),  # noqa: ARG002
        give_back: int | None = None,  # noqa: ARG002
    ) -> None:
        """Raise what the store would raise; keep nothing."""
        found = await self.transaction(transaction_id)
        if found is None or found.state is not seen:
            raise TransactionMoved

    async def expire(
        self,
        _now: datetime,
        /,
        *,
        outside: Collection[str] = (),  # noqa: ARG002  the port's
        keep: Collection[str] = (),  # noqa: ARG002
    ) -> tuple[Expired, ...]:
        """End nothing."""
        return ()

    async def forget(self, _before: datetime, /) -> int:
        """Delete nothing."""
        return 0

    async def revoke(self, _revocation: Revocation, /) -> bool:
        """Revoke nothing."""
        return False

    async def revoked(self, issuer: str, /) -> tuple[Revocation, ...]:
        """See `ports.Store`."""
        return await self._store.revoked(issuer)

    async def crl_state(self, issuer: str, ca: bytes, /) -> CRLState:
        """See `ports.Store`."""
        return await self._store.crl_state(issuer, ca)

    async def crl(self, issuer: str, ca: bytes, /) -> KeptCRL | None:
        """See `ports.Store`."""
        return await self._store.crl(issuer, ca)

    async def next_crl_number(self, _issuer: str, /) -> int:
        """Count nothing."""
        return 0

    async def keep_crl(self, _issuer: str, _ca: bytes, _crl: KeptCRL, /, *, seen: int) -> bool:  # noqa: ARG002  the port's
        """Keep nothing."""
        return False

    async def ready(self) -> None:
        """Write nothing."""

    async def close(self) -> None:
        """Leave the other store open: it is its owner's."""


class DryIssuer:
    """An issuer whose certificates are previews, signed by a key that is thrown away."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    async def issue(self, request: Approved, /) -> Issued:
        """See `ports.Issuer`."""
        certificate = await self.preview(request)
        shown = x509.load_der_x509_certificate(certificate)
        return Issued(certificate, shown.serial_number, shown.not_valid_after_utc)

    async def preview(self, request: Approved, /) -> bytes:
        """See `lint.Previewer`."""
        if not isinstance(self._issuer, Previewer):
            raise IssuerUnavailable("the issuer cannot show a certificate without issuing it")
        return await self._issuer.preview(request)

    async def chain(self) -> tuple[bytes, ...]:
        """See `ports.Issuer`."""
        return await self._issuer.chain()


class DrySigningIssuer(DryIssuer):
    """The same for an issuer that signs CMP messages."""

    def cmp_credential(self) -> tuple[object, tuple[bytes, ...]]:
        """See `ports.CMPSigner`."""
        assert isinstance(self._issuer, CMPSigner)
        return self._issuer.cmp_credential()


def dry(issuer: Issuer) -> DryIssuer:
    """Wrap an issuer so that it issues nothing."""
    return DrySigningIssuer(issuer) if isinstance(issuer, CMPSigner) else DryIssuer(issuer)


class WatchedProfile:
    """A profile that notes which requests it was asked to decide."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self.requests: list[CertificateRequest] = []
        """In the form in which they were decided."""

    def __getattr__(self, name: str) -> object:
        """Everything else is the profile's."""
        return getattr(self._profile, name)

    def approve(self, request: CertificateRequest, *, transaction_id: bytes, now: datetime) -> Approved:
        """See `Profile.approve`."""
        self.requests.append(request)
        return self._profile.approve(request, transaction_id=transaction_id, now=now)

    def explain(self, request: CertificateRequest, *, transaction_id: bytes, now: datetime) -> list[Finding]:
        """See `Profile.explain`."""
        return self._profile.explain(request, transaction_id=transaction_id, now=now)

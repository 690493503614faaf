"""The port's implementation: certificates and CRLs signed by a CA key of this process."""

import asyncio
import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.serialization import Encoding

from cmpd.asn1 import der
from cmpd.exchange import Approved
from cmpd.issuers import validate
from cmpd.issuers.local.authority import Authority, UnissuableError, Unsigned
from cmpd.issuers.local.config import LocalIssuerConfig, group_readable, read_ca, read_cmp
from cmpd.issuers.local.keys import Signer, another
from cmpd.ports import Diagnosis, Entropy, Issued, IssuerFailure, KeptCRL, Store, StoreUnavailable
from cmpd.profile.vocabulary import SIGNATURE_ALGORITHMS

_NOTICE = timedelta(days=30)
"""How long before an end `LocalIssuer.notices` and `examine` speak of it."""
_SHORT_CRL = 200
"""Up to so many entries (about a millisecond of work) a CRL is written in the event loop."""


def crl_url_of(config: LocalIssuerConfig, url: str, name: str) -> str:
    """The CRL's URL as certificates carry it; empty for none."""
    if config.crl_url is not None:
        return config.crl_url
    return f"{url.rstrip('/')}/crl/{name}.crl" if url else ""


class LocalIssuer:
    """A CA in this process: `Issuer`, `CRLSource` and `CMPSigner` of the ports, and `Previewer` of `cmpd.lint`."""

    def __init__(
        self,
        config: LocalIssuerConfig,
        *,
        name: str = "local",
        url: str = "",
        entropy: Entropy = os.urandom,
        now: datetime | None = None,
    ) -> None:
        """Read and check the files of `config`; `url` is how clients reach the server. Raises `IssuerConfigError`."""
        now = now or datetime.now(UTC)
        ca = read_ca(config, now)
        cmp = read_cmp(config, ca, now)
        self.name = name
        self.config = config
        self.crl_url = crl_url_of(config, url, name)
        self.not_after = ca.certificate.not_valid_after_utc
        """The end of the issuing CA's certificate: nothing issued is valid for longer."""
        self._chain = ca.der
        self._certificate = ca.certificate
        self._ca_ends = {
            path: min(one.not_valid_after_utc for one in certificates)
            for path, certificates in ((config.certificate, (ca.certificate,)), (config.chain, ca.chain))
            if path is not None and certificates
        }
        self._cmp_end = cmp.certificate.not_valid_after_utc
        # without the root, which a client that trusts it has (RFC 9483 §3.3)
        above = self._chain[:-1] if len(self._chain) > 1 else ()
        self._cmp_credential = (cmp.key, (cmp.certificate.public_bytes(Encoding.DER), *above))
        self._authority = Authority(
            ca.key,
            ca.subject,
            ca.identifier,
            entropy=entropy,
            crl_url=self.crl_url,
            ca_issuers_url=config.ca_issuers_url,
        )
        self._signer = self._authority.signer
        self.signature_algorithms = tuple(
            algorithm for algorithm, oid in SIGNATURE_ALGORITHMS.items() if der.oid(oid) in self._signer.algorithm
        )
        """What it signs certificates with, in the words of profiles."""
        self._ca_key = ca.key
        self._throw_away: Signer | None = None
        self._ca = hashlib.sha256(self._chain[0]).digest()
        self._crl: KeptCRL | None = None
        self._crl_lock = asyncio.Lock()

    @classmethod
    def from_config(cls, table: Mapping[str, Any], base: Path, url: str, name: str) -> Self:
        """Make the issuer of `[issuers.NAME]`; relative paths start at `base`. Raises `IssuerConfigError`."""
        return cls(validate(LocalIssuerConfig, table, base=base), name=name, url=url)

    async def issue(self, request: Approved, /) -> Issued:
        """Issue a certificate of exactly what was approved (RFC 5280 §4.1); notAfter is cut at the CA's own end.

        Raises `IssuerFailure` when what was approved does not make a certificate.
        """
        unsigned = self._prepare(request)
        tbs = unsigned.tbs
        signature = await asyncio.to_thread(self._signer.sign, tbs) if self._signer.slow else self._signer.sign(tbs)
        return Issued(self._authority.signed(tbs, signature), unsigned.serial, min(request.not_after, self.not_after))

    async def preview(self, request: Approved, /) -> bytes:
        """The certificate that `issue` would make, DER, but for its serial number and signature.

        A key that is made for this and thrown away signs it, by the same algorithm. Raises `IssuerFailure`.
        """
        tbs = self._prepare(request).tbs
        return self._authority.signed(tbs, await asyncio.to_thread(self._sign_for_nothing, tbs))

    def _prepare(self, request: Approved) -> Unsigned:
        try:
            return self._authority.prepare(
                request.subject,
                request.spki,
                request.not_before,
                min(request.not_after, self.not_after),
                request.extensions,
            )
        except UnissuableError as error:
            raise IssuerFailure(f"issuer {self.name}: {error}") from None

    def _sign_for_nothing(self, tbs: bytes) -> bytes:
        if self._throw_away is None:
            self._throw_away = Signer.of(another(self._ca_key))
        return self._throw_away.sign(tbs)

    async def chain(self) -> tuple[bytes, ...]:
        """The CA certificates, DER, issuing CA first, root last."""
        return self._chain

    def cmp_credential(self) -> tuple[object, tuple[bytes, ...]]:
        """The key for CMP answers; its certificate and those above without the root, DER (RFC 9483 §3.2, §3.3)."""
        return self._cmp_credential

    async def crl(self, store: Store, now: datetime, /) -> bytes:
        """The current CRL, DER (RFC 5280 §5): the one that is kept in the store, so that all processes serve the same.

        Callers at the same time share one. While the store is not available the last CRL serves until its nextUpdate;
        then raises `StoreUnavailable`.
        """
        try:
            state = await store.crl_state(self.name, self._ca)
            if not self._is_current(state.number, state.revocations, now):
                async with self._crl_lock:
                    await self._renew_crl(store, now)
        except StoreUnavailable:
            if self._crl is None or now >= self._crl.next_update:
                raise
        assert self._crl is not None
        return self._crl.der

    def _is_current(self, number: int, revocations: int, now: datetime) -> bool:
        """Whether the CRL at hand has this number and so many revocations, and is not near its end."""
        crl = self._crl
        if crl is None or crl.number != number or crl.revocations < revocations:
            return False
        return now < crl.this_update + min(crl.next_update - crl.this_update, self.config.crl_validity) / 2

    async def _renew_crl(self, store: Store, now: datetime) -> None:
        """Have the CRL that is kept, or make a newer one and keep it; whoever is second has that of the first."""
        state = await store.crl_state(self.name, self._ca)
        revocations = state.revocations  # what is revoked from now on comes next time
        while not self._is_current(state.number, revocations, now):
            if state.number != (0 if self._crl is None else self._crl.number):
                self._crl = await store.crl(self.name, self._ca)
            else:
                made = await self._make_crl(store, state.revocations, now)
                if await store.keep_crl(self.name, self._ca, made, seen=state.number):
                    self._crl = made
                    return
            state = await store.crl_state(self.name, self._ca)

    async def _make_crl(self, store: Store, revocations: int, now: datetime) -> KeptCRL:
        revoked = await store.revoked(self.name)
        number = await store.next_crl_number(self.name)
        now = now.replace(microsecond=0)
        end = now + self.config.crl_validity
        if len(revoked) > _SHORT_CRL or self._signer.slow:
            der = await asyncio.to_thread(self._authority.crl, revoked, number, now, end)
        else:
            der = self._authority.crl(revoked, number, now, end)
        return KeptCRL(number, revocations, now, end, der)

    @property
    def _ends(self) -> dict[Path, tuple[str, datetime]]:
        """By file: what it holds, and the first end in it."""
        ends = {self.config.cmp_certificate: ("CMP protection certificate", self._cmp_end)}
        return ends | {path: ("CA certificate", end) for path, end in self._ca_ends.items()}

    async def examine(self, store: Store | None, now: datetime, /) -> list[Diagnosis]:
        """Its certificates, secrets and CRL; see `ports.Examinable`."""
        from cmpd.issuers.local import doctor  # noqa: PLC0415  start-up time

        return [
            *doctor.certificates(self._ends, now, _NOTICE),
            *doctor.secrets(group_readable(self.config)),
            *await doctor.crl(self.name, self.crl_url, self._certificate, store, now),
        ]

    def notices(self, now: datetime) -> list[str]:
        """What an operator should see to: certificates within 30 days of their end, secrets that a group can read."""
        notices = [
            f"issuers.{self.name}: {path}: the {what} ends at {end:%Y-%m-%dT%H:%M:%SZ}; replace it by a new one in time"
            for path, (what, end) in self._ends.items()
            if end - now < _NOTICE
        ]
        notices += [
            f"issuers.{self.name}: {path}: its group may read it; chmod 600 it unless only cmpd is in that group"
            for path in group_readable(self.config)
        ]
        return notices

"""What of a local CA will keep it from issuing, or those who trust it from believing its certificates.

Its keys fit their certificates, and all of them are valid now: else it would not have been loaded.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.request import ProxyHandler, build_opener

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from cmpd.ports import Diagnosis, Store, StoreUnavailable

FETCH_SECONDS: Final = 5.0
LARGEST_CRL: Final = 16 << 20
"""Octets."""


def certificates(ends: Mapping[Path, tuple[str, datetime]], now: datetime, ahead: timedelta) -> list[Diagnosis]:
    """When the CA's own certificates end, by file what it holds and the first end; within `ahead` is a warning."""
    rows = []
    for path, (what, end) in ends.items():
        soon = end - now < ahead
        text = f"{path} {'ends at' if soon else 'is valid until'} {end:%Y-%m-%dT%H:%M:%SZ}"
        more = "; replace it by a new one in time" if soon else ""
        rows.append(Diagnosis("", what, "warning" if soon else "ok", text + more))
    return rows


def secrets(readable: Sequence[Path]) -> list[Diagnosis]:
    """Who can read the files of keys and passphrase; those that everybody can read are not loaded at all."""
    if not readable:
        return [Diagnosis("", "secrets", "ok", "keys and passphrase can be read, by their owner alone")]
    advice = "its group may read it; chmod 600 it unless only cmpd is in that group"
    return [Diagnosis("", "secrets", "warning", f"{path}: {advice}") for path in readable]


async def crl(name: str, url: str, issuer: x509.Certificate, store: Store | None, now: datetime) -> list[Diagnosis]:
    """Whether what is published where certificates say their CRL is, is current and complete."""
    if not url:
        return [Diagnosis("", "CRL", "note", 'crl_url is "": certificates do not say where their CRL is')]
    if not url.startswith(("http://", "https://")):
        return [Diagnosis("", "CRL", "note", f"{url} is not looked at, for it is neither http nor https")]
    try:
        octets = await asyncio.to_thread(_fetch, url)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = f"{url} cannot be fetched from here ({reason}); start the daemon, or see where server.url, crl_url lead"
        return [Diagnosis("", "CRL", "warning", text)]
    try:
        found = x509.load_der_x509_crl(octets)
    except ValueError:
        return [Diagnosis("", "CRL", "problem", f"{url} is no CRL in DER; correct what is published there, or crl_url")]
    if not _signed_by(found, issuer):
        return [Diagnosis("", "CRL", "problem", f"{url} has the CRL of another CA; correct crl_url")]
    end = found.next_update_utc
    if end is not None and end <= now:
        text = f"{url} has ended at {end:%Y-%m-%dT%H:%M:%SZ}: who looks at it believes no certificate; publish it anew"
        return [Diagnosis("", "CRL", "problem", text)]
    try:
        revoked = () if store is None else await store.revoked(name)
    except StoreUnavailable as error:
        return [Diagnosis("", "CRL", "problem", f"the store does not tell what is revoked: {error}")]
    missing = sum(found.get_revoked_certificate_by_serial_number(one.serial) is None for one in revoked)
    if missing:
        text = f"{url} lacks {missing} of {len(revoked)} certificates that are revoked; publish it anew"
        return [Diagnosis("", "CRL", "problem", text)]
    until = "" if end is None else f" until {end:%Y-%m-%dT%H:%M:%SZ}"
    return [Diagnosis("", "CRL", "ok", f"{url} is current{until}, with {len(found)} entries")]


def _fetch(url: str) -> bytes:
    """The octets behind a URL, whatever proxy the environment names."""
    with build_opener(ProxyHandler({})).open(url, timeout=FETCH_SECONDS) as answer:
        octets: bytes = answer.read(LARGEST_CRL + 1)
    if len(octets) > LARGEST_CRL:
        raise ValueError(f"longer than {LARGEST_CRL} octets")
    return octets


def _signed_by(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return found.issuer == issuer.subject and found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, UnsupportedAlgorithm):  # keys that `cryptography` verifies no CRL with; the name has to do
        return found.issuer == issuer.subject

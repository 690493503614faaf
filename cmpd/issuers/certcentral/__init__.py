"""DigiCert CertCentral as issuer: orders over its Services API v2, which are paid, may wait, and are never repeated.

`config` and `options` are the keys in cmpd.toml and in profiles, `pacing` is rate budget and circuit breaker, `client`
makes the calls and `answers` reads what comes back, `orders` writes what is ordered, `collecting` fetches certificates
and `checking` holds them against what was approved, `reconcile` finds orders whose answer was lost, `revocation` has
certificates revoked and finds out which are, `doctor` examines an account, and `issuer` is what all of it makes.
"""

from cmpd.issuers.certcentral.client import CertCentralClient
from cmpd.issuers.certcentral.config import CertCentralConfig
from cmpd.issuers.certcentral.issuer import CertCentralIssuer
from cmpd.issuers.certcentral.options import ProfileFacts, ProfileOptions, profile_faults

__all__ = [
    "CertCentralClient",
    "CertCentralConfig",
    "CertCentralIssuer",
    "ProfileFacts",
    "ProfileOptions",
    "profile_faults",
]

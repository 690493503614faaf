"""What a message may cost before its sender is known: every limit is a key of `[limits]` in cmpd.toml."""

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Limits:
    """Upper bounds, checked before the work they bound is done. Sizes in octets, key sizes in bits."""

    body_size: Annotated[int, Field(ge=1024, le=16 * 1024 * 1024)] = 256 * 1024
    """The largest HTTP request body; a larger one is answered with 413 without being read."""
    ber_size: Annotated[int, Field(ge=0, le=1024 * 1024)] = 32 * 1024
    """The largest message that is normalised when it is BER and not DER; 0 refuses all such messages."""
    nesting: Annotated[int, Field(ge=16, le=100)] = 40
    """The deepest nesting of constructed ASN.1 values in a message that is not DER."""
    list_length: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """The most elements in one SEQUENCE OF or SET OF of a message."""
    extra_certs: Annotated[int, Field(ge=1, le=1000)] = 32
    """The most certificates in extraCerts."""
    chain_length: Annotated[int, Field(ge=1, le=16)] = 6
    """The longest path from a CMP protection certificate to its trust anchor, both counted."""
    mac_iterations: Annotated[int, Field(ge=100, le=10_000_000)] = 100_000
    """The highest iterationCount of PasswordBasedMac and PBKDF2."""
    mac_salt: Annotated[int, Field(ge=16, le=4096)] = 256
    """The longest salt of PasswordBasedMac and PBKDF2."""
    inline_iterations: Annotated[int, Field(ge=0, le=100_000)] = 2048
    """Up to so many iterations a key is derived at once; longer derivations run in a worker thread."""
    rsa_bits: Annotated[int, Field(ge=2048, le=16384)] = 8192
    """The largest RSA modulus that a signature is verified with."""
    request_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    """The time a client has to send one whole HTTP request."""
    idle_seconds: Annotated[float, Field(gt=0, le=3600)] = 75.0
    """How long a keep-alive connection may be silent before it is closed."""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 4096
    """The most connections at a time; a further one is closed at once."""
    address_requests: Annotated[int, Field(ge=0, le=1_000_000)] = 2000
    """CMP messages a second from one address (of IPv6 one /64); more get systemUnavail, 0 is without limit. Behind a
    reverse proxy the client's address counts."""
    address_failures: Annotated[int, Field(ge=0, le=1_000_000)] = 60
    """Messages a minute from one address whose sender cannot be authenticated; until it is less again, no message from
    there is looked into, but for answers to repeat. 0 is without limit."""
    tracked_addresses: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000
    """So many addresses, and as many enrollment codes, are kept count of; the one heard of longest ago makes room."""
    crl_size: Annotated[int, Field(ge=1024, le=1 << 30)] = 16 * 1024 * 1024
    """The largest CRL or OCSP response of another PKI that is fetched."""
    revocation_seconds: Annotated[float, Field(gt=0, le=60)] = 5.0
    """How long a CRL or OCSP response is waited for."""

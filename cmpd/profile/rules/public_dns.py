"""The public DNS: top-level domains and public suffixes, from the Public Suffix List that `publicsuffixlist` ships."""

from functools import cache, lru_cache

import publicsuffixlist


@cache
def _suffixes() -> publicsuffixlist.PublicSuffixList:
    """The list's part of registries, which has every top-level domain of the root zone."""
    return publicsuffixlist.PublicSuffixList(accept_unknown=False, only_icann=True)


def preload() -> None:
    """Read the list now (some 50 ms) and not in the first request that needs it."""
    _suffixes()


@lru_cache(maxsize=1024)
def _is_top_level_domain(label: str) -> bool:
    return _suffixes().publicsuffix(label) is not None


def is_internal(name: str) -> bool:
    """Whether a domain, or the domain of a mailbox, ends in no top-level domain of the public DNS (TLS BR §1.6.1)."""
    return not _is_top_level_domain(name.rpartition(".")[2].lower())


def public_suffix(domain: str) -> str | None:
    """The end of a lower-case domain under which a registry gives out names, such as co.uk."""
    suffix: str | None = _suffixes().publicsuffix(domain)
    return suffix

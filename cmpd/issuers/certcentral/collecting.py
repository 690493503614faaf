"""The certificate of an order, by whichever call has it (Services API, "Download certificate").

A download can be of another certificate of the same order, and the list that is called its chain can be empty while the
download is not. So each way is tried until the certificate of the key is there with a chain; what came is merged.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

from cmpd.issuers.certcentral.checking import build_chain, find_leaf
from cmpd.issuers.certcentral.client import CallRefused, CertCentralClient


async def collect(
    client: CertCentralClient,
    spki: bytes,
    *,
    certificate_id: int | None,
    order_id: int | None,
    now: datetime | None = None,
) -> tuple[bytes, ...] | None:
    """All certificates that came, DER, whether or not the one of the key is among them; None when none did.

    Raises CallRefused for another reason than that there is none yet, and CallFailed.
    """
    came: dict[bytes, None] = {}
    async for more in _ways(client, certificate_id, order_id):
        came.update(dict.fromkeys(more))
        leaf = find_leaf(came, spki)
        if leaf is not None and build_chain(leaf, came, now or datetime.now(UTC)):
            break
    return tuple(came) or None


async def _ways(
    client: CertCentralClient, certificate_id: int | None, order_id: int | None
) -> AsyncIterator[tuple[bytes, ...]]:
    ways: list[tuple[Callable[[int], Awaitable[tuple[bytes, ...]]], int]] = []
    if certificate_id is not None:
        ways += [(client.download, certificate_id), (client.chain, certificate_id)]
    if order_id is not None:
        ways.append((client.download_order, order_id))
    for way, number in ways:
        try:
            yield await way(number)
        except CallRefused as error:
            if not error.not_found:
                raise

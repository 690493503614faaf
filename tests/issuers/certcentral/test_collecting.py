"""The certificate comes by whichever call has it."""

import pytest

from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig, ProfileFacts, orders
from cmpd.issuers.certcentral.answers import Ordered
from cmpd.issuers.certcentral.checking import find_leaf
from cmpd.issuers.certcentral.client import CallRefused
from cmpd.issuers.certcentral.collecting import collect
from tests.certcentral import CertCentral
from tests.issuers.certcentral import world
from tests.issuers.certcentral.world import approved, mark, placed, prepared, profile


@pytest.mark.parametrize("quirk", ["none", "hide_chain", "hide_certificate_id"])
async def test_it_comes_whatever_is_hidden(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig, quirk: str
) -> None:
    request = approved("mailbox")
    done = await placed(client, prepared(request, "mailbox", connector))
    if quirk != "none":
        central.set(order=done.order_id, times=None, **{quirk: True})  # type: ignore[arg-type]
    info = await client.order_info(done.order_id)
    came = await collect(client, request.spki, certificate_id=info.certificate_id, order_id=done.order_id)
    assert came is not None
    assert done.chain is not None
    assert set(came) == set(done.chain)


async def test_a_download_of_another_certificate_is_not_the_last_word(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    first = await placed(client, prepared(approved("private"), "private", connector))
    central.set(order=first.order_id, wrong_pem=True)
    again = approved("private")
    body = orders.reissue(
        again, ProfileFacts.of(profile("private")), world.options("private"), connector, mark=mark(again)
    )
    done = await client.reissue(first.order_id, body)
    assert isinstance(done, Ordered)
    assert done.certificate_id is not None
    assert find_leaf(await client.download(done.certificate_id), again.spki) is None, "the quirk"
    came = await collect(client, again.spki, certificate_id=done.certificate_id, order_id=first.order_id)
    assert came is not None
    assert find_leaf(came, again.spki) is not None


async def test_what_is_not_issued_yet_and_what_may_not_be_seen(
    client: CertCentralClient, central: CertCentral, connector: CertCentralConfig
) -> None:
    central.set(by_hand=True, times=1)
    request = approved("mailbox")
    done = await placed(client, prepared(request, "mailbox", connector))
    number, order = done.certificate_id, done.order_id
    assert await collect(client, request.spki, certificate_id=number, order_id=order) is None
    stranger = world.client(connector, key=central.key("users"))
    with pytest.raises(CallRefused):
        await collect(stranger, request.spki, certificate_id=number, order_id=order)
    await stranger.close()

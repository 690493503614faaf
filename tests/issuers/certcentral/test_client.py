"""How calls end: what the simulator does to them, and what the client says of it; the ledger is the witness."""

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cmpd.issuers.certcentral import CertCentralClient, CertCentralConfig
from cmpd.issuers.certcentral.answers import Done, NotDone, Ordered, Refused, Standing, Unknown, standing
from cmpd.issuers.certcentral.client import CallFailed, CallRefused, reason_word
from cmpd.issuers.certcentral.orders import PreparedOrder
from cmpd.issuers.certcentral.pacing import BreakerState
from tests.certcentral import CertCentral
from tests.certcentral.catalogue import DIVISION, EXAMPLE_GMBH, STAMP_FIELD
from tests.issuers.certcentral import world
from tests.issuers.certcentral.world import Timeline, approved, placed, prepared


@pytest.fixture
def ready(connector: CertCentralConfig) -> PreparedOrder:
    return prepared(approved("sponsor"), "sponsor", connector)


async def test_an_order_that_is_issued_at_once(client: CertCentralClient, ready: PreparedOrder) -> None:
    outcome = await client.order(ready.product, ready.body)
    assert isinstance(outcome, Ordered)
    assert outcome.certificate_id
    assert outcome.chain is not None
    assert len(outcome.chain) == 3


async def test_an_order_that_waits(client: CertCentralClient, central: CertCentral, ready: PreparedOrder) -> None:
    central.set(delay=60, times=1)
    outcome = await placed(client, ready)
    assert outcome.chain is None
    info = await client.order_info(outcome.order_id)
    assert (info.standing, info.certificate_id) == (Standing.waiting, outcome.certificate_id)
    central.clock.freeze()
    central.advance(61)
    (change,) = await client.status_changes(timedelta(minutes=5))
    assert (change.order_id, change.status, change.certificate_id) == (outcome.order_id, "issued", info.certificate_id)
    central.advance(7200)
    assert await client.status_changes(timedelta(minutes=5)) == [], "an answer {} is no change"


@pytest.mark.parametrize("switch", [{"ids_as_strings": True}, {"extra_fields": True}, {"placed_status": 200}])
async def test_quirks_of_answers(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder, switch: dict[str, Any]
) -> None:
    central.set(**switch)
    outcome = await placed(client, ready)
    assert outcome.request_ids
    assert (await client.order_info(outcome.order_id)).standing is Standing.issued


@pytest.mark.parametrize(
    ("fault", "paid"),
    [
        ({"kind": "drop"}, 0),
        ({"kind": "error_500"}, 0),
        ({"kind": "html"}, 0),
        ({"kind": "html", "status": 403}, 0),
        ({"kind": "commit_then_drop"}, 1),
        ({"kind": "commit_then_500"}, 1),
        ({"kind": "commit_then_html"}, 1),
        ({"kind": "commit_then_html", "status": 403}, 1),
        ({"kind": "commit_then_half"}, 1),
    ],
    ids=str,
)
async def test_an_order_whose_answer_says_nothing_is_unknown_and_never_sent_again(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder, fault: dict[str, Any], paid: int
) -> None:
    central.faults.add(endpoint="order", **fault)
    assert isinstance(await client.order(ready.product, ready.body), Unknown)
    assert len(central.journal.calls(endpoint="order")) == 1
    assert len(central.ledger) == paid
    assert client.counters.unknown == 1


@pytest.mark.parametrize("kind", ["slow_answer", "slow_loris"])
async def test_an_order_that_takes_too_long_is_unknown(
    tmp_path: Path, central: CertCentral, ready: PreparedOrder, kind: str
) -> None:
    client = world.client(world.config(tmp_path, central, connect_timeout="1s", read_timeout="1s"))
    central.faults.add(kind, endpoint="order")
    outcome = await client.order(ready.product, ready.body)
    central.faults.release()
    await client.close()
    assert isinstance(outcome, Unknown)
    assert "in time" in outcome.reason
    assert len(central.ledger) == 1


async def test_a_rate_limit_is_nothing_done_and_pauses_all(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder, timeline: Timeline
) -> None:
    central.set(retry_after=17)
    central.faults.add("rate_limited", endpoint="order")
    outcome = await client.order(ready.product, ready.body)
    assert isinstance(outcome, NotDone)
    assert outcome.retry_after == 17
    assert len(central.ledger) == 0
    before = timeline.now
    await client.me()
    assert timeline.now - before >= 17
    assert client.breaker.state is BreakerState.closed
    assert client.counters.limited == 1


async def test_an_order_does_not_wait_for_the_end_of_a_long_pause(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder, timeline: Timeline
) -> None:
    """Whoever keeps the order can rely on `longest_write`: after that nothing is sent any more."""
    client.budget.pause(100)
    outcome = await client.order(ready.product, ready.body)
    assert isinstance(outcome, NotDone)
    assert outcome.retry_after == 100
    assert (timeline.slept, central.journal.calls()) == ([], [])
    assert client.longest_write == 100


async def test_rate_limits_that_do_not_say_how_long_pause_ever_longer(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder, timeline: Timeline
) -> None:
    central.faults.add("rate_limited", endpoint="order", times=9)
    pauses = []
    for _ in range(9):
        outcome = await client.order(ready.product, ready.body)
        assert isinstance(outcome, NotDone)
        pauses.append(outcome.retry_after)
        timeline.now += outcome.retry_after
    assert pauses == sorted(pauses)
    assert pauses[0] < 10 < pauses[2]
    assert 180 <= pauses[-1] <= 240
    await placed(client, ready)


async def test_reads_go_on_after_a_rate_limit(client: CertCentralClient, central: CertCentral) -> None:
    central.faults.add("rate_limited", endpoint="user_me", times=2)
    assert (await client.me())["account_id"] == 1696530


@pytest.mark.parametrize("kind", ["drop", "error_500", "html", "commit_then_half"])
async def test_reads_are_repeated_with_growing_pauses(
    client: CertCentralClient, central: CertCentral, timeline: Timeline, kind: str
) -> None:
    central.faults.add(kind, endpoint="account", times=3)
    assert (await client.account())["id"] == 1696530
    assert timeline.slept == sorted(timeline.slept)
    assert len(timeline.slept) == 3
    central.faults.add(kind, endpoint="account", times=4)
    with pytest.raises(CallFailed):
        await client.account()
    assert len(central.journal.calls(endpoint="account")) == 8


async def test_refusals_are_final_and_say_why(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder
) -> None:
    broken = {**ready.body, "order_validity": {"days": 9999}}
    outcome = await client.order(ready.product, broken)
    assert isinstance(outcome, Refused)
    assert (outcome.status, outcome.code, outcome.of_key) == (400, "invalid_order_validity", False)
    assert "824" in str(outcome)
    unknown = await client.order("secure_email_nobody", ready.body)
    assert isinstance(unknown, Refused)
    assert (unknown.status, unknown.code) == (404, "not_found|product")
    central.set(errors_as_object=True)
    assert isinstance(await client.order(ready.product, broken), Refused)
    assert len(central.ledger) == 0


@pytest.mark.parametrize(
    ("key", "code"),
    [("revoked", "access_denied|access_denied_invalid_key"), ("view", "access_denied|missing_permission")],
)
async def test_a_refused_key_is_told_apart(
    connector: CertCentralConfig, central: CertCentral, ready: PreparedOrder, key: str, code: str
) -> None:
    client = world.client(connector, key=central.key(key))
    outcome = await client.order(ready.product, ready.body)
    await client.close()
    assert isinstance(outcome, Refused)
    assert (outcome.code, outcome.of_key) == (code, True)


# Nothing was sent


async def test_no_connection_is_nothing_done(tmp_path: Path, ready: PreparedOrder) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        client = world.client(world.config(tmp_path / "other", f"http://127.0.0.1:{port}/services/v2"))
        outcome = await client.order(ready.product, ready.body)
        await client.close()
    assert isinstance(outcome, NotDone)
    assert "no connection" in outcome.reason


async def test_a_host_without_an_address_is_nothing_done(
    tmp_path: Path, ready: PreparedOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nowhere(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    client = world.client(world.config(tmp_path / "other", "https://api.example.invalid/services/v2"))
    outcome = await client.order(ready.product, ready.body)
    await client.close()
    assert isinstance(outcome, NotDone)
    assert outcome.reason == "the host name cannot be resolved"


async def test_tls_and_its_failures(tmp_path: Path, ready: PreparedOrder) -> None:
    """Trusted by ca_file; by the system's CAs not, and then nothing was sent."""
    certificate, context = world.tls_certificate(tmp_path)
    central = await CertCentral().start(tls=context)
    try:
        trusting = world.client(world.config(tmp_path / "a", central, ca_file=str(certificate)))
        await placed(trusting, ready)
        await trusting.close()
        doubting = world.client(world.config(tmp_path / "b", central))
        outcome = await doubting.order(ready.product, ready.body)
        await doubting.close()
        plain = world.client(world.config(tmp_path / "c", central.url.replace("https:", "http:")))
        no_tls = await plain.order(ready.product, ready.body)
        await plain.close()
    finally:
        await central.stop()
    assert isinstance(outcome, NotDone)
    assert "TLS certificate is not good: self-signed" in outcome.reason.replace("self signed", "self-signed")
    assert isinstance(no_tls, Unknown), "something was sent"
    assert len(central.ledger) == 1


async def test_a_connection_that_takes_too_long_is_nothing_done(tmp_path: Path, ready: PreparedOrder) -> None:
    """A server that accepts TCP and never answers TLS."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"https://127.0.0.1:{mute.getsockname()[1]}/services/v2"
        client = world.client(world.config(tmp_path / "other", url, connect_timeout="1s"))
        outcome = await client.order(ready.product, ready.body)
        await client.close()
    assert isinstance(outcome, NotDone)
    assert outcome.reason == "no connection in time"


async def test_a_proxy_that_refuses_is_nothing_done(tmp_path: Path, ready: PreparedOrder) -> None:
    seen: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    (tmp_path / "proxy").write_text("me:secret")
    (tmp_path / "proxy").chmod(0o600)
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        connector = world.config(tmp_path, "https://api.example.invalid/v2", proxy=url, proxy_credentials_file="proxy")
        client = world.client(connector)
        outcome = await client.order(ready.product, ready.body)
        await client.close()
    assert isinstance(outcome, NotDone)
    assert outcome.reason == "the proxy answered HTTP 407"
    assert seen[0].startswith(b"CONNECT api.example.invalid:443 ")
    assert b"Proxy-Authorization: Basic " in seen[0]
    assert b"DEVKEY" not in seen[0].upper()


# Other servers than the simulator


@asynccontextmanager
async def serving(answer: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/services/v2"
    finally:
        await runner.cleanup()


async def test_the_key_follows_no_redirection(tmp_path: Path, ready: PreparedOrder) -> None:
    calls: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        calls.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with serving(answer) as url:
        client = world.client(world.config(tmp_path / "other", url))
        assert isinstance(await client.order(ready.product, ready.body), Unknown)
        with pytest.raises(CallFailed):
            await client.me()
        await client.close()
    assert "/elsewhere" not in calls


async def test_answers_are_bounded(tmp_path: Path, ready: PreparedOrder) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b'{"id": 1, "x": "' + b"x" * (9 << 20) + b'"}', content_type="application/json")

    async with serving(answer) as url:
        client = world.client(world.config(tmp_path / "other", url))
        outcome = await client.order(ready.product, ready.body)
        await client.close()
    assert isinstance(outcome, Unknown)
    assert "more than" in outcome.reason


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (201, "{}"),
        (201, ""),
        (201, "[]"),
        (201, '{"id": "x"}'),
        (201, "nonsense"),
        (400, "{}"),
        (408, '{"errors": [{"code": "x"}]}'),
    ],
)
async def test_answers_that_only_look_like_one(tmp_path: Path, ready: PreparedOrder, status: int, body: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type="application/json")

    async with serving(answer) as url:
        client = world.client(world.config(tmp_path / "other", url))
        assert isinstance(await client.order(ready.product, ready.body), Unknown)
        await client.close()


async def test_no_method_is_ever_sent_twice_by_the_http_library(tmp_path: Path) -> None:
    """PUT is idempotent in HTTP, and aiohttp sends it again over a new connection when the first one breaks."""
    calls = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls
        await reader.readuntil(b"\r\n\r\n")
        calls += 1
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/services/v2"
        client = world.client(world.config(tmp_path / "other", url))
        assert isinstance(await client.approve(1), Unknown)
        assert calls == 1
        assert isinstance(await client.order("ssl_basic", {}), Unknown)
        assert calls == 2
        await client.close()


async def test_every_call_has_a_connection_of_its_own(tmp_path: Path) -> None:
    """So that none is sent into a connection that the other side has given up meanwhile."""
    ports: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.json_response({"id": 1})

    async with serving(answer) as url:
        client = world.client(world.config(tmp_path / "other", url))
        for _ in range(3):
            await client.me()
        await client.close()
    assert len(set(ports)) == 3


# Budget, breaker, and the key


async def test_the_budget_is_kept_as_the_api_counts_it(tmp_path: Path, central: CertCentral) -> None:
    timeline = Timeline()
    connector = world.config(tmp_path, central, requests_per_5_seconds=20, requests_per_3_minutes=60)
    client = world.client(connector, timeline)
    central.set(rate_windows=((20, 5.0), (60, 180.0)))
    central.clock.freeze()

    async def sleep(seconds: float) -> None:
        await timeline.sleep(seconds)
        central.clock.advance(seconds)

    client.budget._sleep = sleep
    for _ in range(130):
        await client.me()
    await client.close()
    assert len(central.journal.calls()) == 130
    assert central.journal.busiest(5.0) == 20
    assert central.journal.busiest(180.0) == 60
    assert client.counters.limited == 0


async def test_the_breaker_keeps_orders_from_being_sent_and_closes_again(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder, timeline: Timeline
) -> None:
    central.faults.add("error_500", times=5)
    with pytest.raises(CallFailed):
        await client.me()
    with pytest.raises(CallFailed):
        await client.me()
    assert client.breaker.state == "open"
    calls = len(central.journal.calls())
    outcome = await client.order(ready.product, ready.body)
    assert isinstance(outcome, NotDone)
    assert 0 < outcome.retry_after <= 30
    assert len(central.journal.calls()) == calls
    timeline.now += 31
    await placed(client, ready)
    assert client.breaker.state is BreakerState.closed


async def test_a_call_that_is_given_up_is_made_once_at_most(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder
) -> None:
    central.faults.add("slow_answer", endpoint="order")
    task = asyncio.create_task(client.order(ready.product, ready.body))
    await central.faults.waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    central.faults.release()
    await client.me()
    assert len(central.ledger) == 1


async def test_the_key_is_nowhere_but_in_the_header(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = central.key("admin")
    central.faults.add("commit_then_drop", times=2)
    texts = [repr(client), str(await client.order(ready.product, ready.body))]
    central.account.keys[key].valid = False
    texts.append(str(await client.order(ready.product, ready.body)))
    try:
        await client.me()
    except CallRefused as error:
        shown: BaseException | None = error
        while shown is not None:
            texts += [str(shown), repr(shown)]
            shown = shown.__context__
    gc.collect()
    assert key not in "\n".join([*texts, caplog.text])


# The other calls


async def test_approving_rejecting_and_cancelling(
    connector: CertCentralConfig, client: CertCentralClient, central: CertCentral
) -> None:
    standard = world.client(connector, key=central.key("orders"))
    first = await placed(standard, prepared(approved("mailbox"), "mailbox", connector))
    assert first.certificate_id is None
    assert (await client.order_info(first.order_id)).standing is Standing.approval
    refused = await standard.approve(first.request_ids[0])
    assert isinstance(refused, Refused)
    assert refused.of_key
    assert await client.approve(first.request_ids[0], "fine") == Done()
    assert (await client.request(first.request_ids[0]))["status"] == "approved"
    assert (await client.order_info(first.order_id)).standing is Standing.issued
    second = await placed(standard, prepared(approved("mailbox"), "mailbox", connector))
    assert await client.reject(second.request_ids[0]) == Done()
    assert (await client.order_info(second.order_id)).standing is Standing.dead
    central.invalidate_domain("example.com")
    third = await placed(client, prepared(approved("mailbox"), "mailbox", connector))
    (mail,) = await client.email_validations(third.order_id)
    assert mail["status"] == "unvalidated"
    assert await client.cancel(third.order_id, "not wanted") == Done()
    assert (await client.order_info(third.order_id)).status == "canceled"
    await standard.close()


async def test_downloads_and_revocation(
    connector: CertCentralConfig, client: CertCentralClient, central: CertCentral, ready: PreparedOrder
) -> None:
    done = await placed(client, ready)
    assert done.certificate_id is not None
    assert done.chain is not None
    assert set(await client.download(done.certificate_id)) == set(done.chain)
    assert set(await client.download_order(done.order_id)) == set(done.chain)
    assert set(await client.chain(done.certificate_id)) == set(done.chain)
    info = await client.order_info(done.order_id)
    assert (await client.order_info(info.serial_number)).order_id == done.order_id
    standard = world.client(connector, key=central.key("orders"))
    asked = await standard.revoke(done.certificate_id, word="superseded", comments="rejected by the client")
    await standard.close()
    assert isinstance(asked, Done)
    assert asked.asked
    assert await client.revoke(info.serial_number, word="key_compromise") == Done()
    assert (await client.order_info(done.order_id)).standing is Standing.ended


async def test_a_download_before_issuance_is_refused(
    client: CertCentralClient, central: CertCentral, ready: PreparedOrder
) -> None:
    central.set(by_hand=True, times=1)
    done = await placed(client, ready)
    assert done.certificate_id is not None
    with pytest.raises(CallRefused) as caught:
        await client.download(done.certificate_id)
    assert caught.value.not_found


async def test_the_account(client: CertCentralClient) -> None:
    assert {row["name_id"] for row in await client.products(DIVISION)} < {
        row["name_id"] for row in await client.products()
    }
    assert (await client.product("ssl_basic"))["duplicates_allowed"] is True
    assert (await client.product_limits(DIVISION))["is_limited"] is True
    assert len(await client.containers()) == 2
    assert len(await client.organizations()) == 3
    assert (await client.organization(EXAMPLE_GMBH))["validations"]
    assert len(await client.domains()) == 4
    assert STAMP_FIELD in {row["id"] for row in await client.custom_fields()}


async def test_lists_are_read_page_by_page(client: CertCentralClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmpd.issuers.certcentral.client.PAGE", 3)
    assert len(await client.domains()) == 4


def test_reasons_of_revocation(tmp_path: Path) -> None:
    plain = world.config(tmp_path, "http://127.0.0.1:1/x")
    assert reason_word(plain, "keyCompromise") == "key_compromise"
    assert reason_word(plain, "certificateHold") is None
    own = world.config(tmp_path, "http://127.0.0.1:1/x", revocation_reasons={"keyCompromise": "keyCompromise"})
    assert reason_word(own, "keyCompromise") == "keyCompromise"


def test_words_of_orders() -> None:
    assert standing("issued") is Standing.issued
    assert standing("reissue_pending") is Standing.waiting
    assert standing("never_heard_of") is Standing.unknown

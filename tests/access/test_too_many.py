"""Over HTTP: what a suspended address is told, in CMP where that can be, else by 429 (RFC 6585 §4)."""

import http.client
from pathlib import Path

from tests.daemon import DEVICE, Daemon, Site
from tests.ee import EE
from tests.http_client import WAIT


def post(daemon: Daemon, body: bytes) -> tuple[int, str | None, bytes]:
    """Status, Retry-After and body."""
    connection = http.client.HTTPConnection(daemon.cmp, timeout=WAIT)
    try:
        connection.request("POST", DEVICE, body, {"Content-Type": "application/pkixcmp"})
        answer = connection.getresponse()
        return answer.status, answer.headers["Retry-After"], answer.read()
    finally:
        connection.close()


def test_a_flood_that_cannot_be_read_is_told_when_to_come_again(tmp_path: Path) -> None:
    site = Site.make(tmp_path / "cmpd")
    # one a minute: the next would be good only after the test
    site.append("[limits]\naddress_failures = 1")
    ee = site.code("device-1")
    with site.serve() as daemon:
        draft = ee.ir()
        request = ee.seal(draft)
        answered = daemon.ask(request)
        assert ee.read(answered, draft).type.name == "ip"
        assert post(daemon, b"no PKIMessage")[0] == 200
        status, retry_after, body = post(daemon, b"no PKIMessage")
        assert (status, body) == (429, b"too many requests; try again later\n")
        assert retry_after is not None
        assert 0 < int(retry_after) <= 60
        other = EE.with_code("device-2", "a secret")
        refused = other.ir()
        told = EE().read(daemon.ask(other.seal(refused)), refused)
        assert told.fail_info == "systemUnavail"
        daemon.exchange(outcome="error", limit="limits.address_failures")
        assert daemon.ask(request) == answered, "what was answered is answered again"
        daemon.stop()

"""kill -9 while a certificate is being revoked over there: the next daemon finds out, and it is revoked once."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cmpd import cli
from cmpd.asn1 import BodyType, PKIStatus, der, oids
from cmpd.exchange import CertificateStatus, IssuedCertificate, OutsideState
from tests.certcentral import CertCentral
from tests.daemon import Daemon, Site
from tests.ee import EE, Answer, Draft, extension, new_key
from tests.interop.test_openssl_certcentral import site_for

pytestmark = pytest.mark.long

MAIL = "/.well-known/cmp/p/mail"
ADA = "ada@example.com"
WAIT = 120


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def send(daemon: Daemon, ee: EE, draft: Draft) -> Answer:
    return ee.read(daemon.ask(ee.seal(draft), MAIL), draft)


def enroll(daemon: Daemon, ee: EE, status: PKIStatus | None) -> Answer:
    """A certificate of the public CA, accepted or rejected by the client."""
    answer = collect(daemon, ee)
    assert send(daemon, ee, ee.cert_conf(answer, hash_name="sha256", status=status)).type is BodyType.pkiconf
    return answer


def collect(daemon: Daemon, ee: EE) -> Answer:
    """A certificate that waits for its certConf."""
    name = extension(oids.SUBJECT_ALT_NAME, der.sequence(der.tlv(0x81, ADA.encode())))
    answer = send(daemon, ee, ee.ir(new_key("rsa-2048"), subject=f"CN={ADA}", extensions=[name]))
    while answer.type is BodyType.pollRep or answer.status is PKIStatus.waiting:
        answer = send(daemon, ee, ee.poll_req(answer))
    assert answer.certificate_der()
    return answer


async def served(site: Site, stack: ExitStack) -> Daemon:
    return await asyncio.to_thread(lambda: stack.enter_context(site.serve()))


async def until_done(site: Site) -> IssuedCertificate:
    """Wait until the only certificate is revoked over there."""
    async with asyncio.timeout(WAIT):
        while True:
            (one,) = await asyncio.to_thread(site.certificates)
            if one.outside is not None and one.outside.state is OutsideState.done:
                return one
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("fault", ["slow_commit", "slow_answer"])
async def test_the_daemon_dies_while_it_asks(tmp_path: Path, stack: ExitStack, fault: str) -> None:
    """Before it was done there, and after: that it is due has been kept with the certConf."""
    async with CertCentral().running(port=0) as central:
        site = await asyncio.to_thread(site_for, central.url, central.key("admin"), tmp_path / "cmpd")
        ee = await asyncio.to_thread(lambda: site.code("ada", profile="mail"))
        central.faults.add(fault, endpoint="revoke")
        daemon = await served(site, stack)
        await asyncio.to_thread(enroll, daemon, ee, PKIStatus.rejection)
        await asyncio.wait_for(central.faults.waiting.wait(), WAIT)
        await asyncio.to_thread(daemon.kill)
        (one,) = await asyncio.to_thread(site.certificates)
        assert one.outside is not None
        assert (one.status, one.outside.state) == (CertificateStatus.revoked, OutsideState.due)
        if fault == "slow_answer":
            central.faults.release()
        else:
            central.faults.clear()
        daemon = await served(site, stack)
        one = await until_done(site)
        central.faults.release()
        assert one.status is CertificateStatus.revoked
        (entry,) = central.ledger.orders()
        assert central.order(entry.order_id).status == "revoked"
        record = await asyncio.to_thread(daemon.until, f"revocation of certificate {one.serial:x} at digicert: done")
        assert record["level"] == "info"
        _, metrics = await asyncio.to_thread(daemon.admin_get, "/metrics")
        assert b'cmpd_outside_revocations_total{issuer="digicert",outcome="done"} 1.0' in metrics
        await asyncio.to_thread(daemon.stop)


async def test_the_command_the_running_daemon_and_a_reload(tmp_path: Path, stack: ExitStack) -> None:
    """`cmpd cert revoke` beside the daemon, which carries it out; a configuration that is loaded anew goes on."""
    async with CertCentral().running(port=0) as central:
        site = await asyncio.to_thread(site_for, central.url, central.key("admin"), tmp_path / "cmpd")
        ee = await asyncio.to_thread(lambda: site.code("ada", profile="mail"))
        daemon = await served(site, stack)
        await asyncio.to_thread(enroll, daemon, ee, None)
        daemon.signal(signal.SIGHUP)
        await asyncio.to_thread(daemon.until, "reloaded")
        (one,) = await asyncio.to_thread(site.certificates)
        assert one.status is CertificateStatus.valid
        arguments = ["cert", "revoke", f"{one.serial:x}", "--reason", "keyCompromise", "--yes"]
        with pytest.raises(SystemExit) as end:
            await asyncio.to_thread(cli.main, ["--config", str(site.config), *arguments])
        assert not end.value.code
        await until_done(site)
        found: Any = central.desk.register.find_certificate(f"{one.serial:032x}")
        assert found.revocation_reason == "key_compromise"
        await asyncio.to_thread(daemon.stop)


@pytest.mark.parametrize("policy", ["keep", "revoke"])
async def test_a_certconf_that_never_comes(tmp_path: Path, stack: ExitStack, policy: str) -> None:
    """The daemon's own sweep, by the policy of the issuer."""
    async with CertCentral().running(port=0) as central:
        site = await asyncio.to_thread(site_for, central.url, central.key("admin"), tmp_path / "cmpd")
        site.append(f'on_missing_certconf = "{policy}"')
        profile = site.folder / "profiles" / "mail.toml"
        profile.write_text(f'{profile.read_text()}confirm_wait = "1s"\n')
        ee = await asyncio.to_thread(lambda: site.code("ada", profile="mail"))
        daemon = await served(site, stack)
        await asyncio.to_thread(collect, daemon, ee)
        record = await asyncio.to_thread(daemon.until, "transaction expired", profile="mail")
        (one,) = await asyncio.to_thread(site.certificates)
        if policy == "keep":
            assert (record["serial"], record["kept"]) == ("", f"{one.serial:x}")
            assert (one.status, one.outside) == (CertificateStatus.kept, None)
            assert central.journal.calls(endpoint="revoke") == []
        else:
            assert record["serial"] == f"{one.serial:x}"
            assert "kept" not in record
            await until_done(site)
            assert there_are_revoked(central) == 1
        await asyncio.to_thread(daemon.stop)


def there_are_revoked(central: CertCentral) -> int:
    return sum(central.order(entry.order_id).status == "revoked" for entry in central.ledger.orders())

"""Several real daemons on one store: whichever is asked, a transaction goes on, a limit holds, a job is done once."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import pytest
from cryptography import x509

from cmpd import cli
from cmpd.asn1 import BodyType, PKIStatus, der
from cmpd.exchange import CertificateStatus, RevocationReason
from cmpd.rates import Buckets, Exchanged
from tests.certcentral import CertCentral
from tests.daemon import DEVICE, SECRET, Daemon, Site
from tests.ee import EE, Answer, Draft, extension, new_key
from tests.http_client import WAIT
from tests.interop.test_openssl_certcentral import site_for

pytestmark = pytest.mark.long

AFTER = 10
"""enrollment.code.lock_after, as it is without the key."""
LOOKS = 2.5
"""Seconds after which all processes have heard of each other, and of what they have counted."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site.make(tmp_path_factory.mktemp("several") / "cmpd")


@pytest.fixture
def site(made: Site, tmp_path: Path) -> Site:
    return made.copy(tmp_path / "cmpd")


@contextlib.contextmanager
def serving(site: Site, number: int) -> Iterator[list[Daemon]]:
    """So many daemons, which know of each other."""
    with contextlib.ExitStack() as stack:
        daemons = [stack.enter_context(site.serve()) for _ in range(number)]
        wait_until(lambda: all(metric(one, "cmpd_nodes") == number for one in daemons))
        yield daemons


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 2 * WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def metric(daemon: Daemon, name: str) -> float:
    lines = daemon.admin_get("/metrics")[1].decode().splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)


def command(site: Site, *arguments: str) -> None:
    """Run a command beside the daemons."""
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--config", str(site.config)])
    assert end.value.code == 0


def ask(daemon: Daemon, ee: EE, draft: Draft, path: str = DEVICE) -> Answer:
    return ee.read(daemon.ask(ee.seal(draft), path), draft)


class TestTransactions:
    @pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 0), (2, 2, 1)])
    def test_ir_confirmation_and_retransmissions_anywhere(self, site: Site, order: Sequence[int]) -> None:
        ee = site.code("ref")
        with serving(site, 3) as daemons:
            a, b, c = (daemons[number] for number in order)
            draft = ee.ir(subject="CN=device-1")
            request = ee.seal(draft)
            first = a.ask(request)
            assert {one.ask(request) for one in daemons} == {first}
            answer = ee.read(first, draft)
            confirmation = ee.cert_conf(answer)
            sealed = ee.seal(confirmation)
            confirmed = b.ask(sealed)
            assert ee.read(confirmed, confirmation).type is BodyType.pkiconf
            assert {one.ask(sealed) for one in (c, a, b)} == {confirmed}
            assert {one.ask(request) for one in daemons} == {first}
            late = ee.cert_conf(answer, status=PKIStatus.rejection)
            for one in (a, c):  # also where the transaction is still in memory as it was
                assert ask(one, ee, late).fail_info is not None
            other = ee.ir(subject="CN=device-1")
            other.transaction_id = draft.transaction_id
            assert {ask(one, ee, other).fail_info for one in daemons} <= {"transactionIdInUse", "notAuthorized"}
        assert site.status(answer.certificate()) is CertificateStatus.valid
        assert site.used("ref") == 1

    def test_a_rejected_certificate_is_revoked_whoever_hears_of_it(self, site: Site) -> None:
        ee = site.code("ref")
        with serving(site, 2) as (a, b):
            answer = ask(a, ee, ee.ir(subject="CN=device-1"))
            assert ask(b, ee, ee.cert_conf(answer, status=PKIStatus.rejection)).type is BodyType.pkiconf
            assert ask(a, ee, ee.cert_conf(answer)).fail_info is not None
            crl = x509.load_der_x509_crl(a.http("GET", "/crl/local.crl")[1])
            assert [one.serial_number for one in crl] == [answer.certificate().serial_number]
        assert site.status(answer.certificate()) is CertificateStatus.revoked

    def test_a_code_that_is_revoked_begins_nothing_anywhere(self, site: Site) -> None:
        ee = site.code("ref", uses=None)
        with serving(site, 2) as daemons:
            for one in daemons:
                assert ask(one, ee, ee.ir(subject="CN=device-1")).status is PKIStatus.accepted
            command(site, "code", "revoke", "--reference", "ref", "--profile", "device")
            for one in daemons:
                assert ask(one, ee, ee.ir(subject="CN=device-2")).fail_info == "notAuthorized"

    async def test_polls_anywhere(self, tmp_path: Path) -> None:
        """Ordered at one, polled for at all in turn, confirmed at another; there is one order."""
        async with CertCentral().running(port=0) as central:
            central.set(delay=4)
            await asyncio.to_thread(self.poll, central.url, central.key("admin"), tmp_path)
            assert len(central.ledger.orders()) == 1

    @staticmethod
    def poll(url: str, api_key: str, folder: Path) -> None:
        site = site_for(url, api_key, folder / "cmpd")
        site.code("ada", profile="mail")
        ee, path = EE.with_code("ada", SECRET), "/.well-known/cmp/p/mail"
        email = extension(x509.SubjectAlternativeName.oid, der.sequence(der.tlv(0x81, b"ada@example.com")))
        with serving(site, 3) as daemons:
            draft = ee.ir(new_key("rsa-2048"), subject="CN=ada@example.com", extensions=[email])
            request = ee.seal(draft)
            first = daemons[0].ask(request, path)
            answer = ee.read(first, draft)
            assert answer.status is PKIStatus.waiting, answer.text
            turns = cycle((daemons[1], daemons[2], daemons[0]))
            deadline = time.monotonic() + 3 * WAIT
            while answer.type is not BodyType.ip or answer.status is PKIStatus.waiting:
                assert time.monotonic() < deadline
                time.sleep(1.0)
                poll = ee.poll_req(answer)
                sealed = ee.seal(poll)
                one = next(turns)
                got = one.ask(sealed, path)
                assert daemons[0].ask(sealed, path) == got, "a retransmission elsewhere"
                answer = ee.read(got, poll)
            assert answer.status is PKIStatus.grantedWithMods, answer.text
            confirmation = ee.cert_conf(answer, hash_name="sha256")
            sealed = ee.seal(confirmation)
            assert ee.read(next(turns).ask(sealed, path), confirmation).type is BodyType.pkiconf
            assert ee.read(next(turns).ask(sealed, path), confirmation).type is BodyType.pkiconf
            assert sum(metric(one, 'cmpd_orders_total{issuer="digicert",outcome="issued"}') for one in daemons) == 1


class TestRate:
    def test_an_issuer_hears_how_many_there_are_also_after_a_reload(self, tmp_path: Path) -> None:
        site = site_for("http://127.0.0.1:9", "sim-no-key", tmp_path / "cmpd")
        said = "processes use issuer digicert: the part of this one is"
        half, third = f"2 {said} 30 calls in 5 s and 350 in 3 minutes", f"3 {said} 20 calls in 5 s and 233 in 3 minutes"
        with serving(site, 2) as (a, b):
            wait_until(lambda: all(half in [record["event"] for record in one.records] for one in (a, b)))
            a.catch_up()
            a.signal(signal.SIGHUP)
            a.until(half)
            a.until("reloaded")
            with site.serve():
                for one in (a, b):
                    one.until(third)
            for one in (a, b):
                one.until(half)


class TestCRL:
    def test_all_serve_one_crl_and_a_revocation_shows_at_once_everywhere(self, site: Site) -> None:
        ee = site.code("ref", uses=None)
        with serving(site, 2) as daemons:
            served = []
            for number in range(4):
                certificate = ask(daemons[number % 2], ee, ee.ir(subject=f"CN=device-{number}")).certificate()
                site.revoke(certificate, RevocationReason.superseded)
                with ThreadPoolExecutor(8) as pool:  # both find at once that a newer one is due
                    served.append(set(pool.map(crl_of, daemons * 4)))
                assert len(served[-1]) == 1
                (der,) = served[-1]
                assert certificate.serial_number in {one.serial_number for one in x509.load_der_x509_crl(der)}
            numbers = [number_of(*one) for one in served]
            assert numbers == sorted(set(numbers))
            daemons[0].stop()
            daemons[1].kill()
        with serving(site, 2) as daemons:
            assert {crl_of(one) for one in daemons} == served[-1], "it is good for a week"


def crl_of(daemon: Daemon) -> bytes:
    status, data = daemon.http("GET", "/crl/local.crl")
    assert status == 200
    return data


def number_of(der: bytes) -> int:
    return x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


class TestOnce:
    def test_what_is_overdue_is_ended_once_also_when_its_holder_is_killed(self, site: Site) -> None:
        profile = site.folder / "profiles" / "device.toml"
        profile.write_text(profile.read_text().replace('confirm_wait = "10m"', 'confirm_wait = "1s"'))
        ee = site.code("ref", uses=None)
        with serving(site, 3) as daemons:
            (holder,) = [one for one in daemons if metric(one, 'cmpd_lease_held{name="sweep"}')]
            others = [one for one in daemons if one is not holder]
            assert ask(others[0], ee, ee.ir(subject="CN=device-1")).status is PKIStatus.accepted
            holder.until("transaction expired")
            holder.kill()
            assert ask(others[0], ee, ee.ir(subject="CN=device-2")).status is PKIStatus.accepted
            wait_until(lambda: sum(metric(one, "cmpd_expired_transactions_total") for one in others) == 1)
            assert len([one for one in others if metric(one, 'cmpd_lease_held{name="sweep"}')]) == 1
            for one in others:
                one.stop()
            expired = [record for one in daemons for record in one.records if record["event"] == "transaction expired"]
            assert len(expired) == 2
        assert not site.store(lambda store: store.nodes())

    def test_configurations_that_differ_are_told_by_one_of_them(
        self, site: Site, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with serving(site, 2) as daemons:
            profile = site.folder / "profiles" / "device.toml"
            profile.write_text(profile.read_text().replace('confirm_wait = "10m"', 'confirm_wait = "11m"'))
            daemons[1].signal(signal.SIGHUP)
            daemons[1].until("reloaded")
            wait_until(lambda: all(metric(one, 'cmpd_config_differs{profile="device"}') == 1 for one in daemons))
            assert all(metric(one, 'cmpd_config_differs{profile=""}') == 0 for one in daemons)
            capsys.readouterr()
            command(site, "node", "list", "--json")
            found = json.loads(capsys.readouterr().out)
            assert [one["pid"] for one in found["nodes"]] == [one.process.pid for one in daemons]
            assert found["nodes"][0]["sees_to"] == ["sweep"]
            assert list(found["differing"]) == ["device"]
            command(site, "node", "list")
            assert "profile device" in capsys.readouterr().out
            daemons[0].signal(signal.SIGHUP)
            daemons[0].until("reloaded")
            wait_until(lambda: all(metric(one, 'cmpd_config_differs{profile="device"}') == 0 for one in daemons))
            told = [
                record
                for one in daemons
                for record in one.records
                if record["event"] == "processes on the store have different configurations"
            ]
            assert [record["profile"] for record in told] == ["device"]


class TestLimits:
    def test_guesses_that_are_spread_lock_a_code_as_early(self, site: Site) -> None:
        """One after the other, and all at once: then each process may have one more in hand."""
        with serving(site, 3) as daemons:
            site.code("ref")
            guesser = EE.with_code("ref", "wrong-wrong-wrong")
            found = [ask(one, guesser, guesser.ir(subject="CN=x")).fail_info for one in islice(cycle(daemons), 15)]
            assert found == ["badMessageCheck"] * AFTER + ["systemUnavail"] * 5
            site.code("other")
            guesser = EE.with_code("other", "wrong-wrong-wrong")
            requests = [guesser.seal(guesser.ir(subject="CN=x")) for _ in range(45)]
            with ThreadPoolExecutor(15) as pool:
                answers = list(pool.map(lambda pair: pair[0].ask(pair[1]), zip(cycle(daemons), requests, strict=False)))
            tried = [guesser.read(one).fail_info for one in answers].count("badMessageCheck")
            assert AFTER <= tried <= AFTER + len(daemons)

    def test_a_right_one_between_begins_the_count_anew(self, site: Site) -> None:
        ee = site.code("ref", uses=None)
        guesser = EE.with_code("ref", "wrong-wrong-wrong")
        with serving(site, 2) as daemons:
            for _ in range(2):
                for one in islice(cycle(daemons), AFTER - 1):
                    assert ask(one, guesser, guesser.ir(subject="CN=x")).fail_info == "badMessageCheck"
                assert ask(daemons[0], ee, ee.ir(subject="CN=device-1")).status is PKIStatus.accepted

    def test_failures_of_an_address_count_wherever_they_are(self, site: Site) -> None:
        site.append("[limits]\naddress_failures = 20")
        with serving(site, 2) as (a, b):

            def attempts(daemon: Daemon, number: int) -> int:
                """How many are looked into."""
                found = []
                for _ in range(number):
                    stranger = EE.with_code(f"nobody-{time.monotonic_ns()}", "wrong-wrong-wrong")
                    found.append(ask(daemon, stranger, stranger.ir(subject="CN=x")).fail_info)
                return found.count("badMessageCheck")

            assert attempts(a, 15) == 15
            time.sleep(LOOKS)
            assert attempts(b, 15) < 10

    @pytest.mark.parametrize("processes", [2, 5])
    @pytest.mark.parametrize(("rate", "burst"), [(2000.0, 2000.0), (1.0, 60.0), (1 / 60, 1.0)])
    def test_what_processes_give_away_together(self, processes: int, rate: float, burst: float) -> None:
        """A client asks all of them for as much as it gets: in the long run a quarter more than one would give."""
        buckets = [{"requests": Buckets(rate, burst, 100)} for _ in range(processes)]
        exchanged = [Exchanged() for _ in range(processes)]
        rows: dict[str, dict[str, float]] = {}
        given, seconds = 0, 600
        for second in range(seconds):
            for number, one in enumerate(exchanged):
                for name, row in rows.items():
                    if name != str(number):
                        one.read(name, row, buckets[number], second)
                rows[str(number)] = one.tell(buckets[number], processes, second)
            for part in range(10):
                for own in buckets:
                    while own["requests"].take("192.0.2.1", second + part / 10) == 0:
                        given += 1
        assert given <= 1.25 * rate * seconds + processes * (burst + rate)

    def test_what_is_far_from_a_limit_is_not_told_and_who_is_alone_tells_nothing(self) -> None:
        own = {"requests": Buckets(2000.0, 2000.0, 100), "failures": Buckets(1.0, 60.0, 100)}
        exchanged = Exchanged()
        exchanged.tell(own, 1, 1.0)
        assert own["requests"].counted is None
        assert own["requests"].take("192.0.2.1", 1.0) == 0
        exchanged.tell(own, 2, 2.0)
        for _ in range(100):
            assert own["requests"].take("192.0.2.1", 2.0) == 0
        assert own["failures"].take("192.0.2.1", 2.0) == 0
        assert exchanged.tell(own, 2, 3.0) == {"failures 192.0.2.1": 1}
        for _ in range(300):
            own["requests"].take("192.0.2.1", 3.0)
        assert exchanged.tell(own, 2, 4.0) == {"failures 192.0.2.1": 1, "requests 192.0.2.1": 300}
        assert exchanged.tell(own, 2, 100.0) == {}

    def test_who_comes_later_does_not_count_what_was_before(self) -> None:
        own, exchanged = {"requests": Buckets(1.0, 10.0, 100)}, Exchanged()
        exchanged.read("other", {"requests a": 1000.0}, own, 1.0)
        assert own["requests"].wait("a", 1.0) == 0
        exchanged.read("other", {"requests a": 1015.0, "unknown a": 3.0}, own, 1.0)
        assert own["requests"].wait("a", 1.0) == pytest.approx(6.0)
        exchanged.read("other", {"requests a": 1015.0}, own, 1.0)
        assert own["requests"].wait("a", 1.0) == pytest.approx(6.0)
        exchanged.keep([])
        exchanged.read("other", {"requests a": 2000.0}, own, 1.0)
        assert own["requests"].wait("a", 1.0) == pytest.approx(6.0)

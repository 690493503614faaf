"""A daemon with connectors to the simulator, and end entities that enroll and renew through whatever happens to it."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from cmpd.asn1 import BodyType, PKIStatus, der, oids
from cmpd.settings import Listen
from tests.certcentral import CertCentral
from tests.certcentral.catalogue import EXAMPLE_GMBH, ApiKey
from tests.daemon import FreePort, Site
from tests.ee import EE, Answer, Draft, extension, new_key

CONNECTOR = """
[issuers.{name}]
type = "certcentral"
base_url = "{url}"
api_key_file = "secrets/{name}.key"
{more}
connect_timeout = "1s"
read_timeout = "2s"
pause = "1s"
poll_interval = "5s"
settle_time = "10s"
"""
PROFILE = """
id = "{kind}-of-{name}-{filler}"
issuer = "{name}"
{options}
[enrollment]
authentication_method = "enrollment_code"
allowed_operations = ["ir", "p10cr", "kur"]
[renewal]
reject_outside_window = false
"""
KINDS = {
    "mail": 'base_template = "public-smime"\n[certificate_type]\nvalidation_type = "mailbox"',
    "server": 'base_template = "certcentral-private-server"\nissuer_options = {{product = "private_ssl_flex"}}\n'
    f'[organization]\nname = "Example GmbH"\nid = {EXAMPLE_GMBH}',
}


class Listening(Protocol):
    """Where a daemon listens."""

    listen: Listen


def site_of(folder: Path, central: CertCentral, port: FreePort | None, connectors: Mapping[str, str]) -> Site:
    """Connectors, with more settings of theirs; each has an API key and profiles for mailboxes and servers."""
    site = Site.make(folder, None if port is None else port.listen)
    admin = central.account.key("admin").user
    for name, more in connectors.items():
        key = f"sim-{name}-key-of-its-own"
        central.account.keys[key] = ApiKey(name, key, admin)
        path = site.folder / "secrets" / f"{name}.key"
        path.write_text(key)
        path.chmod(0o600)
        site.append(CONNECTOR.format(name=name, url=central.url, more=more))
        for kind, options in KINDS.items():
            text = PROFILE.format(kind=kind, name=name, filler="x" * 24, options=options.format())
            (site.folder / "profiles" / f"{kind}-{name}.toml").write_text(text)
    return site


@dataclass
class Wire:
    """The way to the daemon, whichever process it is."""

    port: Listening
    session: aiohttp.ClientSession
    repeated: int = 0
    """Messages that were sent more than once."""

    async def ask(self, message: bytes, profile: str) -> bytes:
        """Send the same octets until they are answered (RFC 9811 §3)."""
        url = f"http://{self.port.listen.host}:{self.port.listen.port}/.well-known/cmp/p/{profile}"
        headers = {"Content-Type": "application/pkixcmp"}
        for attempt in range(1000):
            if attempt:
                self.repeated += 1
                await asyncio.sleep(0.3)
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with self.session.post(url, data=message, headers=headers) as response:
                    if response.status == 200:
                        return await response.read()
        raise AssertionError("never answered")


@dataclass
class Client:
    """An end entity: what it was promised, and what it got."""

    wire: Wire
    ee: EE
    profile: str
    number: int
    promised: list[bytes] = field(default_factory=list)
    """transactionIDs whose request was answered `waiting`, or granted."""
    serials: dict[bytes, int] = field(default_factory=dict)
    """By transactionID: the certificate that it has confirmed."""

    async def send(self, ee: EE, draft: Draft) -> Answer:
        return ee.read(await self.wire.ask(ee.seal(draft), self.profile), draft)

    def names(self) -> tuple[str, dict[str, Any]]:
        if self.profile.startswith("mail"):
            mail = f"user{self.number}@example.com"
            san, name = der.tlv(0x81, mail.encode()), mail
        else:
            name = f"host{self.number}.example.com"
            san = der.tlv(0x82, name.encode())
        return f"CN={name}", {"extensions": [extension(oids.SUBJECT_ALT_NAME, der.sequence(san))]}

    async def enroll(self, body: BodyType) -> EE:
        """A first certificate; the end entity that holds it."""
        subject, names = self.names()
        draft = getattr(self.ee, body.name)(new_key(), subject=subject, **names)
        certificate = await self.finish(self.ee, draft)
        return EE.with_certificate(draft.key, certificate)

    async def renew(self, holder: EE) -> None:
        """A second one: the names are those of the first, whatever the issuer has added to them."""
        await self.finish(holder, holder.kur(new_key(), subject=""))

    async def finish(self, ee: EE, draft: Draft) -> bytes:
        """The whole transaction: request, polling, confirmation."""
        ee.now = datetime.now(UTC)
        answer = await self.send(ee, draft)
        assert draft.transaction_id is not None
        self.promised.append(draft.transaction_id)
        granted = {PKIStatus.accepted, PKIStatus.grantedWithMods}
        if answer.type is BodyType.error or answer.status not in {*granted, PKIStatus.waiting}:
            raise AssertionError(f"{self.profile} {draft.body_type.name}: {answer.status} {answer.text}")
        waits = answer.status is PKIStatus.waiting
        while waits:
            await asyncio.sleep(1.5)
            ee.now = datetime.now(UTC)
            answer = await self.send(ee, ee.poll_req(answer, -1 if draft.body_type is BodyType.p10cr else 0))
            assert answer.type is not BodyType.error, answer.text
            waits = answer.type is BodyType.pollRep
        assert answer.status in granted, answer.text
        done = await self.send(ee, ee.cert_conf(answer, hash_name="sha256"))
        assert done.type is BodyType.pkiconf
        self.serials[draft.transaction_id] = answer.certificate().serial_number
        return answer.certificate_der()

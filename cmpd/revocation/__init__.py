"""Whether certificates of other PKIs have been revoked: by CRL (RFC 5280 §6.3) and OCSP (RFC 6960).

Of each certificate of a validated path, the trust anchor aside, the sources are asked that the profile's rules name:
the operator's, or else those that the certificate itself names. Where one says that it is revoked, it is. What no
source can tell counts as not revoked under "best_effort", which is logged; under "required" it is RevocationUnknown:
each kind that is required must answer for the end entity's certificate, and of the kinds that are on, one that is
enough for the CA certificates above it, for these often have CRLs only.

Answers are kept until nextUpdate, for a minute at least and a day at most, and what could not be had for a minute.
What is kept is bounded; each source is asked by one request at a time. A file is read again when it has changed.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, Final, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from cmpd import asn1
from cmpd.asn1.certificate import serial
from cmpd.exchange import RevocationRules
from cmpd.limits import Limits
from cmpd.ports import RevocationSource, RevocationUnknown, Revoked
from cmpd.revocation import crl, ocsp
from cmpd.revocation.answer import SHORTEST, Answer, State, Unusable, until
from cmpd.revocation.fetching import Fetching, Stamp, Unreachable, read_file, stamp

__all__ = ["Revocations"]

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_K = TypeVar("_K", bound=Hashable)
INLINE_SIZE: Final = 64 * 1024
"""CRLs longer than this are read and verified in a worker thread, in octets."""
MAX_PLACES: Final = 4
"""URLs of one certificate that are tried."""
LOG_EVERY: Final = timedelta(hours=1)
"""How often the same warning about the same source is logged."""
_IMPATIENT: Final = timedelta(seconds=10)
"""After this a source is asked again whose answer was not waited for."""
_MARGIN: Final = 0.25
"""Seconds more than a download has, so that it can say itself what was slow."""
_MAX_ISSUERS: Final = 16
"""Keys of one CRL's issuer that are remembered."""


def _ignore(_source: str, _outcome: str, /) -> None:
    """Observe nothing."""


NOWHERE: Final = "is configured for it, and it names none by http"
"""How it ends when there is nobody to ask."""


@dataclass(slots=True, eq=False)
class _List:
    """A CRL as it was last had from a file or URL, or why it was not."""

    crl: crl.CRL | None
    fault: str
    again: datetime
    """When it is to be fetched again."""
    good_until: datetime
    """When the CRL is out of date."""
    stamp: Stamp = None
    """Of a file."""
    stat_at: float = 0.0
    """When to look at the file again, by the monotonic clock."""
    is_file: bool = False
    signed_by: dict[bytes, str] = field(default_factory=dict)
    """By issuer's key: what is wrong with the signature, empty for nothing."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What has been found out about a path."""

    until: datetime
    error: type[Exception] | None
    text: str
    files: tuple[tuple[str, _List], ...]
    """The CRL files it was found out with."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What one kind of source says of one certificate of a path."""

    kind: str
    number: int
    """The certificate's place in the path: 0 is the end entity's."""
    answer: Answer


class Revocations(RevocationSource):
    """Asks CRLs and OCSP responders, and remembers what they said.

    `size` bounds a CRL, in octets; `seconds` one download and, all in all, the time that `check` waits. `entries`
    bounds the OCSP answers and paths that are kept; of CRLs at most `lists`, and four times `size` octets, are.
    `observe(source, outcome)` is called with `crl` or `ocsp`, and with `good`, `revoked` or `unknown` for each
    certificate looked at anew, with `fetched` or `failed` for each download.
    """

    def __init__(
        self,
        *,
        size: int = 16 * 1024 * 1024,
        seconds: float = 5.0,
        entries: int = 10_000,
        lists: int = 64,
        observe: Callable[[str, str], None] = _ignore,
        limits: Limits | None = None,
        file_seconds: float = 1.0,
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._entries = entries
        self._max_lists = lists
        self._observe = observe
        self._limits = limits or Limits()
        self._file_seconds = file_seconds
        self._fetching = Fetching(seconds, size)
        self._verdicts: OrderedDict[tuple[Sequence[Certificate], RevocationRules], _Verdict] = OrderedDict()
        self._lists: OrderedDict[str, _List] = OrderedDict()
        self._answers: OrderedDict[tuple[str, Certificate], Answer] = OrderedDict()
        self._dead: dict[str, tuple[datetime, str]] = {}
        self._flying: dict[Hashable, asyncio.Task[Any]] = {}
        self._logged: dict[str, datetime] = {}

    async def check(self, path: Sequence[Certificate], rules: RevocationRules, now: datetime, /) -> None:
        """Return when no certificate of a validated path is known to be revoked; see `RevocationSource`.

        Raises Revoked, RevocationUnknown.
        """
        if rules.off or len(path) < 2:
            return
        key = (path if isinstance(path, tuple) else tuple(path), rules)
        verdict = self._verdicts.get(key)
        if verdict is None or now >= verdict.until or (verdict.files and self._changed(verdict)):
            verdict = await self._judge(key[0], rules, now)
            _keep(self._verdicts, key, verdict, self._entries)
        if verdict.error is not None:
            raise verdict.error(verdict.text)

    async def close(self) -> None:
        """Let go of connections; what is being fetched is given up."""
        flying = list(self._flying.values())
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
        await self._fetching.close()

    # ------------------------------------------------------------------------------------------ the rules

    async def _judge(self, path: Sequence[Certificate], rules: RevocationRules, now: datetime) -> _Verdict:
        """Ask of all certificates at once: it takes as long as the slowest source, or the time limit."""
        files: dict[str, _List] = {}
        asked: list[Awaitable[_Found]] = []
        for number, (certificate, issuer) in enumerate(pairwise(path)):
            if rules.ocsp != "off":
                asked.append(self._in_time("ocsp", number, self._by_ocsp(certificate, issuer, rules, now), now))
            if rules.crl != "off":
                asked.append(self._in_time("crl", number, self._by_crl(certificate, issuer, rules, now, files), now))
        found = await asyncio.gather(*asked)
        for one in found:
            if one.answer.state is State.revoked:
                text = f"{_name(path[one.number])} was revoked {one.answer.text}"
                return _Verdict(one.answer.until, Revoked, text, tuple(files.items()))
        required = {kind for kind, how in (("ocsp", rules.ocsp), ("crl", rules.crl)) if how == "required"}
        lacking = [
            one for one in found if one.answer.state is State.unknown and not self._let_pass(one, found, required)
        ]
        for one in found:
            if one.answer.state is State.unknown and one not in lacking:
                self._warn(one.kind, path[one.number], one.answer.text, now)
        end = min(one.answer.until for one in found)
        if not lacking:
            return _Verdict(end, None, "", tuple(files.items()))
        text = f"whether {_name(path[lacking[0].number])} has been revoked is not known: {lacking[0].answer.text}"
        return _Verdict(end, RevocationUnknown, text, tuple(files.items()))

    @staticmethod
    def _let_pass(one: _Found, found: Sequence[_Found], required: Collection[str]) -> bool:
        """Whether it does no harm that a source did not know."""
        if one.kind not in required:
            return True
        return one.number > 0 and any(
            other.number == one.number and other.answer.state is State.good for other in found
        )

    async def _in_time(self, kind: str, number: int, asking: Awaitable[Answer], now: datetime) -> _Found:
        try:
            async with asyncio.timeout(self._seconds + _MARGIN):
                answer = await asking
        except TimeoutError:
            text = f"{kind}: nothing was heard within {self._seconds:g} seconds"
            answer = Answer(State.unknown, text, now + _IMPATIENT)
        self._observe(kind, answer.state.value)
        return _Found(kind, number, answer)

    def _warn(self, kind: str, certificate: Certificate, text: str, now: datetime) -> None:
        """Log that a certificate is let pass of which nothing is known, once in a while for each issuer and reason."""
        issuer = asn1.name_text(certificate.issuer.public_bytes())
        key = f"{kind} {issuer} {text}"
        if now < self._logged.get(key, now):
            return
        if len(self._logged) >= self._entries:
            self._logged.clear()
        self._logged[key] = now + LOG_EVERY
        # that a PKI has no such service at all is nothing for an operator to see to
        logger.log(
            logging.INFO if NOWHERE in text else logging.WARNING,
            "%s: whether certificates of %s have been revoked is not known, they count as good (best_effort): %s",
            kind, issuer, asn1.printable(text),
        )  # fmt: skip

    async def _once(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Do it once for all who want it at the same time; it goes on when one of them no longer waits."""
        task: asyncio.Task[_T] | None = self._flying.get(key)
        if task is None:
            task = asyncio.get_running_loop().create_task(work())
            self._flying[key] = task
            task.add_done_callback(lambda _: self._flying.pop(key, None))
        return await asyncio.shield(task)

    # ------------------------------------------------------------------------------------------ OCSP

    async def _by_ocsp(
        self, certificate: Certificate, issuer: Certificate, rules: RevocationRules, now: datetime
    ) -> Answer:
        urls = ocsp.responders(certificate)[:MAX_PLACES] if rules.ocsp_url is None else [rules.ocsp_url]
        faults = [] if urls else [f"no OCSP responder {NOWHERE}"]
        for url in urls:
            key = url, certificate
            answer = self._answers.get(key)
            if answer is None or now >= answer.until:
                answer = await self._once(("ocsp", key), partial(self._ask_responder, key, issuer, now))
            if answer.state is not State.unknown:
                return answer
            faults.append(answer.text)
        return Answer(State.unknown, "; ".join(faults), now + SHORTEST)

    async def _ask_responder(self, key: tuple[str, Certificate], issuer: Certificate, now: datetime) -> Answer:
        url, certificate = key
        dead = self._dead.get(url)
        if dead is not None and now < dead[0]:
            return Answer(State.unknown, dead[1], dead[0])
        try:
            data = await self._fetching.post(url, ocsp.request(certificate, issuer), ocsp.MAX_SIZE)
            answer = ocsp.read(data, certificate, issuer, now, self._limits)
            answer = replace(answer, text=f"{answer.text}, says {url}")
        except Unusable as exc:
            self._observe("ocsp", "failed")
            answer = Answer(State.unknown, f"{url}: {exc}", now + SHORTEST)
            if isinstance(exc, Unreachable):
                if len(self._dead) >= self._entries:
                    self._dead.clear()
                self._dead[url] = answer.until, answer.text
        else:
            self._observe("ocsp", "fetched")
        _keep(self._answers, key, answer, self._entries)
        return answer

    # ------------------------------------------------------------------------------------------ CRLs

    async def _by_crl(
        self,
        certificate: Certificate,
        issuer: Certificate,
        rules: RevocationRules,
        now: datetime,
        files: dict[str, _List],
    ) -> Answer:
        places = rules.crls or crl.places(certificate)[:MAX_PLACES]
        faults = [] if places else [f"no CRL {NOWHERE}"]
        best: Answer | None = None
        if rules.crls:
            await asyncio.gather(*(self._list(place, now) for place in places))
        for place in places:
            entry = await self._list(place, now)
            if entry.is_file:
                files[place] = entry
            try:
                answer = await self._ask_list(place, entry, certificate, issuer, now)
            except Unusable as exc:
                faults.append(f"{place}: {exc}")
                continue
            if answer.state is State.revoked or not rules.crls:  # the certificate's own places have all the same CRL
                return answer
            if best is None or answer.until < best.until:
                best = answer
        return best or Answer(State.unknown, "; ".join(faults), now + SHORTEST)

    async def _ask_list(
        self, place: str, entry: _List, certificate: Certificate, issuer: Certificate, now: datetime
    ) -> Answer:
        """What a CRL says of a certificate. Raises Unusable (RFC 5280 §6.3.3)."""
        found = entry.crl
        if found is None:
            raise Unusable(entry.fault)
        found.check_scope(certificate, issuer)
        found.check_time(now, entry.good_until)
        key = crl.key_of(issuer)
        fault = entry.signed_by.get(key)
        if fault is None:
            fault = await self._once(("signature", entry, key), partial(self._verify, found, entry, key, issuer))
        if fault:
            raise Unusable(fault)
        end = min(entry.again, entry.good_until)
        number = serial(certificate.public_bytes(Encoding.DER))
        if number not in found.serials:
            return Answer(State.good, "", end)
        revoked = await _aside(found.size, partial(found.revoked, number))
        if revoked is None:
            return Answer(State.good, "", end)
        return Answer(State.revoked, f"{revoked}, says the CRL {place}", end)

    async def _verify(self, found: crl.CRL, entry: _List, key: bytes, issuer: Certificate) -> str:
        try:
            await _aside(found.size, partial(found.check_signature, issuer, self._limits))
        except Unusable as exc:
            fault = str(exc)
        else:
            fault = ""
        if len(entry.signed_by) >= _MAX_ISSUERS:
            entry.signed_by.clear()
        entry.signed_by[key] = fault
        return fault

    async def _list(self, place: str, now: datetime) -> _List:
        """The CRL of a file or URL, as it is kept, or fetched."""
        entry = self._lists.get(place)
        if entry is not None and now < entry.again and not (entry.is_file and self._file_changed(place, entry)):
            self._lists.move_to_end(place)
            return entry
        return await self._once(("crl", place), partial(self._load, place, now))

    async def _load(self, place: str, now: datetime) -> _List:
        is_file = "://" not in place
        before = self._lists.get(place)
        seen = stamp(place) if is_file else None
        try:
            if is_file:
                data = await asyncio.to_thread(read_file, place, self._size)
            else:
                data = await self._fetching.get(place)
            found = await _aside(len(data), partial(crl.read, data))
        except Unusable as exc:
            self._observe("crl", "failed")
            # what was had before is good as long as it says
            entry = _List(None, str(exc), now + SHORTEST, now)
            if before is not None and before.crl is not None and now < before.good_until:
                logger.warning(
                    "crl: %s: %s; the one from before is used", asn1.printable(place), asn1.printable(str(exc))
                )
                entry = replace(before, fault=str(exc), again=now + SHORTEST)
        else:
            self._observe("crl", "fetched")
            again = until(found.next_update, now)
            entry = _List(found, "", again, max(found.next_update, now + SHORTEST))
            if now >= found.next_update:
                entry.good_until = found.next_update
        entry.is_file, entry.stamp, entry.stat_at = is_file, seen, time.monotonic() + self._file_seconds
        _keep(self._lists, place, entry, self._max_lists)
        while len(self._lists) > 1 and sum(one.crl.size for one in self._lists.values() if one.crl) > 4 * self._size:
            self._lists.popitem(last=False)
        return entry

    def _changed(self, verdict: _Verdict) -> bool:
        """Whether a file has changed since a verdict."""
        return any(
            self._lists.get(place) is not entry or self._file_changed(place, entry) for place, entry in verdict.files
        )

    def _file_changed(self, place: str, entry: _List) -> bool:
        clock = time.monotonic()
        if clock < entry.stat_at:
            return False
        entry.stat_at = clock + self._file_seconds
        if stamp(place) == entry.stamp:
            return False
        entry.stat_at = clock  # whoever comes next sees it too, until it has been read
        return True


async def _aside(size: int, work: Callable[[], _T]) -> _T:
    """Do it here, or in a worker thread when there is much of it."""
    return work() if size <= INLINE_SIZE else await asyncio.to_thread(work)


def _keep(kept: OrderedDict[_K, _T], key: _K, value: _T, most: int) -> None:
    """Add or replace; what is oldest makes room."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def _name(certificate: Certificate) -> str:
    number = serial(certificate.public_bytes(Encoding.DER))
    return f"{asn1.name_text(certificate.subject.public_bytes())} (serial number {number:x})"

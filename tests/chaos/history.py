"""A history: every message that was sent, every answer that came, and what operators and faults did meanwhile.

Times are seconds of one monotonic clock, that of the process with the clients; `History.epoch` is its zero in seconds
since 1970. Octets are named by the first 16 hexadecimal digits of their SHA-256.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

DIGITS = 16
TEMPORARY = frozenset({"systemUnavail"})
"""failInfos that ask for the same octets again."""


def digest(octets: bytes) -> str:
    """The name of a message, an answer, a certificate or a key."""
    return hashlib.sha256(octets).hexdigest()[:DIGITS]


@dataclass(frozen=True, slots=True)
class Message:
    """One PKIMessage of a client, however often it was sent."""

    digest: str
    kind: str
    """ir, kur, pollReq or certConf."""
    profile: str
    tid: str
    """transactionID, hexadecimal."""
    code: str = ""
    """The enrollment code that protects it."""
    signer: str = ""
    """Serial number of the certificate that protects it, hexadecimal."""
    genuine: bool = True
    """False: its MAC is wrong."""
    key: str = ""
    """The public key that a certificate is asked for."""
    seat: str = ""
    implicit: bool = False
    """It asks for implicitConfirm."""
    serial: str = ""
    """The certificate that a certConf is about, hexadecimal."""
    verdict: str = ""
    """What a certConf says of it: accept or reject."""

    @property
    def begins(self) -> bool:
        return self.kind in {"ir", "kur"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer says; `fault` is what is wrong with it as an answer."""

    digest: str
    body: str
    status: str = ""
    fail_info: str = ""
    text: str = ""
    certificate: str = ""
    serial: str = ""
    key: str = ""
    implicit: bool = False
    protected: bool = True
    fault: str = ""

    @property
    def temporary(self) -> bool:
        return self.fail_info in TEMPORARY

    @property
    def locked(self) -> bool:
        return self.temporary and "too many wrong MACs" in self.text

    @property
    def kept(self) -> bool:
        """Whether it is an answer that is to be repeated octet by octet: a certificate, a pkiconf, a rejection."""
        return (
            not self.temporary
            and self.status != "waiting"
            and (bool(self.certificate) or self.body in {"pkiconf", "ip", "kup"})
        )

    def __str__(self) -> str:
        if self.fault:
            return f"{self.body} that is wrong: {self.fault}"
        said = self.fail_info or self.status
        serial = f" certificate {self.serial}" if self.serial else ""
        text = f" ({self.text})" if self.text else ""
        return f"{self.body} {said}{serial}{text} [{self.digest}]"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A message on its way to one node, once; without `reply` it is not known what came of it."""

    message: str
    client: str
    node: str
    life: int
    """How often the node had been started."""
    sent: float
    ended: float
    reply: Reply | None = None
    lost: str = ""
    """Why there is no answer."""


@dataclass(frozen=True, slots=True)
class Act:
    """What an operator or a fault has done; `known` is False when it is not known whether it was done."""

    kind: str
    what: str
    began: float
    ended: float
    known: bool = True


@dataclass(frozen=True, slots=True)
class Code:
    """An enrollment code as it was made."""

    profile: str
    reference: str
    uses: int | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What a profile promises."""

    give_back: bool = False
    per_seat: int | None = None
    per_day: int | None = None
    lock_after: int | None = None
    lock_for: int = 0
    """Seconds."""
    expires: bool = False
    """Certificates without a certConf may be revoked before the end of the run."""
    ordered: bool = False
    """Certificates are ordered from an issuer that is paid."""


@dataclass(slots=True)
class History:
    """All of a run; the order of `attempts` is that in which they ended."""

    seed: int
    epoch: float
    terms: dict[str, Terms] = field(default_factory=dict)
    codes: dict[str, Code] = field(default_factory=dict)
    messages: dict[str, Message] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    patient: bool = False
    """It was waited at the end until no order was under way."""
    notes: list[str] = field(default_factory=list)
    """What went wrong and is no answer: a node that ended by itself, a traceback in its log."""

    def write(self, path: Path) -> None:
        """One JSON object a line."""
        lines: Iterable[object] = (
            {"seed": self.seed, "epoch": self.epoch},
            *({"profile": name, **asdict(terms)} for name, terms in self.terms.items()),
            *map(asdict, self.codes.values()),
            *map(asdict, self.messages.values()),
            *map(asdict, self.attempts),
            *map(asdict, self.acts),
            *({"note": note} for note in self.notes),
        )
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

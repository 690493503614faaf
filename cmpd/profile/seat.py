"""The seat: who a certificate is for, found in the decided names by the profile's mapping."""

import unicodedata
from dataclasses import dataclass
from typing import Final, Self

from cmpd.profile.config import SanConfig, SeatConfig, SubjectConfig
from cmpd.profile.decision import Decision
from cmpd.profile.syntax import quote
from cmpd.profile.vocabulary import ProfileKeyError

_FOLDED: Final = frozenset({"san.email", "san.dns", "san.upn", "san.smtp_utf8_mailbox", "subject.email_address"})
"""Names that are the same in capital and small letters: they find the same seat."""
_LONGEST: Final = 256


@dataclass(frozen=True, slots=True)
class SeatPolicy:
    """Section [seat], prepared."""

    section: str
    """subject or san."""
    name: str
    key: str
    required: bool

    @classmethod
    def from_config(cls, config: SeatConfig, subject: SubjectConfig, san: SanConfig, *, counted: bool) -> Self:
        """Prepare; `counted` says that another key needs a seat. Raises ProfileKeyError."""
        key = config.id_mapping or "subject.common_name"
        section, _, name = key.partition(".")
        place = getattr(subject if section == "subject" else san, name)
        if config.id_mapping is not None and (place is None or place.include == "no"):
            raise ProfileKeyError("seat.id_mapping", f"{key!r} is not accepted in [{section}]")
        return cls(section, name, key, config.id_mapping is not None or counted)

    def find(self, subject: dict[str, list[str]], san: dict[str, list[str]], decision: Decision) -> str | None:
        """Return the seat ID. Raises BadCertTemplate."""
        values = (subject if self.section == "subject" else san).get(self.name)
        if not values or not values[0]:
            if self.required:
                decision.refuse("seat.id_mapping", self.key, "is missing, and the seat ID is there")
            return None
        seat = self.spelled(values[0])
        if len(seat) > _LONGEST:
            decision.refuse("seat.id_mapping", self.key, f"is longer than {_LONGEST} characters")
        if decision.findings is not None:
            decision.passed("seat.id_mapping", self.key, f"the seat is {quote(seat)}")
        return seat

    def spelled(self, seat: str) -> str:
        """A seat ID in the one spelling that it is kept in."""
        seat = seat.lower() if self.key in _FOLDED else seat
        return seat if seat.isascii() else unicodedata.normalize("NFC", seat)

"""A decision while it is made: what has been changed of the request, and what each rule said.

`approve` and `explain` run the same rules. Made to stop, the first rule that is broken raises; made to explain, each
rule leaves a finding and the next one follows.
"""

from typing import Final, Self

from cmpd.asn1 import der
from cmpd.errors import BadCertTemplate, BadDataFormat, CMPError
from cmpd.exchange import Finding

_MOST: Final = 1000
"""So many findings are kept; a hostile request cannot make more."""


class Decision:
    """One decision. `findings` is None when the first broken rule raises."""

    __slots__ = ("_field", "_section", "findings", "modified")

    def __init__(self, *, explain: bool = False) -> None:
        self.modified: list[str] = []
        """What differs from the request, one phrase each."""
        self._field = self._section = ""
        self.findings: list[Finding] | None = [] if explain else None

    def refuse(self, rule: str, field: str, text: str, error: type[CMPError] = BadCertTemplate) -> None:
        """Say that a rule is broken: raise `error`, or note it. The message is `FIELD: TEXT (RULE)`.

        The rule is a key of the profile, or the section of the standard that says so.
        """
        said = f"{field}: {text} ({rule})"
        if self.findings is None:
            raise error(said)
        if len(self.findings) < _MOST:
            self.findings.append(Finding(rule, field, False, said))

    def passed(self, rule: str, field: str, text: str) -> None:
        """Note that a rule is kept."""
        if self.findings is not None and len(self.findings) < _MOST:
            self.findings.append(Finding(rule, field, True, f"{field}: {text}"))

    def reading(self, field: str, section: str) -> Self:
        """Take what cannot be read in a field of the request for a broken rule: BadDataFormat. For `with`.

        `section` of a standard says what the field is.
        """
        self._field, self._section = field, section
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        if not isinstance(error, der.MalformedError):
            return False
        try:
            self.refuse(self._section, self._field, str(error), BadDataFormat)
        except BadDataFormat as refusal:
            raise refusal from None
        return True

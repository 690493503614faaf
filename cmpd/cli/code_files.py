"""`cmpd code import` and `export`: enrollment codes in bulk, as CSV (RFC 4180) and as letters.

A spreadsheet takes a cell that begins with one of `=+-@` for a formula. Such a cell is written with an apostrophe
before it, which makes it text; reading takes the apostrophe away again.
"""

import asyncio
import csv
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from cmpd.cli import letters, new_code
from cmpd.cli.codes import GOOD, code_url, profile_with_codes, state, states_of
from cmpd.cli.operation import faults, now, profiles_of, store_of, url_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json
from cmpd.cli.secret import new_reference, new_secret
from cmpd.exchange import EnrollmentCode, NewCode
from cmpd.profile import Profile
from cmpd.settings import Settings
from cmpd.store import ReferencesTaken

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""What is being done, how many of it are done, and of how many."""

COLUMNS = ("reference", "secret", "uses", "valid_from", "expires", "seat", "subject", "san", "key_fingerprint")
"""What an import reads …"""
EXPORTED = ("profile", "global", "used", "state", "url", "code_url")
"""… and what an export adds."""
_FORMULA = "=+-@\t\r＝＋－＠"
_STEP = 100


def load(
    path: Path,
    file: str,
    *,
    profile: str,
    uses: str,
    expires: str,
    dry_run: bool,
    output: Path | None,
    json: bool,
) -> None:
    """Make all codes of a CSV, or none of them and say which lines are wrong."""
    at = now()
    with faults(), _progress(quiet=json) as progress:
        settings = Settings.load(path)
        known = profiles_of(settings)
        chosen = profile_with_codes(settings, known, profile)
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        name = "standard input" if file == "-" else file
        read = _Reading(name, chosen, at, uses, expires)
        read.rows(data, progress)

        async def keep() -> None:
            async with store_of(settings) as store:
                read.refuse_taken({one.reference for one in await store.codes(profile)})
                read.stop()
                if dry_run:
                    return
                new = [NewCode(**one) for one in read.codes]
                text = _table(_kept(new, at), with_secrets=True, url_of=lambda _: url_of(settings, chosen))
                with _written(output, text):
                    try:
                        await store.create_codes(new, at, progress=lambda done: progress("Writing", done, len(new)))
                    except ReferencesTaken as error:  # by somebody else, a moment ago
                        read.refuse_taken({reference for _, reference in error.taken})
                        read.stop()

        asyncio.run(keep())
    made = f"{len(read.codes)} enrollment {'code' if len(read.codes) == 1 else 'codes'}"
    if json:
        write_json(
            {
                "profile": profile,
                "codes": len(read.codes),
                "new_references": read.new_references,
                "new_secrets": read.new_secrets,
                "dry_run": dry_run,
                "output": None if output is None or dry_run else str(output),
            }
        )
    elif dry_run:
        write(f"{name} is good for {made} of profile {profile}. Nothing has been made.")
    else:
        write(f"{made} of profile {profile} made, {read.new_secrets} of them with a new secret.")
        if output is not None:
            write(f"{output} has them with secrets.")
        elif read.new_secrets:
            write("`cmpd code export` writes them with secrets, as CSV or as letters.")


@dataclass(slots=True)
class _Reading:
    """The lines of a CSV, becoming codes; faults are gathered."""

    file: str
    profile: Profile
    at: datetime
    uses: str
    expires: str
    codes: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """The fields of each `NewCode`."""
    new_references: int = 0
    new_secrets: int = 0
    _faults: list[tuple[int, str]] = field(default_factory=list)
    _secrets: dict[bytes, int] = field(default_factory=dict, repr=False)
    _references: dict[str, int] = field(default_factory=dict)
    """The lines where they are."""

    def rows(self, data: bytes, progress: Progress) -> None:
        """Read all lines. Raises OperatorError when it is no CSV of codes at all, or a default is wrong."""
        for option, value, read in (
            ("uses", self.uses, new_code.uses_of),
            ("expires", self.expires, lambda text: new_code.expires_of(text, self.at, None)),
        ):
            try:
                read(value)
            except ValueError as error:
                raise OperatorError(f"--{option} {plain(value)}: {error}") from None
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise OperatorError(f"{self.file}: line {line}: not UTF-8; save it as CSV in UTF-8") from None
        head = text.partition("\n")[0]
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
        total = text.count("\n") + 1
        columns: list[str] | None = None
        begin = 0
        try:
            for cells in lines:
                line, begin = begin + 1, lines.line_num
                if not any(map(str.strip, cells)):
                    continue
                if columns is None:
                    columns = self._head(line, cells)
                elif len(cells) != len(columns):
                    self._fault(
                        line, f"has {len(cells)} cells and the header {len(columns)}; write one for each column"
                    )
                else:
                    self._row(line, dict(zip(columns, (_read_cell(cell) for cell in cells), strict=True)))
                if line % _STEP == 0:
                    progress("Reading", line, total)
        except csv.Error as error:
            self._fault(begin + 1, f"not CSV ({error}); write cells with quotes or separators as RFC 4180 §2 has it")
        if columns is None or not (self.codes or self._faults):
            self._fault(1, f"no codes; write a header such as {','.join(COLUMNS[:5])} and a line for each code")
        progress("Reading", total, total)

    def _head(self, line: int, cells: list[str]) -> list[str]:
        names = [cell.strip().lower() for cell in cells]
        for name in dict.fromkeys(names):
            if name not in {*COLUMNS, *EXPORTED}:
                raise OperatorError(
                    f"{self.file}: line {line}: {plain(name) or '(empty)'}: unknown column;"
                    f" known here: {', '.join(COLUMNS)}"
                )
            if names.count(name) > 1:
                raise OperatorError(f"{self.file}: line {line}: {name}: is there twice; write each column once")
        return names

    def _row(self, line: int, cells: dict[str, str]) -> None:
        """Read one code, and note every fault of it."""
        before = len(self._faults)

        def read(name: str, how: Callable[[str], T], default: str = "") -> T | None:
            text = cells.get(name) or default
            if not text:
                return None
            try:
                return how(text)
            except ValueError as error:
                shown = "" if name == "secret" else f" {plain(text[:100])}:"
                self._fault(line, f"{name}:{shown} {error}")
                return None

        read("profile", self._same_profile)
        read("state", _still_good)
        reference = read("reference", new_code.reference_of)
        secret = read("secret", new_code.secret_of)
        uses = read("uses", new_code.uses_of, self.uses)
        used = read("used", _count_of)
        if uses is not None and used:
            uses -= used
            if uses < 1:
                self._fault(line, f"used: {used}: there is no use left; leave the line out, or write more uses")
        begins = read("valid_from", lambda text: new_code.valid_from_of(text, self.at))
        expires = read("expires", lambda text: new_code.expires_of(text, self.at, begins), self.expires)
        code: dict[str, Any] = {
            "profile": self.profile.name,
            "reference": reference,
            "secret": secret,
            "uses": uses,
            "expires": expires,
            "valid_from": begins,
            "seat": read("seat", new_code.seat_of),
            "subject": read("subject", new_code.expression_of),
            "san": read("san", new_code.san_list_of) or (),
            "key": read("key_fingerprint", new_code.fingerprint_of),
            "is_global": bool(read("global", self._global_of)),
        }
        if code["is_global"] and (code["seat"] or code["key"]):
            self._fault(
                line, "global: yes is for a whole fleet, seat and key_fingerprint for one device; leave one of them"
            )
        if reference is not None:
            first = self._references.setdefault(reference, line)
            if first != line:
                self._fault(
                    line,
                    f"reference: {plain(reference)}: is on line {first} too; write another, or nothing for a new one",
                )
        if secret is not None:
            first = self._secrets.setdefault(secret, line)
            if first != line:
                self._fault(line, f"secret: is that of line {first} too; write another, or nothing for a new one")
        if len(self._faults) > before:
            return
        if reference is None:
            code["reference"] = new_reference()
            self._references[code["reference"]] = line
            self.new_references += 1
        if secret is None:
            code["secret"] = new_secret().encode()
            self.new_secrets += 1
        self.codes.append(code)

    def _same_profile(self, name: str) -> None:
        if name != self.profile.name:
            raise ValueError(f"is not the profile of --profile; write {self.profile.name} or nothing")

    def _global_of(self, text: str) -> bool:
        if text not in {"yes", "no"}:
            raise ValueError("neither yes nor no; write one of them")
        if text == "yes" and not self.profile.code.allow_global:
            raise ValueError(
                f"the profile {self.profile.name} does not allow it; write no, or allow_global = true under"
                " [enrollment.code] in its file"
            )
        return text == "yes"

    def _fault(self, line: int, text: str) -> None:
        self._faults.append((line, text))

    def refuse_taken(self, taken: set[str]) -> None:
        """Note the references that the store has already."""
        for reference, line in self._references.items():
            if reference in taken:
                self._fault(
                    line,
                    f"reference: {plain(reference)}: profile {self.profile.name} has a code of this reference;"
                    " write another, or nothing for a new one",
                )

    def stop(self) -> None:
        """Raise OperatorError with all faults, if there are any."""
        if self._faults:
            raise OperatorError(
                "\n".join(f"{self.file}: line {line}: {text}" for line, text in sorted(self._faults))
                + f"\n{self.file}: no code has been made"
            )


def _count_of(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ValueError("not a count; write 0 or more")
    return int(text)


def _still_good(text: str) -> None:
    if text.replace("-", " ") not in GOOD:
        raise ValueError("the code is not good any more; leave the line out, or write nothing")


def save(
    path: Path,
    *,
    form: str,
    output: Path | None,
    profile: str | None,
    references: Sequence[str],
    states: Sequence[str],
    with_secrets: bool,
    json: bool,
) -> None:
    """Write codes as CSV or as letters."""
    if form not in {"csv", "letters"}:
        raise OperatorError(f"--format {plain(form)}: not a format; write csv or letters")
    if output is None and (json or form == "letters"):
        why = "letters carry secrets and are for a file" if form == "letters" else "--json says what is in the file"
        raise OperatorError(f"--output: is missing: {why}; write --output FILE")
    wanted = states_of(states) or GOOD

    async def read() -> list[EnrollmentCode]:
        async with store_of(settings) as store:
            missing = set(references) - {one.reference for one in await store.codes(profile)}
            for reference in sorted(missing):
                of = f"profile {plain(profile)} has" if profile else "there is"
                raise OperatorError(f"--reference {plain(reference)}: {of} no such code; see `cmpd code list`")

            def is_wanted(code: EnrollmentCode) -> bool:
                return (not references or code.reference in references) and state(code) in wanted

            if with_secrets or form == "letters":
                return await store.codes_with_secrets(profile, wanted=is_wanted)
            return [code for code in await store.codes(profile) if is_wanted(code)]

    with faults(), _progress(quiet=json) as progress:
        settings = Settings.load(path)
        known = profiles_of(settings)
        codes = asyncio.run(read())
        if not codes:
            raise OperatorError(f"no enrollment codes that are {', '.join(sorted(wanted))}; see `cmpd code list`")

        def url(code: EnrollmentCode) -> str:
            return url_of(settings, known[code.profile]) if code.profile in known else ""

        if form == "csv":
            text = _table(codes, with_secrets=with_secrets, url_of=url)
            if output is None:
                sys.stdout.write(text)
                sys.stdout.flush()
                return
            with _written(output, text):
                pass
        else:
            assert output is not None  # asked above
            for code in codes:
                if code.profile not in known:
                    raise OperatorError(
                        f"profile {plain(code.profile)}: is not configured, and {plain(code.reference)} is a code of"
                        " it; choose another with --profile"
                    )
            pages = []
            for number, code in enumerate(codes, 1):
                pages.append(letters.letter(known[code.profile], code, _text(code), url(code)))
                progress("Letters", number, len(codes))
            _write_letters(output, pages, codes)
    if json:
        write_json(
            {"format": form, "codes": len(codes), "output": str(output), "secrets": with_secrets or form == "letters"}
        )
    else:
        secrets = " with secrets" if with_secrets or form == "letters" else ""
        write(f"{output} has {len(codes)} enrollment {'code' if len(codes) == 1 else 'codes'}{secrets}.")


def _write_letters(output: Path, pages: Sequence[str], codes: Sequence[EnrollmentCode]) -> None:
    """One file for all when its name ends with .html, else a folder with one for each."""
    if output.suffix.lower() in {".html", ".htm"}:
        with _written(output, letters.document(pages)):
            return
    try:
        output.mkdir(mode=0o700)
    except FileExistsError:
        raise OperatorError(f"{output}: exists already and is not overwritten; choose another --output") from None
    width = len(str(len(codes)))
    for number, (page, code) in enumerate(zip(pages, codes, strict=True), 1):
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{code.profile}-{code.reference}")
        with _written(output / f"{number:0{width}}-{name[:100]}.html", letters.document([page])):
            pass


@contextmanager
def _written(path: Path | None, text: str) -> Iterator[None]:
    """Write a new file that is its owner's only; it is gone again when what follows fails."""
    if path is None:
        yield
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise OperatorError(f"{path}: exists already and is not overwritten; choose another --output") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            os.fchmod(descriptor, 0o600)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


# CSV


def _table(codes: Sequence[EnrollmentCode], *, with_secrets: bool, url_of: Callable[[EnrollmentCode], str]) -> str:
    names = [name for name in ("profile", *COLUMNS, *EXPORTED[1:]) if with_secrets or name != "secret"]
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(names)
    for code in codes:
        url = url_of(code)
        cells = {
            "profile": code.profile,
            "reference": code.reference,
            "secret": _text(code),
            "uses": "unlimited" if code.uses is None else str(code.uses),
            "valid_from": time_text(code.valid_from),
            "expires": time_text(code.expires) or "never",
            "seat": code.seat or "",
            "subject": code.subject or "",
            "san": " ".join(code.san),
            "key_fingerprint": code.key or "",
            "global": "yes" if code.is_global else "no",
            "used": str(code.used),
            "state": state(code),
            "url": url,
            "code_url": code_url(url, code) if url else "",
        }
        rows.writerow(_cell(cells[name]) for name in names)
    return text.getvalue()


def _cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    begins = text[1:2] if text.startswith("'") else text[:1]
    return f"'{text}" if begins and begins in _FORMULA + "'" else text


def _read_cell(text: str) -> str:
    """What `_cell` was given, without space around it."""
    text = text.strip()
    return text[1:] if text.startswith("'") and text[1:2] and text[1] in _FORMULA + "'" else text


def _text(code: EnrollmentCode) -> str:
    try:
        return code.secret.decode()
    except UnicodeDecodeError:
        raise OperatorError(
            f"profile {plain(code.profile)}: the secret of {plain(code.reference)} is not text;"
            " choose others with --reference"
        ) from None


def _kept(new: Sequence[NewCode], at: datetime) -> list[EnrollmentCode]:
    """New codes as they will be."""
    return [
        EnrollmentCode(
            0,
            one.profile,
            one.reference,
            one.secret,
            one.uses,
            0,
            at,
            one.expires,
            False,
            one.valid_from,
            one.seat,
            one.subject,
            one.san,
            one.key,
            one.is_global,
        )
        for one in new
    ]


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal's standard error; else nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console  # noqa: PLC0415  only a terminal needs rich
    from rich.progress import Progress as Bars  # noqa: PLC0415  only a terminal needs rich

    with Bars(console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield report

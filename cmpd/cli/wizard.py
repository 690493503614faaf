"""`cmpd profile new`: the questions asked page by page, or answered by options, and the profile file written."""

import os
import secrets
import shlex
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from cmpd.cli.draft import Draft, Fault, concerns, node, shown, split, titles
from cmpd.cli.operation import faults, url_of, well_known_url_of
from cmpd.cli.output import OperatorError, plain, write, write_json
from cmpd.cli.questions import NAME, PAGES, SET, TEMPLATE, Question, questions
from cmpd.profile import Profile, ProfileError, new_id, templates
from cmpd.profile.profile import read_file
from cmpd.settings import Settings

Answers = Mapping[str, str | Sequence[str] | None]
"""What the command line says, by the names of the parameters."""

_KEEP_PAGE = "."


def new(config: Path, answers: Answers, *, force: bool, yes: bool, json: bool) -> None:
    """Make a profile file; ask for what the options leave open when there is somebody to ask."""
    with faults():
        settings = Settings.load(config)
        wizard = Wizard(settings, answers, ask=sys.stdin.isatty() and not yes and not json, force=force)
        draft = wizard.run()
        text = draft.toml()
        Profile.from_config(draft.path.stem, tomllib.loads(text), draft.path.parent)
        _write(draft.path, text, force=force)
        profile = Profile.load(draft.path)
    url, well_known_url = url_of(settings, profile), well_known_url_of(settings, profile)
    steps = _next(settings, profile, shown(draft.value("enrollment.trusted_certificates")))
    if json:
        write_json(
            {
                "name": profile.name,
                "file": str(draft.path),
                "url": url,
                "well_known_url": well_known_url,
                "next": [command for command, _ in steps if command],
            }
        )
        return
    write(
        f"{draft.path} is written.",
        "",
        "Copy the CMP URL:",
        f"  {url}",
        f"  {well_known_url}",
        "",
        "Next:",
        *(f"  {command}  # {why}" if command else f"  {why}" for command, why in steps),
    )


def _next(settings: Settings, profile: Profile, trusted: str) -> list[tuple[str, str]]:
    option = f"--config {shlex.quote(str(settings.path))}"
    steps = [(f"cmpd reload {option}", "puts the profile into use")]
    if profile.authentication_method == "enrollment_code":
        steps.append(
            (f"cmpd code create {option} --profile {profile.name}", "makes the code that a client enrolls with")
        )
    elif profile.trusted:
        signs = f"The client signs its requests with a certificate that it has already, under {plain(trusted)}."
        steps.append(("", signs))
    if profile.service_user is not None:
        add = f"cmpd service-user add {option} {profile.service_user} --certificate FILE"
        steps.append((add, "names the certificates that alone may use the profile"))
    if profile.vendor is not None and profile.vendor.allow_list:
        steps.append((f"cmpd device add {option} --profile {profile.name} SERIAL", "lets a device enroll"))
    return steps


class Wizard:
    """One profile being made."""

    def __init__(self, settings: Settings, answers: Answers, *, ask: bool, force: bool) -> None:
        self._settings = settings
        self._answers = answers
        self._ask_user = ask
        self._force = force
        self._issuers = sorted(settings.issuers)
        self._answered: set[str] = set()
        if not self._issuers:
            raise OperatorError(f"{settings.path}: issuers: there is none; add a section [issuers.NAME]")
        # until they are answered, what lets all other answers be checked
        self._draft = Draft(self._path("new"), {"id": new_id(), "issuer": self._issuers[0]})

    def run(self) -> Draft:
        """Have everything answered, and correct. Raises OperatorError."""
        for number, page in enumerate(PAGES, 1):
            self._title(f"{page.title} ({number} of {len(PAGES)})")
            keep = False
            for question in page.questions:
                keep = self._answer(question, keep=keep)
        self._options(SET)
        while found := self._draft.faults():
            self._put_right(found)
        self._check_id()
        return self._draft

    # ----------------------------------------------------------------------------------------------------- answers

    def _answer(self, question: Question, *, keep: bool) -> bool:
        """Have one question answered; whether the rest of the page is to be kept."""
        given = self._options(question)
        if given or (not self._draft.asks(question) and question not in {NAME, TEMPLATE}):
            return keep
        required = self._is_required(question)
        if not self._ask_user:
            if required:
                raise OperatorError(f"--{question.option}: is missing; {self._possible(question)}")
            return keep
        if keep and not required:
            return True
        choices = self._choices(question)
        if choices == [self._has(question)]:
            return keep
        return self._ask(question, choices, required=required)

    def _options(self, question: Question) -> bool:
        """Take what the command line says; whether it says something. Raises OperatorError."""
        given = self._answers.get(question.parameter)
        texts = [given] if isinstance(given, str) else list(given or ())
        for text in texts:
            wrong = self._take(question, text)
            if wrong:
                raise OperatorError("\n".join(f"--{question.option} {plain(text)}: {plain(one)}" for one in wrong))
        return bool(texts)

    def _take(self, question: Question, text: str) -> list[str]:
        """Take an answer, or say why not."""
        if question is NAME:
            return self._name(text)
        if question is TEMPLATE and text not in templates():
            return [self._possible(question)]
        if question.key == "issuer" and text not in self._issuers:
            return [self._possible(question)]
        wrong = self._draft.attempt(question, text)
        if not wrong:
            self._answered.add(question.option)
        return wrong

    def _name(self, text: str) -> list[str]:
        path = self._path(text)
        wrong = []
        try:
            Profile.from_config(text, dict(self._draft.table), path.parent)
        except ProfileError as error:
            wrong = [
                rule + line.partition(rule)[2] for line in error.faults if (rule := "the name of a profile") in line
            ]
        if not wrong and os.path.lexists(path) and not self._force:
            wrong = [f"{path} is there already; choose another name, or overwrite it with --force"]
        if not wrong:
            self._draft.path = path
            self._answered.add(NAME.option)
        return wrong

    def _path(self, name: str) -> Path:
        return self._settings.profiles.directory / f"{name}.toml"

    def _is_required(self, question: Question) -> bool:
        if question.option in self._answered:
            return False
        if question in {NAME, TEMPLATE}:
            return True
        if question.key == "issuer":
            return len(self._issuers) > 1
        return any(
            "is required" in fault.text or "is missing" in fault.text
            for fault in self._draft.faults()
            if concerns(question, fault) and not question.repeats
        )

    def _choices(self, question: Question) -> list[str]:
        if question is TEMPLATE:
            return list(templates())
        if question.key == "issuer":
            return self._issuers
        return [] if question.repeats or not question.key else self._draft.choices(question)

    def _possible(self, question: Question) -> str:
        choices = self._choices(question)
        return f"it is one of {', '.join(choices)}" if choices else question.help

    # ------------------------------------------------------------------------------------------------ with a terminal

    def _title(self, title: str) -> None:
        if self._ask_user:
            write("", title, "-" * len(title))
            write(f"Enter keeps the value in brackets, {_KEEP_PAGE} keeps the rest of the page.")

    def _ask(self, question: Question, choices: list[str], *, required: bool) -> bool:
        write("", f"{question.text}: {question.help}")
        if question is TEMPLATE:
            write(*(f"  {number}  {name:<27} {title}" for number, (name, title) in enumerate(titles(), 1)))
        elif choices:
            write(f"  {', '.join(choices)}")
        elif items := node(split(question.key)).get("items", {}).get("enum") if question.key else None:
            write(f"  {', '.join(items)}")
        while True:
            has = self._has(question)
            text = self._input(f"  [{plain(has)}] > " if has else "  > ")
            if text == _KEEP_PAGE and not required:
                return True
            if not text:
                if not required:
                    return False
                write(f"  This needs an answer: {self._possible(question)}")
                continue
            if text.isdecimal() and question is TEMPLATE and 1 <= int(text) <= len(choices):
                text = choices[int(text) - 1]
            wrong = self._take(question, text)
            write(*(f"  {plain(one)}" for one in wrong))
            if not wrong and not question.repeats:
                return False

    def _has(self, question: Question) -> str:
        """What stands if nothing is answered."""
        if question in {NAME, TEMPLATE} or (question.key == "issuer" and len(self._issuers) > 1):
            return ""
        value = self._draft.value(question.key)
        if question.repeats and isinstance(value, dict):
            named = (_named(name, one) for name, one in value.items() if one and not isinstance(one, bool))
            return ", ".join(named) or "none"
        return shown(value)

    def _input(self, prompt: str) -> str:
        try:
            return input(prompt).strip()
        except UnicodeDecodeError:
            return "\0"  # no answer to any question
        except EOFError:
            write("")
            raise OperatorError("the answers ended; nothing was written") from None

    # --------------------------------------------------------------------------------------------------- at the end

    def _put_right(self, found: Sequence[Fault]) -> None:
        """Ask again what the last check finds fault with. Raises OperatorError when that is not possible."""
        asked = [(fault, self._about(fault)) for fault in found]
        if not self._ask_user or any(question is None for _, question in asked):
            _refuse(asked)
        fault, question = asked[0]
        assert question is not None
        write("", plain(str(fault)))
        self._ask(question, self._choices(question), required=not question.repeats)

    def _about(self, fault: Fault) -> Question | None:
        """The question that a fault is best put right with: the one with the longest key."""
        matching = [one for one in questions() if one.key and one is not TEMPLATE and concerns(one, fault)]
        return max(matching, key=lambda one: len(one.key), default=None)

    def _check_id(self) -> None:
        """Refuse an id that another profile has, as loading all of them would. Raises OperatorError."""
        directory = self._settings.profiles.directory
        for path in sorted(directory.glob("[!.]*.toml")):
            try:
                other = read_file(path).get("id")
            except ProfileError:
                continue
            if path != self._draft.path and other == self._draft.table["id"]:
                raise OperatorError(f"--{SET.option} id: is the id of {path} too; each profile has its own")


def _refuse(asked: Sequence[tuple[Fault, Question | None]]) -> NoReturn:
    lines = [
        f"--{question.option}: {plain(str(fault))}" if question else plain(str(fault)) for fault, question in asked
    ]
    raise OperatorError("\n".join(lines))


def _named(name: str, value: object) -> str:
    """An attribute or a type of name in short: common_name=required."""
    if not isinstance(value, Mapping):
        return f"{name}={shown(value)}"
    if value.get("source") in {"fixed", "default"}:
        return f"{name}={value['source']}:{shown(value.get('value'))}"
    return f"{name}={value.get('include', 'optional')}"


def _write(path: Path, text: str, *, force: bool) -> None:
    """Write a file whole or not at all, over another one only with `force`. Raises OSError, OperatorError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if force:
            temporary.replace(path)
        else:
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise OperatorError(f"{path}: is there already; overwrite it with --force") from None
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)

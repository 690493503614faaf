"""`cmpd device`: the devices that a profile knows by the serial number in their maker's certificate.

The list is in the store: the running daemon asks there, so what is added or removed counts at once.
"""

import asyncio
import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cmpd.cli.operation import faults, now, profile_of, store_of
from cmpd.cli.output import OperatorError, plain, time_text, write, write_json, write_table
from cmpd.exchange import Device
from cmpd.profile import Profile, parse_name
from cmpd.settings import Settings

COLUMNS: Final = ("serial", "seat", "subject")
"""The columns of a file; only the first must be there."""
LONGEST: Final = 200
"""Characters of a serial number or a seat."""
SHOWN_FAULTS: Final = 50
"""How many bad lines are named before they are counted only."""
PROGRESS_FROM: Final = 5_000
"""So many lines are worth a progress bar."""
_ALL: Final = 2**31 - 1


def add(path: Path, serial: str, *, profile: str, seat: str | None, subject: str | None, json: bool) -> None:
    """List one device, or change its seat and subject."""
    with faults():
        settings = Settings.load(path)
        known = _profile(settings, profile)
        wrong, device = _device(known, serial, seat or "", subject or "")
        if wrong:
            raise OperatorError("\n".join(wrong))
        added, changed = asyncio.run(_keep(settings, profile, [device]))
    if json:
        write_json(_public(device) | {"added_now": bool(added), "changed": bool(changed)})
        return
    what = "is in the list" if added else "is changed" if changed else "was in the list as it is"
    write(
        f"{plain(device.serial)}: {what} of profile {profile}; "
        f"its certificates are for {_seat(known, device)}, and for {_subject(known, device)}"
    )


def import_file(path: Path, file: Path, *, profile: str, dry_run: bool, json: bool) -> None:
    """List the devices of a CSV file: all of them, or none when a line is wrong."""
    with faults():
        settings = Settings.load(path)
        known = _profile(settings, profile)
        devices = read_csv(known, file)
        if dry_run:
            added, changed = asyncio.run(_compare(settings, profile, devices))
        else:
            with _spinning(f"writing {len(devices)} devices", shown=len(devices) >= PROGRESS_FROM):
                added, changed = asyncio.run(_keep(settings, profile, devices))
    unchanged = len(devices) - added - changed
    if json:
        write_json({"profile": profile, "added": added, "changed": changed, "unchanged": unchanged, "dry_run": dry_run})
        return
    would = "would be " if dry_run else ""
    write(f"{len(devices)} devices: {added} {would}added, {changed} {would}changed, {unchanged} unchanged.")


def show_all(path: Path, *, profile: str, limit: int, json: bool) -> None:
    """Print the devices of a profile."""

    async def read(settings: Settings) -> list[Device]:
        async with store_of(settings) as store:
            return await store.devices(profile, limit)

    with faults():
        settings = Settings.load(path)
        profile_of(settings, profile)
        devices = asyncio.run(read(settings))
    if json:
        write_json([_public(device) for device in devices])
        return
    write_table(
        ("SERIAL", "SEAT", "SUBJECT", "ADDED"),
        ((plain(one.serial), plain(one.seat or ""), plain(one.subject or ""), time_text(one.added)) for one in devices),
        empty=f"Profile {plain(profile)} has no devices in its list.",
    )


def remove(path: Path, serial: str, *, profile: str, json: bool) -> None:
    """Take a device from the list; a fault when it is not there."""

    async def change(settings: Settings) -> bool:
        async with store_of(settings) as store:
            return await store.remove_device(profile, serial)

    with faults():
        if not asyncio.run(change(Settings.load(path))):
            raise OperatorError(
                f"profile {plain(profile)} has no device {plain(serial)} in its list; see `cmpd device list`"
            )
    if json:
        write_json({"profile": profile, "serial": serial, "removed": True})
    else:
        write(f"{plain(serial)} is no longer in the list of profile {plain(profile)}; its certificates stay valid.")


async def _keep(settings: Settings, profile: str, devices: Sequence[Device]) -> tuple[int, int]:
    async with store_of(settings) as store:
        return await store.import_devices(profile, devices)


async def _compare(settings: Settings, profile: str, devices: Sequence[Device]) -> tuple[int, int]:
    """How many devices would be added, and how many changed."""
    async with store_of(settings) as store:
        there = {one.serial: (one.seat, one.subject) for one in await store.devices(profile, _ALL)}
    added = sum(one.serial not in there for one in devices)
    same = sum(there.get(one.serial) == (one.seat, one.subject) for one in devices)
    return added, len(devices) - added - same


# ------------------------------------------------------------------------------------------------------------- reading


def _profile(settings: Settings, name: str) -> Profile:
    """A profile that lets devices enroll with their maker's certificate. Raises OperatorError."""
    found = profile_of(settings, name)
    if found.vendor is None:
        raise OperatorError(
            f"{settings.profiles.directory / name}.toml: enrollment.vendor: is missing, so that no device enrolls "
            "there with its maker's certificate; add [enrollment.vendor] with trusted_certificates, or choose another "
            "--profile"
        )
    return found


def _device(profile: Profile, serial: str, seat: str, subject: str) -> tuple[list[str], Device]:
    """A device of what was written, and what is wrong with it."""
    wrong = []
    serial, seat, subject = serial.strip(), seat.strip(), subject.strip()
    if not serial:
        wrong.append("serial: is empty; write the serial number as it is in the maker's certificate")
    for key, text in (("serial", serial), ("seat", seat)):
        if len(text) > LONGEST or not text.isprintable():
            wrong.append(f"{key}: {plain(text[:LONGEST])}: write up to {LONGEST} printable characters")
    assert profile.vendor is not None
    if profile.vendor.serial_from == "certificate.serial_number" and serial:
        try:
            serial = f"{int(serial.replace(':', ''), 16):x}"
        except ValueError:
            wrong.append(
                f"serial: {plain(serial[:LONGEST])}: is not hexadecimal, and in this profile it is the serial number "
                "of the certificate (enrollment.vendor.serial_from)"
            )
    name: str | None = None
    if subject:
        try:
            name = parse_name(subject).rfc4514_string()
        except ValueError as error:
            wrong.append(f"subject: {plain(subject[:LONGEST])}: {error}")
    return wrong, Device(profile.name, serial, now(), seat or None, name)


def read_csv(profile: Profile, file: Path) -> list[Device]:
    """Read a file of devices whole. Raises OperatorError that names every bad line, OSError."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OperatorError(f"{plain(str(file))}: octet {error.start} is not UTF-8; save the file as UTF-8") from None
    where = plain(str(file))
    head, _, _ = text.partition("\n")
    # programs of countries with a decimal comma write semicolons
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in head else ",", strict=True)
    try:
        columns = [column.strip().lower() for column in next(reader, [])]
    except csv.Error as error:
        raise OperatorError(f"{where}:1: not CSV: {error}") from None
    _check_columns(where, columns)
    wrong: list[str] = []
    devices: dict[str, Device] = {}
    lines: dict[str, int] = {}
    began = now()
    for line, row in _rows(reader, text.count("\n"), wrong, where):
        if len(row) > len(columns):
            wrong.append(
                f"{where}:{line}: has {len(row)} fields, and the header has {len(columns)}; put a value with a comma "
                'in quotes: "CN=a,O=b"'
            )
            continue
        fields = dict(zip(columns, row, strict=False))
        found, device = _device(profile, fields["serial"], fields.get("seat", ""), fields.get("subject", ""))
        if device.serial and device.serial in lines:
            found.append(f"serial: {plain(device.serial)} is on line {lines[device.serial]} too; leave out one of them")
        wrong += (f"{where}:{line}: {one}" for one in found)
        lines.setdefault(device.serial, line)
        devices[device.serial] = replace(device, added=began)
    if wrong:
        more = [f"{where}: {len(wrong) - SHOWN_FAULTS} more faults"] if len(wrong) > SHOWN_FAULTS else []
        raise OperatorError("\n".join([*wrong[:SHOWN_FAULTS], *more, f"{where}: nothing was imported"]))
    return list(devices.values())


def _check_columns(where: str, columns: Sequence[str]) -> None:
    allowed = ", ".join(COLUMNS)
    unknown = [column for column in columns if column not in COLUMNS]
    if "serial" not in columns or unknown or len(set(columns)) != len(columns):
        shown = plain(", ".join(columns))[:LONGEST]
        raise OperatorError(
            f"{where}:1: the first line names the columns, each once: {allowed} (serial must be there); it has: "
            f"{shown or 'nothing'}"
        )


def _rows(reader: Any, count: int, wrong: list[str], where: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty, with their number in the file; a progress bar on a terminal."""

    def rows() -> Iterator[tuple[int, list[str]]]:
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                wrong.append(f"{where}:{line}: not CSV: {error}")
                return
            if any(cell.strip() for cell in row):
                yield line, row

    return _tracked(rows(), count)


def _tracked(rows: Iterable[tuple[int, list[str]]], count: int) -> Iterator[tuple[int, list[str]]]:
    if count < PROGRESS_FROM or not sys.stderr.isatty():
        yield from rows
        return
    from rich.console import Console  # noqa: PLC0415  only a terminal needs rich
    from rich.progress import track  # noqa: PLC0415  only a terminal needs rich

    yield from track(rows, "reading", total=count, console=Console(stderr=True), transient=True)


@contextmanager
def _spinning(text: str, *, shown: bool) -> Iterator[None]:
    """Say on a terminal what is being waited for."""
    if not shown or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415  only a terminal needs rich

    with Console(stderr=True).status(text):
        yield


# ------------------------------------------------------------------------------------------------------------- showing


def _seat(profile: Profile, device: Device) -> str:
    assert profile.vendor is not None
    if not profile.vendor.seat_from_serial:
        return "the seat that [seat] finds in the request"
    return f"seat {plain(device.seat or device.serial)}"


def _subject(profile: Profile, device: Device) -> str:
    assert profile.vendor is not None
    if device.subject is not None:
        return plain(device.subject)
    if profile.vendor.subject is not None:
        return plain(profile.vendor.subject.replace("{serial}", device.serial))
    return "the subject that it asks for"


def _public(device: Device) -> dict[str, Any]:
    return {
        "profile": device.profile,
        "serial": device.serial,
        "seat": device.seat,
        "subject": device.subject,
        "added": time_text(device.added),
    }

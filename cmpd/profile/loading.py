"""A folder of profiles, and how a new one begins."""

import secrets
from importlib import resources
from pathlib import Path
from typing import Final

from cmpd.profile.profile import Profile
from cmpd.profile.vocabulary import ProfileError

_ID_OCTETS: Final = 16
"""128 bits, as RFC 9483 §3.1 asks of a transactionID: nobody guesses it."""


def new_id() -> str:
    """Make an id for a profile's own URL: 22 characters of A-Z a-z 0-9 _ -, from 128 random bits."""
    return secrets.token_urlsafe(_ID_OCTETS)


def load_directory(directory: Path) -> dict[str, Profile]:
    """Load all `NAME.toml` of a folder, in the order of their names. Raises ProfileError with the faults of all."""
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except OSError as error:
        raise ProfileError([f"{directory}: cannot be read: {error.strerror}"]) from None
    profiles: dict[str, Profile] = {}
    names: dict[str, Path] = {}
    faults: list[str] = []
    for path in files:
        try:
            profile = Profile.load(path)
        except ProfileError as error:
            faults.extend(error.faults)
            continue
        if profile.id in names:
            faults.append(f"{path}: id: {profile.id!r} is the id of {names[profile.id]} too; each profile has its own")
        names.setdefault(profile.id, path)
        profiles[profile.name] = profile
    if faults:
        raise ProfileError(faults)
    return profiles


def device_template(*, id: str, issuer: str = "local") -> str:
    """The text of the device profile that comes with cmpd, with its `id` and `issuer` filled in."""
    template = (resources.files("cmpd") / "data" / "device.toml").read_text(encoding="utf-8")
    return template.replace("@ID@", id).replace("@ISSUER@", issuer)

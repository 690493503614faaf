"""A profile of CertCentral in a configuration, as `cmpd check` and `cmpd serve` load it."""

from pathlib import Path

from cmpd import daemon
from tests.daemon import Site

MAIL = """
id = "mail-profile-of-the-test-0002"
base_template = "public-smime"
issuer = "digicert"
issuer_ca = "10A101A05684"
[certificate_type]
validation_type = "mailbox"
[enrollment]
authentication_method = "enrollment_code"
"""


def test_the_ca_that_a_profile_names_is_for_an_issuer_without_a_chain_of_its_own_to_know(tmp_path: Path) -> None:
    """A public CA has many, and each certificate brings its chain."""
    site = Site.make(tmp_path / "cmpd")
    key = site.folder / "secrets" / "certcentral.key"
    key.write_text("an-api-key")
    key.chmod(0o600)
    site.append('[issuers.digicert]\ntype = "certcentral"\napi_key_file = "secrets/certcentral.key"')
    (site.folder / "profiles" / "mail.toml").write_text(MAIL)
    assert "mail" in daemon.check(site.config).profiles

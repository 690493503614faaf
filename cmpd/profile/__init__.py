"""Certificate profiles: what an operator has decided about certificates, as data, and the decision on each request.

A profile is one TOML file. `Profile.load` checks it whole and works out everything that does not depend on a request;
`Profile.approve` is a pure function of a request and the time. One module per part of the decision: `key`, `subject`,
`san`, `extensions`, `validity`; `syntax` says what a name may look like, `config` is the file as written.
"""

from cmpd.profile.config import ProfileConfig
from cmpd.profile.loading import device_template, load_directory, new_id
from cmpd.profile.profile import Profile
from cmpd.profile.syntax import Pattern, parse_name
from cmpd.profile.templates import Template, effective, template, templates
from cmpd.profile.vocabulary import Duration, ProfileError, parse_duration

__all__ = [
    "Duration",
    "Pattern",
    "Profile",
    "ProfileConfig",
    "ProfileError",
    "Template",
    "device_template",
    "effective",
    "load_directory",
    "new_id",
    "parse_duration",
    "parse_name",
    "template",
    "templates",
]

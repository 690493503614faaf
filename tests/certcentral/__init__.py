"""A simulator of the CertCentral Services API v2: real certificates from its own small PKI, and every known quirk.

By hand:

    python -m tests.certcentral --port 8840
    curl -H 'X-DC-DEVKEY: sim-admin-key' http://127.0.0.1:8840/services/v2/user/me
    curl http://127.0.0.1:8840/_control/roots > roots.pem
    curl -d '{"kind": "commit_then_drop", "endpoint": "order"}' http://127.0.0.1:8840/_control/faults

In a test:

    async with CertCentral().running() as central:      # central.url, central.key("admin"), central.ledger, …
        central.set(times=1, delay=3600)                 # the next order takes an hour of simulated time
        central.faults.add("commit_then_drop", endpoint="order")

Base URLs: `/services/v2` is the US host, `/eu/services/v2` (or the Host certcentral.digicert.eu) the EU host.

API keys (name: value, and what it may do)

    admin     sim-admin-key      administrator: everything, may skip approval
    manager   sim-manager-key    manager: may approve and skip approval
    orders    sim-orders-key     standard user, restricted to orders (100): its orders wait for approval
    view      sim-view-key       administrator, view only (102)
    users     sim-users-key      administrator, users only (103)
    division  sim-division-key   manager, sees the division 406333 only
    revoked   sim-revoked-key    invalid
    eu        sim-eu-key         administrator; valid at the EU host only

Organizations: 117483 Example GmbH (ov, ev, smime, valid until 2035), 117484 Example, Inc. (ov only),
117485 Stale Ltd (all expired). Divisions: 406222 (root), 406333 (no EV, no private wildcards, one year).
Domains: example.com, example.org, example.net are proven, unproven.example is not. Custom field 1001: a text of the
client's own; 1002 is inactive. Not enabled: client_email_security_plus, ssl_ev_plus.

Modules: `catalogue` (the account as data), `settings` (switches), `faults`, `journal` (calls and ledger), `clock`,
`pki`, `terms` (body → what is issued), `state`, `orders` (state machines), `answers` (JSON), `app` (HTTP),
`control` (/_control), `central` (the object that holds all of it). Nothing here knows anything of cmpd.

What no source confirms about the real service is a switch, marked `?` in `settings`.
"""

from tests.certcentral.central import CertCentral
from tests.certcentral.errors import ApiError

__all__ = ["ApiError", "CertCentral"]

"""The embedded issuer: a CA whose keys are files of this machine.

`authority` writes certificates and CRLs as DER, `keys` knows the key types, `config` reads and checks the files that
`[issuers.NAME]` names, `issuer` is the port's implementation and `ca` makes a new CA.
"""

from cmpd.issuers.local.ca import CreatedCA, create_ca, renew_cmp_signer
from cmpd.issuers.local.config import LocalIssuerConfig
from cmpd.issuers.local.issuer import LocalIssuer

__all__ = ["CreatedCA", "LocalIssuer", "LocalIssuerConfig", "create_ca", "renew_cmp_signer"]

"""What a test can switch, for all calls, for the calls of one key, for a product, or for the next orders.

The narrowest wins: an order's own settings, then its product's, then the key's, then those of all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Settings:
    """Every switch with its usual position. `?` marks what no source confirms."""

    approval: Literal["none", "auto", "one-step"] = "one-step"
    """`one-step`: somebody approves, unless an admin or manager says skip_approval; `auto`: approved on arrival;
    `none`: no approval and so no entry in requests[]."""
    delay: float = 0.0
    """Seconds of simulated time between approval and issuance."""
    polls: int = 0
    """So many looks at an order (order info or status changes) come before it is issued."""
    by_hand: bool = False
    """Issued only when a test says so."""
    waiting_status: str = "processing"
    """The status while delay, polls, or by_hand hold an order up."""
    without_csr: Literal["waiting_pickup", "needs_csr", "reject"] = "waiting_pickup"
    """What an S/MIME order without a CSR becomes. ?"""

    bare_public_key: Literal["accept", "reject"] = "accept"
    """Whether `csr` may be a bare public key. ?"""
    check_csr_signature: bool = True
    """Whether a CSR must be signed by its own key. ?"""
    default_profile_type: Literal["strict", "multipurpose"] = "strict"
    """What S/MIME orders get that do not say."""
    over_validity: Literal["reject", "truncate"] = "reject"
    """An order for longer than the product allows. ?"""
    unvalidated_organization: Literal["pend", "reject"] = "pend"
    """An order for an organization that lacks the validation that the product needs. ?"""
    second_reissue: Literal["replace", "reject"] = "replace"
    """A reissue while another one is pending. ?"""
    smime_duplicates: bool = False
    """Whether secure_email_* orders have duplicates. ?"""
    card_on_file: bool = True
    """Without one, orders by card are answered `bad_request_format`."""
    balance: float | None = 1000.0
    """What there is to pay orders from; None: the call does not exist. ?"""
    placed_status: int = 201
    """The status of a placed order; clients also take 200."""
    not_issued_status: int = 404
    """The status of a download before issuance. ?"""

    order_follows_revocation: bool = True
    """Whether an order becomes `revoked` with its last certificate (a setting of the real account)."""
    revoke_request_status: Literal["pending", "submitted"] = "pending"
    duplicates_in_status_changes: bool = False
    """Whether an issued duplicate counts as a change of its order. ?"""
    old_serials_find_order: bool = False
    """Whether an order is found by the serial number of a certificate that was reissued since. ?"""
    region_bound_keys: bool = True
    """Whether a key of the US host is invalid at the EU host, and the other way round. ?"""

    status_word: str | None = None
    """Show this word instead of an order's status."""
    hide_certificate_id: bool = False
    """Issued, yet no certificate_id in the answer and no certificate.id in the order info."""
    hide_chain: bool = False
    """Issued at once, yet no certificate_chain in the answer, and an empty chain when asked for it."""
    hide_custom_fields: bool = False
    hide_csr: bool = False
    """The order info has no `csr`."""
    wrong_pem: bool = False
    """Every certificate of an order downloads as its first one."""
    stale_request: bool = False
    """Request infos show the order's first certificate for ever."""
    chain_order: Literal["leaf-first", "root-first"] = "leaf-first"
    misissue: Literal["", "key", "san", "subject", "policy", "usage"] = ""
    """The certificate differs in this from what was ordered."""

    ids_as_strings: bool = False
    """The ids of organizations and requests are strings."""
    extra_fields: bool = False
    """Every object has a field that nobody has heard of."""
    errors_as_object: bool = False
    """`errors` is an object, not a list."""

    rate_windows: tuple[tuple[int, float], ...] = ((100, 5.0), (1000, 180.0))
    """(calls, seconds): rolling windows, per key."""
    retry_after: int | None = None
    """The `Retry-After` of a 429; None: there is none. ?"""
    count_refused: bool = False
    """Whether a call that was answered 429 counts in the windows. ?"""


_NAMES = frozenset(field.name for field in fields(Settings))


@dataclass(slots=True)
class _Scope:
    key: str | None
    product: str | None
    times: int | None
    changes: dict[str, Any]

    def fits(self, key: str, product: str | None) -> bool:
        return self.key in {None, key} and self.product in {None, product}


class Switches:
    """All settings with their scopes."""

    def __init__(self) -> None:
        self.base = Settings()
        self._keys: dict[str, dict[str, Any]] = {}
        self._products: dict[str, dict[str, Any]] = {}
        self._next: list[_Scope] = []

    def set(
        self, *, key: str | None = None, product: str | None = None, times: int | None = None, **changes: Any
    ) -> None:
        """Set switches for a key, a product, or all; with `times` for the next so many orders that fit, for ever."""
        checked(changes)
        if times is not None:
            self._next.append(_Scope(key, product, times, changes))
        elif key is not None and product is not None:
            raise ValueError("settings for the orders of a key AND a product need `times`")
        elif key is not None:
            self._keys.setdefault(key, {}).update(changes)
        elif product is not None:
            self._products.setdefault(product, {}).update(changes)
        else:
            self.base = replace(self.base, **changes)

    def reset(self) -> None:
        """All as at the beginning; orders keep their own settings."""
        self.__init__()  # type: ignore[misc]

    def of_next_order(self, key: str, product: str) -> dict[str, Any]:
        """What an order that is placed now would have as its own settings."""
        own: dict[str, Any] = {}
        for scope in self._next:
            if scope.fits(key, product):
                own |= scope.changes
        return own

    def ordered(self, key: str, product: str) -> None:
        """An order was placed, and has taken its settings with it; one that is refused takes none."""
        for scope in [scope for scope in self._next if scope.fits(key, product)]:
            scope.times = (scope.times or 0) - 1
            if scope.times <= 0:
                self._next.remove(scope)

    def of(self, key: str, product: str | None = None, own: Mapping[str, Any] | None = None) -> Settings:
        """The settings of a call of this key, or of an order with its own settings."""
        by_key, by_product = self._keys.get(key), self._products.get(product or "")
        if not by_key and not by_product and not own:
            return self.base
        return replace(self.base, **{**(by_key or {}), **(by_product or {}), **(own or {})})


def checked(changes: Mapping[str, Any]) -> None:
    """Refuse switches that do not exist: a misspelt one would never make a test fail."""
    unknown = sorted(set(changes) - _NAMES)
    if unknown:
        raise ValueError(f"no such setting: {', '.join(unknown)}; there are {', '.join(sorted(_NAMES))}")

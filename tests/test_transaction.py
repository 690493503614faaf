"""The state machine of a transaction: every pair of state and body moves or is refused (RFC 9483 §3.5, §4)."""

import itertools

import pytest

from cmpd.asn1 import BodyType
from cmpd.errors import BadRequest, CertConfirmed, CMPError, TransactionIdInUse
from cmpd.exchange import TransactionState
from cmpd.handlers import HANDLERS
from cmpd.transaction import REQUESTS, SUPPORTED, TABLE, Event, expect

STATES: list[TransactionState | None] = [None, *TransactionState]
ENDED = [state for state in TransactionState if state not in {TransactionState.unconfirmed, TransactionState.waiting}]
ALLOWED = {
    (None, BodyType.ir): Event.begin,
    (None, BodyType.cr): Event.begin,
    (None, BodyType.p10cr): Event.begin,
    (None, BodyType.kur): Event.begin,
    (TransactionState.waiting, BodyType.pollReq): Event.poll,
    (TransactionState.unconfirmed, BodyType.certConf): Event.confirm,
    (TransactionState.unconfirmed, BodyType.error): Event.abandon,
}
"""Written out once more: all that is allowed. Whoever widens the table has to say so here too."""


@pytest.mark.parametrize(
    ("state", "body"), list(itertools.product(STATES, BodyType)), ids=lambda one: getattr(one, "name", "none")
)
def test_every_state_and_body(state: TransactionState | None, body: BodyType) -> None:
    allowed = ALLOWED.get((state, body))
    if allowed is not None:
        assert expect(state, body) is allowed
        return
    with pytest.raises(CMPError) as caught:
        expect(state, body)
    assert str(caught.value)
    assert isinstance(caught.value, BadRequest | TransactionIdInUse | CertConfirmed)


def test_every_state_has_its_row() -> None:
    assert set(TABLE) == set(STATES)


def test_everything_that_moves_has_a_handler_and_the_other_way_round() -> None:
    moving = {body for row in TABLE.values() for body in row}
    assert moving == set(HANDLERS) == SUPPORTED


@pytest.mark.parametrize("body", sorted(set(BodyType) - SUPPORTED))
@pytest.mark.parametrize("state", STATES)
def test_a_body_that_is_not_supported_is_bad_request_in_every_state(
    state: TransactionState | None, body: BodyType
) -> None:
    with pytest.raises(BadRequest, match="not supported"):
        expect(state, body)


@pytest.mark.parametrize("body", REQUESTS)
@pytest.mark.parametrize("state", TransactionState)
def test_a_request_under_a_transaction_id_in_use(state: TransactionState, body: BodyType) -> None:
    """RFC 9483 §3.6.4: transactionIdInUse."""
    with pytest.raises(TransactionIdInUse):
        expect(state, body)


def test_a_second_certconf_is_told_that_it_is_confirmed() -> None:
    """RFC 9810 §5.2.3: certConfirmed."""
    with pytest.raises(CertConfirmed):
        expect(TransactionState.confirmed, BodyType.certConf)


@pytest.mark.parametrize("state", ENDED)
def test_nothing_moves_a_transaction_that_has_ended(state: TransactionState) -> None:
    assert not TABLE[state]
    for body in BodyType:
        with pytest.raises(CMPError):
            expect(state, body)

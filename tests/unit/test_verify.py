"""What verifying offline says of the registration that a proof is bound to."""

from __future__ import annotations

from dataclasses import replace

from zkserve import verify
from zkserve.encoding import context, to_hex
from zkserve.engines.base import NO_CONTEXT
from zkserve.types import Settlement

SETTLEMENT = Settlement(
    chain_id=31337,
    registry="0x" + "12" * 20,
    market="0x" + "34" * 20,
    verifier="0x" + "56" * 20,
    version_id=7,
    request_id=1,
    transaction="0x" + "78" * 32,
    block=1,
    gas=1,
    callback_ok=True,
)
BOUND = context(31337, "0x" + "12" * 20, 7)


def test_the_registration_that_a_receipt_names_is_established_only_if_the_proof_is_for_it() -> None:
    established, caveats = verify._context_said(BOUND, SETTLEMENT)
    assert (len(established), caveats) == (1, ())
    assert "version 0x7 of registry 0x1212" in established[0]
    for other in (
        replace(SETTLEMENT, chain_id=1),
        replace(SETTLEMENT, registry="0x" + "13" * 20),
        replace(SETTLEMENT, version_id=8),
    ):
        established, caveats = verify._context_said(BOUND, other)
        assert established == ()
        assert "another registration" in caveats[0]


def test_a_proof_without_a_settlement_shows_what_it_is_bound_to() -> None:
    established, caveats = verify._context_said(BOUND, None)
    assert established == ()
    assert to_hex(BOUND) in caveats[0]


def test_a_proof_for_no_registration_is_said_to_be_one() -> None:
    for settlement in (None, SETTLEMENT):
        established, caveats = verify._context_said(NO_CONTEXT, settlement)
        assert established == ()
        assert "no registration" in caveats[0]


def test_of_an_engine_that_binds_nothing_nothing_is_said() -> None:
    assert verify._context_said(None, SETTLEMENT) == ((), ())

"""What runs in the children that check what others made: by the compiled core, or without it.

Bytes cross the seam as hex.
"""

from __future__ import annotations

from typing import Any

from zkserve.engines.native import core, steps
from zkserve.engines.native.groups import group
from zkserve.engines.native.input_key import InputKey
from zkserve.engines.native.protocol import registration, verifier
from zkserve.errors import ProofInvalid


def verify(
    *,
    description: str,
    srs_digest: str,
    g2_s: str,
    hidden: bool,
    weights: str,
    claimed_input: str,
    outputs: list[int],
    proof: str,
) -> bool:
    """Return whether a proof proves a claim, whatever context it is for."""
    claim: dict[str, Any] = {
        "srs_digest": bytes.fromhex(srs_digest),
        "g2_s": bytes.fromhex(g2_s),
        "context": None,
        "mode": int(hidden),
        "weights": bytes.fromhex(weights),
        "input": bytes.fromhex(claimed_input),
        "outputs": outputs,
        "proof": bytes.fromhex(proof),
    }
    if core.available():
        return bool(core.load().verify(bytes.fromhex(description), **claim))
    try:
        verifier.verify(bytes.fromhex(description), **claim)
    except ProofInvalid:
        return False
    return True


def verify_range(
    *,
    description: str,
    weight_bytes: int,
    srs_digest: str,
    g2_s: str,
    weights: str,
    proof: str,
) -> bool:
    """Return whether a range proof shows that committed weights are integers in their ranges."""
    circuit = bytes.fromhex(description)
    others = [bytes.fromhex(part) for part in (srs_digest, g2_s, weights, proof)]
    if core.available():
        return bool(core.load().verify_range(circuit, weight_bytes, *others))
    try:
        registration.verify_registration(circuit, weight_bytes, *others)
    except ProofInvalid:
        return False
    return True


def input_commitment(*, input_key: str, g2_s: str, k: int, cells: list[int], blind: str) -> str:
    """Return the commitment of an opening after checking the input key.

    Raises:
        BundleMismatch: the key is not that of the SRS.

    """
    key = InputKey.decode(bytes.fromhex(input_key), size=len(cells))
    computed_with = group(steps.threads())
    key.check(k, bytes.fromhex(g2_s), computed_with)
    return key.commit(cells, int(blind, 16), computed_with).hex()

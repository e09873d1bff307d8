"""Canonical bytes: what is hashed, signed or compared is encoded here and nowhere else.

Two digests are used. Artifacts and circuit ids are SHA-256. What a contract recomputes (claim
digests, request digests) is Keccak-256 over the Solidity ABI encoding.

Worked example of a claim digest, also a test vector that Solidity reads::

    circuit_id  0x11…11   weights 0x22…22   input 0x0102   outputs (76, -77)
    keccak256(abi.encode(
        keccak256("zkserve/claim/v1"), circuit_id, weights,
        keccak256(0x0102), keccak256(abi.encodePacked(int256(76), int256(-77)))))
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from zkserve.errors import InvalidInput
from zkserve.types import FIELD_MODULUS as FIELD_MODULUS
from zkserve.types import Agreement, CircuitManifest, Claim, TensorSpec

CIRCUIT_TAG = b"zkserve/circuit/v1"
CLAIM_TAG = bytes.fromhex("8dcec6638bfea0646e02ac6fd804609a2e64fd3c9af0ffb05b7a41d6187d0de7")
"""Keccak-256 of ``zkserve/claim/v1``."""
CONTEXT_TAG = bytes.fromhex("c1cf5249b248a6e089df6fbe72c6ed73b1f8f3ec664cb7d18280b4971c127b87")
"""Keccak-256 of ``zkserve/native/context/v1``."""
OUTPUT_BOUND = 1 << 127
"""Quantised outputs lie strictly between minus and plus this."""


def sha256_hex(data: bytes) -> str:
    """Return the lower-case SHA-256 hex of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the lower-case SHA-256 hex of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return compact UTF-8 JSON with sorted keys; floats and NaN are the caller's affair."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def parse_json(data: bytes | str) -> Any:
    """Read JSON that somebody else wrote.

    Unlike ``json.loads`` it bounds nesting by itself: a library of the chain stack raises Python's
    recursion limit so far that a deeply nested document would crash the process.

    Raises:
        ValueError: it is not JSON, too deep, or holds NaN or infinity.

    """
    value = from_json(data, allow_inf_nan=False)
    canonical_json(value)  # refuses infinity, as which the parser reads 1e400
    return value


def _prefixed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def bytes32(value: str) -> bytes:
    """Decode ``0x`` and 64 hex digits.

    Raises:
        InvalidInput: ``value`` has another form.

    """
    if not (value.startswith("0x") and len(value) == 66):
        raise InvalidInput(f"Expected 0x and 64 hex digits, got {value[:80]!r}.")
    return hex_bytes(value)


def hex_bytes(value: str) -> bytes:
    """Decode ``0x``-prefixed hex of any even length, strictly.

    Raises:
        InvalidInput: ``value`` has another form.

    """
    digits = value[2:]
    if not value.startswith("0x") or len(digits) % 2 or not set(digits) <= set("0123456789abcdef"):
        raise InvalidInput(f"Expected 0x and lower-case hex, got {value[:80]!r}.")
    return bytes.fromhex(digits)


def to_hex(data: bytes) -> str:
    """Return ``0x``-prefixed lower-case hex."""
    return "0x" + data.hex()


def circuit_id(manifest: CircuitManifest) -> str:
    """Return the id of a circuit: SHA-256 over all that decides what is proved or how it is read.

    Layout: the tag, then each part with its length as 8 bytes, big-endian: engine, engine version,
    input mode, weights mode, weights commitment (32 bytes), output multiplier (8 bytes), output
    shift (1 byte), development SRS (1 byte, 0 or 1), the canonical JSON of ``{"inputs": [tensor…],
    "output": tensor, "parameters": {…}}`` with tensors as ``{"name", "shape", "dtype"}``, and for
    each pin in ascending order of its name, the name and its digest (32 bytes).
    """
    interface = {
        "inputs": [tensor_to_dict(spec) for spec in manifest.inputs],
        "output": tensor_to_dict(manifest.output),
        "parameters": dict(manifest.parameters),
    }
    parts = [
        manifest.engine.encode(),
        manifest.engine_version.encode(),
        manifest.input_mode.value.encode(),
        manifest.weights_mode.value.encode(),
        bytes32(manifest.weights),
        manifest.output_scale.multiplier.to_bytes(8, "big"),
        manifest.output_scale.shift.to_bytes(1, "big"),
        bytes([manifest.development_srs]),
        canonical_json(interface),
    ]
    for name in sorted(manifest.pins):
        parts += [name.encode(), bytes.fromhex(manifest.pins[name])]
    return "0x" + hashlib.sha256(CIRCUIT_TAG + _prefixed(*parts)).hexdigest()


def proof_system_id(engine: str, engine_version: str) -> bytes:
    """Return what a registry calls a proof system: Keccak-256 of ``<engine>/<engine version>``."""
    return keccak(f"{engine}/{engine_version}".encode())


def context(chain_id: int, registry: str, version_id: int) -> bytes:
    """Return the 32 bytes that name a registered version: what a proof for it can be bound to.

    Keccak-256 over the tag and three words: chain id, registry (left-padded), version id.
    """
    words = (chain_id, int(registry, 16), version_id)
    return keccak(CONTEXT_TAG + b"".join(word.to_bytes(32, "big") for word in words))


def identified(manifest: CircuitManifest) -> CircuitManifest:
    """Return a manifest with the circuit id that its contents give."""
    return replace(manifest, circuit_id=circuit_id(manifest))


def tensor_to_dict(spec: TensorSpec) -> dict[str, Any]:
    """Return the JSON form of a tensor's description."""
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def agreement_ppb(agreement: Agreement | None) -> int:
    """Return the largest difference from the float model in billionths, as the registry has it.

    Rounded up; ``2**64 - 1`` where it was not measured, or is larger than that.
    """
    unknown = (1 << 64) - 1
    return unknown if agreement is None else min(math.ceil(agreement.max_abs * 10**9), unknown)


def pack_outputs(outputs: Sequence[int]) -> bytes:
    """Return the outputs as 32-byte two's complement words (Solidity's packed ``int256[]``).

    Raises:
        InvalidInput: an output is not within ``±2**127``.

    """
    for value in outputs:
        if not -OUTPUT_BOUND < value < OUTPUT_BOUND:
            raise InvalidInput(f"Output {value} is outside ±2**127.")
    return b"".join(value.to_bytes(32, "big", signed=True) for value in outputs)


def keccak(data: bytes) -> bytes:
    """Return the Keccak-256 digest of bytes."""
    # Late: a child that proves hashes nothing so, and loading this is a tenth of a small proof.
    from eth_utils.crypto import keccak as digest

    return digest(data)


def claim_digest(claim: Claim) -> str:
    """Return the Keccak-256 digest that names a claim, as ``Claims.digest`` does in Solidity."""
    return to_hex(
        keccak(
            CLAIM_TAG
            + bytes32(claim.circuit_id)
            + bytes32(claim.weights)
            + keccak(claim.input)
            + keccak(pack_outputs(claim.outputs))
        )
    )

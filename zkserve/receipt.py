"""Receipts and manifests as JSON: strict to read, canonical to write.

A receipt is one engine-neutral envelope. Everything derived in it (claim digest, real values) is
for readers' convenience and recomputed on reading; a receipt that contradicts itself is refused.

Worked example (shortened)::

    {"format": "zkserve/receipt/v1",
     "claim": {"circuit_id": "0x…", "weights": "0x…", "input": "0x…", "outputs": ["76", "-77"]},
     "claim_digest": "0x…", "values": [0.296875, -0.30078125],
     "engine": {"name": "ezkl", "version": "23.0.5"},
     "model": {"name": "breast_cancer", "version": 1},
     "output_scale": {"multiplier": 1, "shift": 8},
     "development_srs": true, "proof": "0x…", "settlement": null}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zkserve.encoding import (
    OUTPUT_BOUND,
    canonical_json,
    circuit_id,
    claim_digest,
    hex_bytes,
    tensor_to_dict,
    to_hex,
)
from zkserve.errors import BundleMismatch, InvalidInput, ProofInvalid
from zkserve.types import (
    Agreement,
    CircuitManifest,
    Claim,
    InputMode,
    LeakBudget,
    Receipt,
    Scale,
    Settlement,
    TensorSpec,
    WeightsMode,
)

RECEIPT_FORMAT = "zkserve/receipt/v1"
MANIFEST_FORMAT = "zkserve/manifest/v1"

_Bytes32 = Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]
_Hex = Annotated[str, Field(pattern=r"^0x([0-9a-f]{2})*$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Integer = Annotated[str, Field(pattern=r"^(0|-?[1-9][0-9]{0,38})$")]


_T = TypeVar("_T", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class _Scale(_Strict):
    multiplier: int = Field(ge=1, lt=1 << 64)
    shift: int = Field(ge=0, lt=128)


class _Claim(_Strict):
    circuit_id: _Bytes32
    weights: _Bytes32
    input: _Hex
    outputs: list[_Integer]


class _Engine(_Strict):
    name: str
    version: str


class _Model(_Strict):
    name: str
    version: int = Field(ge=1)


class _Settlement(_Strict):
    chain_id: int = Field(ge=0)
    registry: str = Field(pattern=r"^0x[0-9a-fA-F]{40}$")
    market: str = Field(pattern=r"^0x[0-9a-fA-F]{40}$")
    verifier: str = Field(pattern=r"^0x[0-9a-fA-F]{40}$")
    version_id: _Bytes32
    request_id: int = Field(ge=0)
    transaction: _Bytes32
    block: int = Field(ge=0)
    gas: int = Field(ge=0)
    callback_ok: bool


class _Receipt(_Strict):
    format: Literal["zkserve/receipt/v1"]
    claim: _Claim
    claim_digest: _Bytes32
    values: list[float]
    engine: _Engine
    model: _Model
    output_scale: _Scale
    development_srs: bool
    proof: _Hex
    settlement: _Settlement | None


class _Tensor(_Strict):
    name: str
    shape: list[Annotated[int, Field(gt=0)]]
    dtype: str


class _Agreement(_Strict):
    samples: int
    max_abs: float
    mean_abs: float
    top1: float
    float_accuracy: float | None
    circuit_accuracy: float | None


class _Leak(_Strict):
    bits_per_proof: int = Field(gt=0)
    secret_bits: int = Field(ge=0)
    proofs: int = Field(ge=0)


class _Manifest(_Strict):
    format: Literal["zkserve/manifest/v1"]
    circuit_id: _Bytes32
    engine: _Engine
    # JSON knows strings, not enums
    input_mode: Annotated[InputMode, Field(strict=False)]
    weights_mode: Annotated[WeightsMode, Field(strict=False)]
    weights: _Bytes32
    inputs: list[_Tensor]
    output: _Tensor
    output_scale: _Scale
    pins: dict[str, _Sha256]
    public: list[str]
    development_srs: bool
    rows: int
    parameters: dict[str, int]
    facts: dict[str, int | float | str]
    agreement: _Agreement | None
    leak: _Leak | None = None


def _parse(kind: type[_T], what: str, data: Mapping[str, Any]) -> _T:
    try:
        return kind.model_validate(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or what
        raise InvalidInput(
            f"{what} is malformed at {where}: {first['msg']}.",
            remedy=f"Use the {what} unchanged, as zkserve issued it.",
        ) from exc


def claim_to_dict(claim: Claim) -> dict[str, Any]:
    """Return the JSON form of a claim; integers are decimal strings."""
    return {
        "circuit_id": claim.circuit_id,
        "weights": claim.weights,
        "input": to_hex(claim.input),
        "outputs": [str(value) for value in claim.outputs],
    }


def claim_from_dict(data: Mapping[str, Any]) -> Claim:
    """Read a claim strictly.

    Raises:
        InvalidInput: a field is missing, unknown or not canonical.

    """
    return _claim(_parse(_Claim, "claim", data))


def _claim(raw: _Claim) -> Claim:
    outputs = tuple(int(value) for value in raw.outputs)
    if any(abs(value) >= OUTPUT_BOUND for value in outputs):
        raise InvalidInput("The claim holds an output outside ±2**127.")
    return Claim(
        circuit_id=raw.circuit_id,
        weights=raw.weights,
        input=hex_bytes(raw.input),
        outputs=outputs,
    )


def receipt_to_dict(receipt: Receipt) -> dict[str, Any]:
    """Return the JSON form of a receipt, with what readers like to have derived."""
    settlement = None
    if receipt.settlement is not None:
        settlement = asdict(receipt.settlement)
        settlement["version_id"] = f"0x{receipt.settlement.version_id:064x}"
    return {
        "format": RECEIPT_FORMAT,
        "claim": claim_to_dict(receipt.claim),
        "claim_digest": claim_digest(receipt.claim),
        "values": [receipt.output_scale.to_real(value) for value in receipt.claim.outputs],
        "engine": {"name": receipt.engine, "version": receipt.engine_version},
        "model": {"name": receipt.model, "version": receipt.version},
        "output_scale": asdict(receipt.output_scale),
        "development_srs": receipt.development_srs,
        "proof": to_hex(receipt.proof),
        "settlement": settlement,
    }


def receipt_from_dict(data: Mapping[str, Any]) -> Receipt:
    """Read a receipt strictly and check that what is derived in it follows from the rest.

    Raises:
        InvalidInput: it is malformed.
        ProofInvalid: its claim digest or values contradict its claim.

    """
    raw = _parse(_Receipt, "receipt", data)
    claim = _claim(raw.claim)
    scale = Scale(multiplier=raw.output_scale.multiplier, shift=raw.output_scale.shift)
    if raw.claim_digest != claim_digest(claim):
        raise ProofInvalid("The receipt's claim digest does not follow from its claim.")
    if raw.values != [scale.to_real(value) for value in claim.outputs]:
        raise ProofInvalid("The receipt's values do not follow from its outputs.")
    settlement = None
    if raw.settlement is not None:
        fields = raw.settlement.model_dump()
        fields["version_id"] = int(fields["version_id"], 16)
        settlement = Settlement(**fields)
    return Receipt(
        claim=claim,
        proof=hex_bytes(raw.proof),
        engine=raw.engine.name,
        engine_version=raw.engine.version,
        model=raw.model.name,
        version=raw.model.version,
        output_scale=scale,
        development_srs=raw.development_srs,
        settlement=settlement,
    )


def manifest_to_dict(manifest: CircuitManifest) -> dict[str, Any]:
    """Return the JSON form of a manifest; ``leak`` is there only where proofs reveal something."""
    leak = {"leak": asdict(manifest.leak)} if manifest.leak else {}
    return leak | {
        "format": MANIFEST_FORMAT,
        "circuit_id": manifest.circuit_id,
        "engine": {"name": manifest.engine, "version": manifest.engine_version},
        "input_mode": manifest.input_mode.value,
        "weights_mode": manifest.weights_mode.value,
        "weights": manifest.weights,
        "inputs": [tensor_to_dict(spec) for spec in manifest.inputs],
        "output": tensor_to_dict(manifest.output),
        "output_scale": asdict(manifest.output_scale),
        "pins": dict(sorted(manifest.pins.items())),
        "public": sorted(manifest.public),
        "development_srs": manifest.development_srs,
        "rows": manifest.rows,
        "parameters": dict(sorted(manifest.parameters.items())),
        "facts": dict(sorted(manifest.facts.items())),
        "agreement": asdict(manifest.agreement) if manifest.agreement else None,
    }


def manifest_bytes(manifest: CircuitManifest) -> bytes:
    """Return a manifest as canonical JSON bytes."""
    return canonical_json(manifest_to_dict(manifest))


def manifest_from_dict(data: Mapping[str, Any]) -> CircuitManifest:
    """Read a manifest strictly and recompute its circuit id.

    Raises:
        InvalidInput: it is malformed.
        BundleMismatch: its circuit id does not follow from its contents.

    """
    raw = _parse(_Manifest, "manifest", data)
    manifest = CircuitManifest(
        circuit_id=raw.circuit_id,
        engine=raw.engine.name,
        engine_version=raw.engine.version,
        input_mode=raw.input_mode,
        weights_mode=raw.weights_mode,
        weights=raw.weights,
        inputs=tuple(_tensor(spec) for spec in raw.inputs),
        output=_tensor(raw.output),
        output_scale=Scale(multiplier=raw.output_scale.multiplier, shift=raw.output_scale.shift),
        pins=MappingProxyType(dict(raw.pins)),
        public=frozenset(raw.public),
        development_srs=raw.development_srs,
        rows=raw.rows,
        parameters=MappingProxyType(dict(raw.parameters)),
        facts=MappingProxyType(dict(raw.facts)),
        agreement=Agreement(**raw.agreement.model_dump()) if raw.agreement else None,
        leak=LeakBudget(**raw.leak.model_dump()) if raw.leak else None,
    )
    if manifest.weights_mode.leaks and manifest.leak is None:
        raise BundleMismatch("The manifest's weights mode leaks, and it states no budget.")
    if manifest.circuit_id != circuit_id(manifest):
        raise BundleMismatch(
            "The manifest's circuit id does not follow from its contents.",
            remedy="Fetch the manifest again from the model's owner.",
        )
    if not manifest.public <= manifest.pins.keys():
        raise BundleMismatch("The manifest calls an artifact public that it does not pin.")
    return manifest


def _tensor(raw: _Tensor) -> TensorSpec:
    return TensorSpec(name=raw.name, shape=tuple(raw.shape), dtype=raw.dtype)

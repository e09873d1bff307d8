"""The domain in frozen dataclasses: no I/O, no third-party types.

Digests are lower-case SHA-256 hex (64 characters) for artifacts and ``0x``-prefixed 32-byte hex
for what is also spoken of on chain (circuit ids, commitments, claim digests).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

FIELD_MODULUS = 21888242871839275222246405745257275088548364400416034343698204186575808495617
"""Order of the BN254 scalar field, in which circuits compute."""

CODE_LIMIT_BYTES = 24_576
"""EIP-170: no deployed code is larger."""


class InputMode(StrEnum):
    """What a claim shows of the input."""

    PUBLIC = "public"
    """The packed quantised input itself."""
    COMMITTED = "committed"
    """A salted commitment that the circuit checks; the input stays off the chain."""


class WeightsMode(StrEnum):
    """How a proof is tied to the weights, and what it shows of them."""

    HASHED = "hashed"
    """Bound by a hash that the circuit recomputes and the claim carries; in blinded columns, though
    not wholly hidden: ezkl's proofs tell how often digits occur (docs/weights-leak.md).
    The hash is unsalted: who guesses every weight exactly can confirm the guess."""
    COMMITTED = "committed"
    """Bound by a commitment with fresh randomness, whose digest the claim carries; hidden, however
    many proofs are made under it. It confirms no guess; answers to known inputs still may."""
    FIXED = "fixed"
    """Bound as constants of the verifying key, whose digest the claim carries. **Not hidden for
    long**: each proof reveals evaluations of polynomials made of the weights (LeakBudget)."""
    POLYCOMMIT = "polycommit"
    """Bound by a polynomial commitment that each proof begins with, and whose digest the claim
    carries. **Not hidden for long**: as FIXED, with fewer evaluations a proof (LeakBudget)."""

    @property
    def leaks(self) -> bool:
        """Whether each proof reveals something of the weights, so that proofs must be counted."""
        return self in {WeightsMode.FIXED, WeightsMode.POLYCOMMIT}


class JobState(StrEnum):
    """Where a ProofJob stands; guide: docs/concepts.md."""

    ACCEPTED = "accepted"
    AWAITING_INPUT = "awaiting_input"
    PROVING = "proving"
    RETRY = "retry"
    VERIFIED = "verified"
    STORED = "stored"
    SIGNED = "signed"
    BROADCAST = "broadcast"
    MINED = "mined"
    DONE = "done"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self in {JobState.DONE, JobState.CANCELLED, JobState.EXPIRED, JobState.FAILED}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One named tensor: ``shape`` has no free dimension; ``dtype`` is an Open Inference name."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "FP32"

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for dimension in self.shape:
            size *= dimension
        return size

    def batched(self, count: int) -> TensorSpec:
        """Return the tensor of ``count`` samples at once: in the first dimension if that is 1."""
        if count == 1:
            return self
        rest = self.shape[1:] if self.shape[:1] == (1,) else self.shape
        return TensorSpec(name=self.name, shape=(count, *rest), dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A fixed-point unit: the real value is ``integer * multiplier / 2**shift``.

    Bounds: ``1 <= multiplier < 2**64`` and ``0 <= shift < 128``. Example: ezkl's scale 8 is
    ``Scale(multiplier=1, shift=8)``, in which the integer 76 stands for 0.296875.
    """

    multiplier: int = 1
    shift: int = 0

    def to_real(self, integer: int) -> float:
        """Return the real value of a quantised integer."""
        return integer * self.multiplier / (1 << self.shift)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the circuit's integers are from the float model, on samples held out of calibration.

    ``max_abs`` and ``mean_abs`` are in the float model's own output units over all outputs of
    ``samples`` inputs; ``top1`` is the share of inputs whose decision is unchanged (argmax, or the
    sign of a single output). ``float_accuracy`` and ``circuit_accuracy`` are present where the
    held-out samples carry labels.
    """

    samples: int
    max_abs: float
    mean_abs: float
    top1: float
    float_accuracy: float | None = None
    circuit_accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class LeakBudget:
    """How many proofs may be made where each reveals something of the weights.

    ``bits_per_proof`` is 254 for each evaluation in a proof of an unblinded polynomial that depends
    on the weights; ``secret_bits`` is what the weights that answers depend on hold, once quantised;
    ``proofs`` is the share of the secret that may be spent, in whole proofs. Proofs of all versions
    that share weights count together.
    """

    bits_per_proof: int
    secret_bits: int
    proofs: int

    @property
    def bits(self) -> int:
        """Bits that may be revealed."""
        return self.bits_per_proof * self.proofs

    @property
    def exposing_proofs(self) -> int:
        """How many proofs an attacker needs at least to have as many bits as the secret."""
        return -(-self.secret_bits // self.bits_per_proof)


@dataclass(frozen=True, kw_only=True)
class CircuitManifest:
    """Public description of a Circuit: everything that decides what is proved, by digest.

    All but ``public``, ``rows``, ``facts``, ``agreement`` and ``leak`` goes into ``circuit_id``
    (see :func:`zkserve.encoding.circuit_id`). ``pins`` maps artifact names to SHA-256 hex;
    ``public`` names the pins whose files anyone may download. Of the others, some hold the weights
    (the compiled model, the proving key) and some are only large (the SRS).
    """

    circuit_id: str
    engine: str
    engine_version: str
    input_mode: InputMode
    weights_mode: WeightsMode
    weights: str
    """The weights commitment, 0x-prefixed 32 bytes."""
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    output_scale: Scale
    pins: Mapping[str, str]
    public: frozenset[str]
    development_srs: bool
    rows: int
    """Rows of the circuit before padding to a power of two."""
    parameters: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """What the engine needs to read claims and openings; part of the circuit id.

    ``batch``, where it is there, is the number of samples that one claim is about, else it is 1.
    """
    facts: Mapping[str, int | float | str] = field(default_factory=lambda: MappingProxyType({}))
    """What the engine measured and readers want to know (setup_s, pk_bytes); decides nothing."""
    agreement: Agreement | None = None
    leak: LeakBudget | None = None
    """Where proofs reveal something of the weights. The owner keeps to it; no proof shows it."""

    @property
    def batch(self) -> int:
        """Samples that one claim is about; inputs and output have the shape of all of them."""
        return self.parameters.get("batch", 1)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a proof proves: the circuit, with these weights, maps this input to these outputs.

    ``input`` is the packed public input or the 32-byte commitment, as ``InputMode`` says; its
    packing is the engine's. ``outputs`` are quantised signed integers, ``|y| < 2**127`` (an engine
    may bound them tighter), in row-major order; the manifest's ``output_scale`` gives their unit.
    """

    circuit_id: str
    weights: str
    input: bytes
    outputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """Where a claim was settled on a chain. Recheck it there: it is a pointer, not evidence."""

    chain_id: int
    registry: str
    market: str
    verifier: str
    version_id: int
    request_id: int
    transaction: str
    block: int
    gas: int
    callback_ok: bool


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A claim and the proof of it, portable and engine-neutral ("proven prediction")."""

    claim: Claim
    proof: bytes
    engine: str
    engine_version: str
    model: str
    version: int
    output_scale: Scale
    development_srs: bool
    settlement: Settlement | None = None

"""What every proof system offers: compile, set up, predict, prove, verify, export a verifier.

An engine knows no jobs, no HTTP and no chains. Everything it makes lies in plain files under
names of its own choosing; the manifest pins each by SHA-256 and says which are public.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, TypeAlias

from zkserve.engines.cost import Estimate
from zkserve.types import CircuitManifest, Claim, InputMode, WeightsMode

if TYPE_CHECKING:  # a child that proves a small circuit is done before NumPy is loaded
    import numpy as np
    from numpy.typing import NDArray

Progress = Callable[[str], None]
"""Called with a short phrase as work moves on: "compiling", "setting up"."""
Cancelled = Callable[[], bool]
"""Polled about ten times a second; returning True stops the child at once."""

FloatArray: TypeAlias = "NDArray[np.float32]"

NO_CONTEXT = bytes(32)
"""What a proof is bound to where its version is registered on no chain."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on one child process.

    ``memory_bytes`` bounds resident memory, not address space; of a confined child it also bounds
    what it holds in files.
    """

    time_s: float = 900.0
    memory_bytes: int = 16 << 30


@dataclass(frozen=True, kw_only=True)
class CircuitPlan:
    """What the owner asks of a circuit; ``options`` are the engine's own, from the recipe."""

    input_mode: InputMode
    weights_mode: WeightsMode
    options: Mapping[str, int | float | str | bool] = field(
        default_factory=lambda: MappingProxyType({})
    )


@dataclass(frozen=True, kw_only=True)
class Srs:
    """A structured reference string on disk; ``development`` ones have a known secret."""

    path: Path
    sha256: str
    development: bool


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A manifest and its files by artifact name: all of them for the owner, the public for others.

    The engine refuses a file whose SHA-256 differs from the manifest's pin, and an engine version
    other than the manifest's, with :class:`zkserve.errors.BundleMismatch`.
    """

    manifest: CircuitManifest
    files: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A claim not yet proven, and the ``opening`` of its input.

    The opening is canonical JSON bytes, private to whoever sent the input: the quantised input and
    the salt. With it the engine can prove the claim, and its holder can check the commitment.
    """

    claim: Claim
    opening: bytes


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Verified proof bytes and what making them cost."""

    data: bytes
    prove_s: float
    prove_cpu_s: float
    peak_rss_bytes: int


class Engine(Protocol):
    """One proof system. All methods block; heavy ones run in a killable child of their own."""

    name: str
    version: str
    weights_mode: WeightsMode
    """What a plan asks for where its recipe says nothing."""
    weights_modes: tuple[WeightsMode, ...]
    """What a plan may ask for."""
    verifying_key: str
    """The artifact that the verifier contract is made from; registries hold its digest."""
    leak_warning: str
    """What its proofs tell in every weights mode that no budget counts, in sentences; or ""."""

    def unsupported(
        self, model: Path, *, limits: Limits = ..., cancelled: Cancelled = ...
    ) -> tuple[str, ...]:
        """Return why an untrusted ONNX file cannot be proved here, a sentence each.

        Empty if it can.

        It looks at the model's form only: :meth:`compile` may still refuse what it finds inside.
        """
        ...

    def estimate(
        self,
        model: Path,
        plan: CircuitPlan,
        calibration: Path | None,
        *,
        limits: Limits = ...,
        cancelled: Cancelled = ...,
    ) -> Estimate:
        """Return what the circuit of an untrusted ONNX file would cost; nothing is made or kept.

        ``calibration`` is a ``.npy`` file of what :meth:`compile` takes, or None: drawn numbers
        stand in for samples.

        Raises:
            ModelRejected: the model is broken, too large, or uses what the engine cannot prove.
            RecipeInvalid: the plan asks for what the engine does not offer.

        """
        ...

    def compile(
        self,
        model: Path,
        plan: CircuitPlan,
        calibration: FloatArray,
        out: Path,
        *,
        limits: Limits = ...,
        progress: Progress = ...,
        cancelled: Cancelled = ...,
    ) -> int:
        """Compile an untrusted ONNX file into ``out``; return log2 of the SRS length needed.

        ``calibration`` has shape ``(samples, elements)``: each row is all the inputs of the model,
        flattened and joined in graph order.

        Raises:
            ModelRejected: the model is broken, too large, or uses what the engine cannot prove.

        """
        ...

    def development_srs(self, log_size: int, out: Path, *, limits: Limits = ...) -> Srs:
        """Make an SRS whose secret this machine knew: never for production."""
        ...

    def setup(
        self,
        compiled: Path,
        srs: Srs,
        *,
        limits: Limits = ...,
        progress: Progress = ...,
        cancelled: Cancelled = ...,
    ) -> Bundle:
        """Make the keys in ``compiled`` (a folder that :meth:`compile` filled) and pin them all."""
        ...

    def reproducible(self, manifest: CircuitManifest) -> Mapping[str, str]:
        """Return what of a circuit the same model, options and samples give again, by name.

        Keys are drawn anew at each setup, and commitments with randomness in them too.
        """
        ...

    def predict(
        self, bundle: Bundle, inputs: FloatArray, *, salt: bytes | None = None
    ) -> Prediction:
        """Run the circuit's own integer arithmetic; fast (a warm child, milliseconds).

        ``inputs`` has shape ``(elements,)``. ``salt`` (32 bytes) is drawn from the operating system
        where the input mode is ``committed`` and none is given.

        Raises:
            InputOutOfRange: proving this input would fail.

        """
        ...

    def reopen(self, bundle: Bundle, opening: bytes) -> Prediction:
        """Return the prediction that an opening came with: same input, same salt, same claim.

        Raises:
            ProofInvalid: it is not an opening of this circuit.
            InputOutOfRange: proving this input would fail.

        """
        ...

    def prove(
        self,
        bundle: Bundle,
        claim: Claim,
        opening: bytes,
        *,
        context: bytes = ...,
        limits: Limits = ...,
        progress: Progress = ...,
        cancelled: Cancelled = ...,
    ) -> Proof:
        """Prove ``claim`` and verify the proof before it leaves.

        ``context`` (32 bytes, see :func:`zkserve.encoding.context`) names the registered version
        that the proof is for; an engine whose proofs are bound to none ignores it.

        Raises:
            ProofInvalid: the opening does not give this claim, or the proof came out wrong.
            ChildKilled, ChildTimeout, JobCancelled: the child ended early.

        """
        ...

    def verify(self, bundle: Bundle, claim: Claim, proof: bytes, *, limits: Limits = ...) -> None:
        """Return if ``proof`` proves ``claim`` under the public files of ``bundle``.

        A proof of any context is accepted: :meth:`context_of` says which it is.

        Raises:
            ProofInvalid: it does not.
            BundleMismatch: the files are not the pinned ones.

        """
        ...

    def context_of(self, proof: bytes) -> bytes | None:
        """Return the context that a verified proof is bound to; None: its engine binds none."""
        ...

    def caveats(self, bundle: Bundle) -> tuple[str, ...]:
        """Return what a valid proof of this circuit does not show, a sentence each.

        ``bundle`` needs only public files. What a manifest marks as a development SRS is said by
        whoever asks.

        Raises:
            BundleMismatch: a file that this is read from is not the pinned one.

        """
        ...

    def unpack_input(self, bundle: Bundle, packed: bytes) -> FloatArray:
        """Return the real values, shape ``(elements,)``, behind a packed public input.

        ``bundle`` needs only public files. Predicting from the values gives a claim with the same
        packed input.

        Raises:
            InvalidInput: ``packed`` is not a canonical input of this circuit.

        """
        ...

    def check_opening(self, bundle: Bundle, claim: Claim, opening: bytes) -> list[float]:
        """Return the dequantised input if ``opening`` is what ``claim.input`` shows or commits to.

        ``bundle`` needs only public files.

        Raises:
            ProofInvalid: it is not.
            BundleMismatch: the files are not the pinned ones.

        """
        ...

    def export_verifier(self, bundle: Bundle) -> str:
        """Return self-contained Solidity source of the circuit's verifier."""
        ...

    def check_verifier(self, bundle: Bundle, *, limits: Limits = ...) -> None:
        """Make the verifier's source anew from the public files and compare with the pinned one.

        Raises:
            BundleMismatch: the pinned source does not verify this circuit, or was altered.

        """
        ...

    def check_model(self, bundle: Bundle, *, limits: Limits = ...) -> bool:
        """Compile the private ONNX model again and compare; whether the bundle has what that takes.

        Where it is False nothing was checked: private files are missing, or the engine's circuits
        have randomness in them and never come out alike.

        Raises:
            BundleMismatch: another circuit comes out.

        """
        ...

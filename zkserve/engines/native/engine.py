"""The native engine: folders, pins, claims and limits; the work is done in children."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from zkserve.encoding import bytes32, canonical_json, sha256_file, to_hex
from zkserve.engines.agreement import join_samples
from zkserve.engines.base import (
    NO_CONTEXT,
    Bundle,
    Cancelled,
    CircuitPlan,
    FloatArray,
    Limits,
    Prediction,
    Progress,
    Proof,
    Srs,
)
from zkserve.engines.child import never_cancelled, no_progress, run_child
from zkserve.engines.cost import Estimate
from zkserve.engines.native import core
from zkserve.engines.native.circuit import NAME, VERSION, Circuit
from zkserve.engines.native.claims import (
    CONTEXT_BYTES,
    check_claim,
    check_length,
    claim_of,
)
from zkserve.engines.native.folder import MODEL, PLAN, SAMPLES, seal
from zkserve.engines.native.inputs import Opening, blind_of, pack, tile_cells, unpack
from zkserve.engines.native.options import Options
from zkserve.engines.native.protocol.transcript import hidden_input_digest
from zkserve.engines.sandbox import Reach
from zkserve.engines.srs import load_srs, mark_development
from zkserve.engines.warm import WarmChildren
from zkserve.errors import BundleMismatch, InvalidInput, ProofInvalid, RecipeInvalid
from zkserve.types import CircuitManifest, Claim, InputMode, WeightsMode

STEPS = "zkserve.engines.native.steps:"
CHECKING = "zkserve.engines.native.checking:"
BUILDING = "zkserve.engines.native.building:"
ESTIMATING = "zkserve.engines.native.estimating:"
HEAVY_NICENESS = 5
CALIBRATION_SAMPLES = 2000
VERIFY_LIMITS = Limits(time_s=300.0, memory_bytes=4 << 30)
_DEFAULT_LIMITS = Limits()
_IDLE_PROVERS = 2
_IDLE_OTHERS = 4


class NativeEngine:
    """Quantised networks proved by the protocol of ``docs/native-protocol.md``; thread-safe."""

    name = NAME
    version = VERSION
    weights_mode = WeightsMode.COMMITTED
    weights_modes: tuple[WeightsMode, ...] = (WeightsMode.COMMITTED,)
    verifying_key = "description"
    leak_warning = ""

    def __init__(self) -> None:
        self._provers = WarmChildren(idle=_IDLE_PROVERS, niceness=HEAVY_NICENESS)
        self._others = WarmChildren(idle=_IDLE_OTHERS)
        self._ranges_checked: set[str] = set()

    def unsupported(
        self,
        model: Path,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        cancelled: Cancelled = never_cancelled,
    ) -> tuple[str, ...]:
        """Return what keeps a model from this engine; see :meth:`Engine.unsupported`."""
        if not core.available():
            return ("The native engine's compiled core is not installed here.",)
        answer = run_child(
            BUILDING + "unsupported",
            limits=limits,
            cancelled=cancelled,
            reach=Reach(readable=(model.resolve(),)),
            model=str(model.resolve()),
        )
        return tuple(answer.value)

    def estimate(
        self,
        model: Path,
        plan: CircuitPlan,
        calibration: Path | None,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        cancelled: Cancelled = never_cancelled,
    ) -> Estimate:
        """Compile, write the verifier and keep neither; see :meth:`Engine.estimate`."""
        read = [path.resolve() for path in (model, calibration) if path is not None]
        answer = run_child(
            ESTIMATING + "estimate",
            limits=limits,
            cancelled=cancelled,
            niceness=HEAVY_NICENESS,
            reach=Reach(readable=tuple(read)),
            model=str(read[0]),
            calibration=str(read[1]) if len(read) > 1 else None,
            options=asdict(_options(plan)),
            hidden=plan.input_mode is InputMode.COMMITTED,
        )
        return Estimate.from_dict(answer.value)

    def compile(
        self,
        model: Path,
        plan: CircuitPlan,
        calibration: FloatArray,
        out: Path,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        progress: Progress = no_progress,
        cancelled: Cancelled = never_cancelled,
    ) -> int:
        """Compile an untrusted ONNX file into ``out``; see :meth:`Engine.compile`."""
        options = _options(plan)
        if calibration.ndim != 2 or not len(calibration) or not np.isfinite(calibration).all():
            raise InvalidInput(
                f"Calibration samples have shape {calibration.shape}; expected finite numbers of "
                "shape (samples, elements), at least one sample."
            )
        chosen = np.linspace(0, len(calibration) - 1, CALIBRATION_SAMPLES).astype(int)
        samples = calibration[np.unique(chosen)].astype(np.float32)
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(model, out / MODEL)
        np.save(out / SAMPLES, samples)
        k: int = run_child(
            BUILDING + "compile_model",
            limits=limits,
            niceness=HEAVY_NICENESS,
            reach=Reach(writable=(out.resolve(),)),
            progress=progress,
            cancelled=cancelled,
            model=str((out / MODEL).resolve()),
            calibration=str((out / SAMPLES).resolve()),
            out=str(out.resolve()),
            options=asdict(options),
        ).value
        (out / SAMPLES).unlink()
        # Setup proves calibration samples to try everything out.
        probe = samples[np.resize(np.arange(len(samples)), options.batch)]
        rest = {
            "input_mode": plan.input_mode.value,
            "weight_bytes": options.weight_bytes,
            "probe": probe.tolist(),
        }
        (out / PLAN).write_bytes(canonical_json(rest))
        return k

    def development_srs(self, log_size: int, out: Path, *, limits: Limits = _DEFAULT_LIMITS) -> Srs:
        """Make and mark a development SRS, the file ``out``; see the protocol."""
        out.parent.mkdir(parents=True, exist_ok=True)
        made = out.with_name(out.name + ".part")
        run_child(BUILDING + "make_srs", limits=limits, k=log_size, out=str(made.resolve()))
        mark_development(out)
        made.replace(out)
        return load_srs(out, sha256=None, production=False)

    def setup(
        self,
        compiled: Path,
        srs: Srs,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        progress: Progress = no_progress,
        cancelled: Cancelled = never_cancelled,
    ) -> Bundle:
        """Commit to the weights, prove one sample, and pin it all; see :meth:`Engine.setup`."""
        if sha256_file(srs.path) != srs.sha256:
            raise BundleMismatch(f"The SRS file {srs.path.name} has not the digest it came with.")
        plan = json.loads((compiled / PLAN).read_bytes())
        input_mode = InputMode(plan["input_mode"])
        hidden = input_mode is InputMode.COMMITTED
        made = run_child(
            BUILDING + "set_up",
            limits=limits,
            niceness=HEAVY_NICENESS,
            reach=Reach(readable=(srs.path.resolve(),), writable=(compiled.resolve(),)),
            progress=progress,
            cancelled=cancelled,
            folder=str(compiled.resolve()),
            srs=str(srs.path.resolve()),
            hidden=hidden,
            weight_bytes=plan["weight_bytes"],
        )
        bundle = seal(compiled, srs, input_mode, weight_bytes=plan["weight_bytes"])
        progress("trying it out")
        probe = join_samples(bundle.manifest.inputs, np.array(plan["probe"], np.float32))
        prediction = self.predict(bundle, probe)
        trial = self.prove(
            bundle,
            prediction.claim,
            prediction.opening,
            limits=limits,
            progress=progress,
            cancelled=cancelled,
        )
        facts = {
            "setup_s": round(made.wall_s, 3),
            "setup_cpu_s": round(made.cpu_s, 3),
            "setup_peak_rss_bytes": made.peak_rss_bytes,
            "trial_prove_s": round(trial.prove_s, 3),
            "trial_peak_rss_bytes": trial.peak_rss_bytes,
        }
        manifest = bundle.manifest
        return replace(bundle, manifest=replace(manifest, facts={**manifest.facts, **facts}))

    def reproducible(self, manifest: CircuitManifest) -> Mapping[str, str]:
        """Return the description, its units and the multipliers; see the protocol.

        The commitment to the weights is blinded anew at each setup, and with it the circuit id.
        """
        return {name: manifest.pins[name] for name in ("description", "interface", "multipliers")}

    def predict(
        self, bundle: Bundle, inputs: FloatArray, *, salt: bytes | None = None
    ) -> Prediction:
        """Run the circuit on one input in a warm child; see :meth:`Engine.predict`."""
        circuit = Circuit.of(bundle)
        blind = None
        if circuit.hidden:
            blind = blind_of(salt if salt is not None else secrets.token_bytes(32))
        return self._predict(circuit, Opening(cells=circuit.quantise(inputs), blind=blind))

    def reopen(self, bundle: Bundle, opening: bytes) -> Prediction:
        """Run the circuit on what an opening holds; see :meth:`Engine.reopen`."""
        circuit = Circuit.of(bundle)
        return self._predict(circuit, circuit.decode_opening(opening))

    def _predict(self, circuit: Circuit, opening: Opening) -> Prediction:
        files = circuit.proving_files()
        found = self._others.call(
            STEPS + "predict",
            reach=_reading(files),
            limits=_DEFAULT_LIMITS,  # the first one loads all that proving needs
            circuit=files,
            cells=opening.cells,
            blind=opening.blind_hex,
        ).value
        commitment = bytes.fromhex(found["commitment"])
        manifest, description = circuit.manifest, circuit.description
        claim = claim_of(manifest, description, opening, found["outputs"], commitment)
        return Prediction(claim=claim, opening=opening.encode())

    def prove(
        self,
        bundle: Bundle,
        claim: Claim,
        opening: bytes,
        *,
        context: bytes = NO_CONTEXT,
        limits: Limits = _DEFAULT_LIMITS,
        progress: Progress = no_progress,
        cancelled: Cancelled = never_cancelled,
    ) -> Proof:
        """Prove a claim for one context in a child of this circuit; see :meth:`Engine.prove`."""
        circuit = Circuit.of(bundle)
        check_claim(circuit.manifest, circuit.description, claim)
        opened = circuit.decode_opening(opening)
        if opened.blind is None and pack(circuit.description, opened.cells) != claim.input:
            raise ProofInvalid("The opening is not that of the claim's input.")
        files = circuit.proving_files()
        answer = self._provers.call(
            STEPS + "prove",
            reach=_reading(files),
            limits=limits,
            progress=progress,
            cancelled=cancelled,
            circuit=files,
            cells=opened.cells,
            blind=opened.blind_hex,
            context=context.hex(),
            claimed_input=claim.input.hex(),
            claimed_outputs=claim.outputs,
        )
        data = bytes.fromhex(answer.value)
        check_length(circuit.manifest, circuit.description, data)
        return Proof(
            data=data,
            prove_s=answer.wall_s,
            prove_cpu_s=answer.cpu_s,
            peak_rss_bytes=answer.peak_rss_bytes,
        )

    def verify(
        self, bundle: Bundle, claim: Claim, proof: bytes, *, limits: Limits = VERIFY_LIMITS
    ) -> None:
        """Return if ``proof`` proves ``claim``; see :meth:`Engine.verify`."""
        circuit = Circuit.of(bundle)
        check_claim(circuit.manifest, circuit.description, claim)
        check_length(circuit.manifest, circuit.description, proof)
        self._check_ranges(circuit)
        srs = circuit.verifier_srs
        valid = self._others.call(
            CHECKING + "verify",
            reach=Reach(),
            limits=limits,
            description=circuit.read("description").hex(),
            srs_digest=srs.digest.hex(),
            g2_s=srs.g2_s.hex(),
            hidden=circuit.hidden,
            weights=bytes32(claim.weights).hex(),
            claimed_input=claim.input.hex(),
            outputs=claim.outputs,
            proof=proof.hex(),
        ).value
        if valid is not True:
            raise ProofInvalid("The proof does not prove the claim.")

    def _check_ranges(self, circuit: Circuit) -> None:
        """Check, once for each circuit, that the committed weights are integers in their ranges.

        Raises:
            BundleMismatch: that is not shown: the circuit is one fixed function, not a network.

        """
        manifest = circuit.manifest
        proof = circuit.read("range_proof")
        if manifest.circuit_id in self._ranges_checked:
            return
        srs = circuit.verifier_srs
        valid = self._others.call(
            CHECKING + "verify_range",
            reach=Reach(),
            limits=VERIFY_LIMITS,
            description=circuit.read("description").hex(),
            weight_bytes=manifest.parameters.get("weight_bytes", 0),
            srs_digest=srs.digest.hex(),
            g2_s=srs.g2_s.hex(),
            weights=bytes32(manifest.weights).hex(),
            proof=proof.hex(),
        ).value
        if valid is not True:
            raise BundleMismatch(
                "The circuit's range proof does not show that its weights are integers in range.",
                remedy="Do not trust this circuit: it may answer chosen inputs as it likes.",
            )
        self._ranges_checked.add(manifest.circuit_id)

    def context_of(self, proof: bytes) -> bytes | None:
        """Return the context in front of a proof; see :meth:`Engine.context_of`."""
        return proof[:CONTEXT_BYTES]

    def caveats(self, bundle: Bundle) -> tuple[str, ...]:
        """Return what a native proof does not show; see :meth:`Engine.caveats`."""
        circuit = Circuit.of(bundle)
        new = "The native proof system is new, and nobody outside the project has audited it."
        if circuit.manifest.development_srs:
            return (new,)
        return (
            new,
            "That the SRS is a ceremony's is the owner's word, until you compare the digest of "
            f"`verifier_srs`, {to_hex(circuit.verifier_srs.digest)}, with that of an SRS you made "
            "of the ceremony's file (`zkserve srs import`); the pin `srs` shows nothing.",
        )

    def unpack_input(self, bundle: Bundle, packed: bytes) -> FloatArray:
        """Return the real values of a packed public input; see :meth:`Engine.unpack_input`."""
        circuit = Circuit.of(bundle)
        if circuit.hidden:
            raise InvalidInput("This circuit's inputs are committed, not public.")
        return circuit.to_real(unpack(circuit.description, packed))

    def check_opening(self, bundle: Bundle, claim: Claim, opening: bytes) -> list[float]:
        """Return the input that ``claim`` shows or commits to; see :meth:`Engine.check_opening`."""
        circuit = Circuit.of(bundle)
        opened = circuit.decode_opening(opening)
        if opened.blind is None:
            expected = pack(circuit.description, opened.cells)
        else:
            commitment: str = self._others.call(
                CHECKING + "input_commitment",
                reach=Reach(),
                limits=VERIFY_LIMITS,
                input_key=circuit.read("input_key").hex(),
                g2_s=circuit.verifier_srs.g2_s.hex(),
                k=circuit.description.header.k,
                cells=tile_cells(circuit.description, opened.cells),
                blind=opened.blind_hex,
            ).value
            expected = hidden_input_digest(bytes.fromhex(commitment))
        if expected != claim.input:
            raise ProofInvalid("The opening is not that of the claim's input.")
        return [float(value) for value in circuit.to_real(opened.cells)]

    def export_verifier(self, bundle: Bundle) -> str:
        """Return the pinned Solidity source; see :meth:`Engine.export_verifier`.

        Registration begins here, so none leaves for weights that are not shown to be in range.
        """
        circuit = Circuit.of(bundle)
        self._check_ranges(circuit)
        return circuit.read("verifier_source").decode()

    def check_verifier(self, bundle: Bundle, *, limits: Limits = _DEFAULT_LIMITS) -> None:
        """Make the source again, and check the weights' ranges; see the protocol."""
        circuit = Circuit.of(bundle)
        self._check_ranges(circuit)
        source: str = run_child(
            BUILDING + "verifier_source",
            limits=limits,
            reach=Reach(),
            description=circuit.read("description").hex(),
            verifier_srs=circuit.read("verifier_srs").hex(),
            hidden=circuit.hidden,
        ).value
        if source != circuit.read("verifier_source").decode():
            raise BundleMismatch(
                "The pinned verifier source is not what the circuit's description gives.",
                remedy="Do not trust this circuit: its contract verifies something else.",
            )

    def check_model(self, bundle: Bundle, *, limits: Limits = _DEFAULT_LIMITS) -> bool:
        """Return False: nothing is made again, blinds are drawn anew each time; see the protocol.

        The architecture is public, and what it computes with are the weights it commits to.
        """
        del bundle, limits
        return False

    def close(self) -> None:
        """Stop the warm children; the next call starts others."""
        self._provers.close()
        self._others.close()


def _reading(circuit: Mapping[str, Any]) -> Reach:
    return Reach(readable=tuple(Path(path) for path, _ in circuit["files"].values()))


def _options(plan: CircuitPlan) -> Options:
    if plan.weights_mode is not WeightsMode.COMMITTED:
        raise RecipeInvalid(
            f"Weights mode {str(plan.weights_mode)!r} is not one of the native engine.",
            remedy='Use weights mode "committed", or the ezkl engine.',
        )
    if plan.input_mode not in set(InputMode):
        raise RecipeInvalid(f"Input mode {plan.input_mode!r} is unknown.")
    return Options.read(plan.options)

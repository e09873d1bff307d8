"""The ezkl engine: folders, pins, claims and limits; ezkl itself runs in children only."""

from __future__ import annotations

import importlib.metadata
import secrets
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zkserve.encoding import (
    circuit_id,
    sha256_file,
)
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
from zkserve.engines.ezkl import building, children, leak
from zkserve.engines.ezkl.claims import (
    check_batch,
    check_length,
    check_manifest,
    check_points,
    check_weights,
    decode_opening,
    from_instances,
    input_size,
    parameter,
    salt_shape,
    to_instances,
)
from zkserve.engines.ezkl.inputs import NO_SALT, Opening, SaltShape, pack, quantise, unpack
from zkserve.engines.ezkl.options import WEIGHTS_MODES, Options
from zkserve.engines.ezkl.settings import Settings
from zkserve.engines.sandbox import Reach
from zkserve.engines.srs import load_srs, mark_development
from zkserve.engines.warm import WarmChildren
from zkserve.errors import (
    BundleMismatch,
    InvalidInput,
    ModelRejected,
    ProofInvalid,
)
from zkserve.types import CircuitManifest, Claim, InputMode, Scale, WeightsMode

PREDICT_LIMITS = Limits(time_s=30.0, memory_bytes=4 << 30)
VERIFY_LIMITS = Limits(time_s=120.0, memory_bytes=4 << 30)
_DEFAULT_LIMITS = Limits()
_IDLE_CHILDREN = 4


class EzklEngine:
    """Halo2 circuits of ONNX models by ezkl; thread-safe."""

    name = "ezkl"
    weights_mode = WeightsMode.HASHED
    weights_modes: tuple[WeightsMode, ...] = WEIGHTS_MODES
    verifying_key = "verifying_key"
    leak_warning = leak.DIGITS_WARNING

    def __init__(self) -> None:
        self.version = importlib.metadata.version("ezkl")
        self._warm = WarmChildren(idle=_IDLE_CHILDREN)
        self._warm_lock = threading.Lock()

    def unsupported(
        self,
        model: Path,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        cancelled: Cancelled = never_cancelled,
    ) -> tuple[str, ...]:
        """Return what the checks before compiling say; see :meth:`Engine.unsupported`."""
        try:
            run_child(
                children.COMPILING + "check_model",
                limits=limits,
                cancelled=cancelled,
                reach=Reach(readable=(model.resolve(),)),
                model=str(model.resolve()),
            )
        except ModelRejected as exc:
            return (exc.message,)
        return ()

    def estimate(
        self,
        model: Path,
        plan: CircuitPlan,
        calibration: Path | None,
        *,
        limits: Limits = _DEFAULT_LIMITS,
        cancelled: Cancelled = never_cancelled,
    ) -> Estimate:
        """Read the costs off the settings that ezkl derives; see :meth:`Engine.estimate`."""
        options = Options.of(plan)
        committed = plan.input_mode is InputMode.COMMITTED
        bound = options.decomp_base**options.decomp_legs
        read = [path.resolve() for path in (model, calibration) if path is not None]
        answer = run_child(
            children.ESTIMATING + "estimate",
            limits=limits,
            cancelled=cancelled,
            niceness=children.HEAVY_NICENESS,
            reach=Reach(readable=tuple(read)),
            model=str(read[0]),
            calibration=str(read[1]) if len(read) > 1 else None,
            run_args=options.run_args(plan.input_mode, plan.weights_mode),
            salt_count=(SaltShape.within(bound) if committed else NO_SALT).count,
            lookup_margin=options.lookup_margin,
            logrows=options.logrows,
            lookup_range=(options.lookup_low, options.lookup_high),
            batch=options.batch,
            halved_relus=options.halved_relus,
            leak_fraction=options.leak_fraction,
        )
        found = Estimate.from_dict(answer.value)
        if found.k <= options.max_logrows:
            return found
        too_many = (
            f"The circuit needs 2^{found.k} rows; max_logrows allows 2^{options.max_logrows}. "
            "Take more inner_cols, a weights mode without hashes, or the native engine."
        )
        return replace(found, objections=(too_many,))

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
        options = Options.of(plan)
        return building.compile_circuit(
            model,
            plan,
            options,
            calibration,
            out,
            limits=limits,
            progress=progress,
            cancelled=cancelled,
        )

    def development_srs(self, log_size: int, out: Path, *, limits: Limits = _DEFAULT_LIMITS) -> Srs:
        """Make and mark a development SRS, the file ``out``; see the protocol."""
        out.parent.mkdir(parents=True, exist_ok=True)
        made = out.with_name(out.name + ".part")
        run_child(
            children.STEPS + "make_srs", limits=limits, log_size=log_size, out=str(made.resolve())
        )
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
        """Make the keys, prove one sample with them, and pin it all; see :meth:`Engine.setup`."""
        return building.set_up(
            compiled,
            srs,
            engine=(self.name, self.version),
            limits=limits,
            progress=progress,
            cancelled=cancelled,
        )

    def reproducible(self, manifest: CircuitManifest) -> Mapping[str, str]:
        """Return the hash of the weights in ``hashed``; see :meth:`Engine.reproducible`."""
        hashed = manifest.weights_mode is WeightsMode.HASHED
        return {"weights": manifest.weights} if hashed else {}

    def predict(
        self, bundle: Bundle, inputs: FloatArray, *, salt: bytes | None = None
    ) -> Prediction:
        """Run the circuit on one input in its warm child; see :meth:`Engine.predict`."""
        manifest = bundle.manifest
        _, settings = self._circuit(bundle)
        shape = salt_shape(manifest)
        opening = Opening(
            values=quantise(
                inputs,
                size=input_size(manifest),
                scale=settings.input_scale,
                bound=settings.element_bound,
            ),
            salt=tuple(shape.elements(salt if salt is not None else secrets.token_bytes(32))),
            scale=settings.input_scale,
        )
        return self._predict(bundle, opening)

    def reopen(self, bundle: Bundle, opening: bytes) -> Prediction:
        """Run the circuit on what an opening holds; see :meth:`Engine.reopen`."""
        return self._predict(bundle, decode_opening(bundle.manifest, opening))

    def _predict(self, bundle: Bundle, opening: Opening) -> Prediction:
        manifest = bundle.manifest
        files, _ = self._circuit(bundle, "compiled")
        instances: list[int] = self._ask_warm(
            "witness",
            children.reading(files),
            settings=str(files["settings"].resolve()),
            compiled=str(files["compiled"].resolve()),
            elements=opening.elements,
        )
        claim = from_instances(manifest, opening, instances)
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
        """Prove a claim in a child of its own, bound to no context; see :meth:`Engine.prove`."""
        del context
        files, settings = self._circuit(
            bundle, *(building.FILES.keys() - {"model", "verifier_source"}), "srs"
        )
        instances = to_instances(bundle.manifest, claim)
        opened = decode_opening(bundle.manifest, opening)
        answer = children.prove(
            files,
            opened.elements,
            instances,
            limits=limits,
            progress=progress,
            cancelled=cancelled,
        )
        data = bytes.fromhex(answer.value["proof"])
        check_length(bundle.manifest, data)
        check_weights(bundle.manifest, settings, data)
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
        files, settings = self._circuit(bundle, "verifying_key", "verifier_srs")
        manifest = bundle.manifest
        instances = to_instances(manifest, claim)
        check_length(manifest, proof)
        check_weights(manifest, settings, proof)
        run_child(
            children.STEPS + "verify",
            limits=limits,
            reach=children.reading(files),
            settings=str(files["settings"].resolve()),
            verifying_key=str(files["verifying_key"].resolve()),
            verifier_srs=str(files["verifier_srs"].resolve()),
            instances=instances,
            proof=proof.hex(),
        )

    def context_of(self, proof: bytes) -> bytes | None:
        """Return None: proofs of ezkl are bound to no context."""
        del proof
        return None

    def caveats(self, bundle: Bundle) -> tuple[str, ...]:
        """Return what a proof of ezkl does not show; see :meth:`Engine.caveats`."""
        manifest = bundle.manifest
        digit_bits = leak.digit_bits_per_proof(self.export_verifier(bundle))
        lines = [
            "Proofs of ezkl are not zero-knowledge: whatever the weights mode, each reveals, here "
            f"up to {digit_bits} bits, how often each digit occurs in its input and in what is "
            "computed from it; where inputs are known, weights can be told from that "
            "(docs/weights-leak.md)."
        ]
        if not manifest.development_srs:
            lines.append(
                "That the SRS is a ceremony's is the owner's word: what counts are the points in "
                "`verifier_srs`, whatever the pin `srs` says."
            )
        if manifest.input_mode is InputMode.COMMITTED:
            lines.append("That the salt of a committed input does not matter is the owner's word.")
        if manifest.weights_mode is WeightsMode.FIXED:
            lines.append(
                "That the weights are constants of the verifying key is the owner's word: a key "
                "made to leave them free, under settings that say otherwise, proves any weights. "
                "Whoever has the private model too can compile it again (zkserve audit)."
            )
        if manifest.weights_mode is WeightsMode.POLYCOMMIT:
            lines.append(
                "That the commitments which proofs begin with are to all the weights is the "
                "owner's word."
            )
        if manifest.leak is not None:
            lines.append(
                f"It hides the weights only while few proofs are made ({manifest.weights_mode}): "
                f"each reveals up to {manifest.leak.bits_per_proof} bits of about "
                f"{manifest.leak.secret_bits}, so that {manifest.leak.exposing_proofs} proofs may "
                f"give them all away. The owner says that at most {manifest.leak.proofs} are made."
            )
        return tuple(lines)

    def unpack_input(self, bundle: Bundle, packed: bytes) -> FloatArray:
        """Return the real values of a packed public input; see :meth:`Engine.unpack_input`."""
        manifest = bundle.manifest
        if manifest.input_mode is not InputMode.PUBLIC:
            raise InvalidInput("This circuit's inputs are committed, not public.")
        self._circuit(bundle)
        integers = unpack(packed, size=input_size(manifest))
        scale = Scale(shift=parameter(manifest, "input_scale"))
        values = np.array([scale.to_real(integer) for integer in integers], dtype=np.float32)
        back = [int(value) for value in values.astype(np.float64) * 2.0**scale.shift]
        if tuple(back) != integers:
            raise InvalidInput("An element of the packed input is finer than a float32.")
        return values

    def check_opening(self, bundle: Bundle, claim: Claim, opening: bytes) -> list[float]:
        """Return the input that ``claim`` shows or commits to; see :meth:`Engine.check_opening`."""
        manifest = bundle.manifest
        self._circuit(bundle)
        opened = decode_opening(manifest, opening)
        if manifest.input_mode is InputMode.PUBLIC:
            expected = pack(opened.values)
        else:
            digest: int = self._ask_warm("poseidon", Reach(), elements=opened.elements)
            expected = digest.to_bytes(32, "big")
        if expected != claim.input:
            raise ProofInvalid("The opening is not that of the claim's input.")
        return opened.to_real()

    def export_verifier(self, bundle: Bundle) -> str:
        """Return the pinned Solidity source; see :meth:`Engine.export_verifier`."""
        return self._pinned(bundle, "verifier_source")["verifier_source"].read_text()

    def check_verifier(self, bundle: Bundle, *, limits: Limits = _DEFAULT_LIMITS) -> None:
        """Export the verifier again from key and settings; see :meth:`Engine.check_verifier`."""
        files, _ = self._circuit(bundle, "verifying_key", "verifier_srs", "verifier_source")
        source: str = run_child(
            children.STEPS + "export_verifier",
            limits=limits,
            reach=children.reading(files),
            settings=str(files["settings"].resolve()),
            verifying_key=str(files["verifying_key"].resolve()),
            srs=str(files["verifier_srs"].resolve()),
        ).value
        if source != files["verifier_source"].read_text():
            raise BundleMismatch(
                "The pinned verifier source is not what the verifying key gives.",
                remedy="Do not trust this circuit: its contract verifies something else.",
            )

    def check_model(self, bundle: Bundle, *, limits: Limits = _DEFAULT_LIMITS) -> bool:
        """Make the verifying key again from the ONNX model; see :meth:`Engine.check_model`."""
        if not bundle.files.keys() >= {*building.KEY_SOURCES}:
            return False
        files = self._pinned(bundle, *building.KEY_SOURCES)
        building.check_key(files, bundle.manifest, limits=limits)
        return True

    def close(self) -> None:
        """Stop the warm children; the next prediction starts another."""
        self._warm.close()

    def _ask_warm(self, step: str, reach: Reach, **arguments: Any) -> Any:
        with self._warm_lock:  # one at a time, so that many at once start no more children
            return self._warm.call(
                children.STEPS + step, reach=reach, limits=PREDICT_LIMITS, **arguments
            ).value

    def _circuit(self, bundle: Bundle, *names: str) -> tuple[dict[str, Path], Settings]:
        """Return settings and named files of a circuit that its manifest does not misstate."""
        files = self._pinned(bundle, "settings", *names)
        settings = Settings.read(files["settings"])
        check_manifest(bundle.manifest, settings)
        return files, settings

    def _pinned(self, bundle: Bundle, *names: str) -> dict[str, Path]:
        """Return the named files of a bundle once they, the engine and the id are as pinned."""
        manifest = bundle.manifest
        if (manifest.engine, manifest.engine_version) != (self.name, self.version):
            raise BundleMismatch(
                f"The circuit was made by {manifest.engine} {manifest.engine_version}; installed "
                f"is {self.name} {self.version}.",
                remedy="Install the version that the circuit names, or publish it again.",
            )
        if circuit_id(manifest) != manifest.circuit_id:
            raise BundleMismatch("The circuit id is not that of the manifest's own fields.")
        check_batch(manifest)
        check_points(manifest)
        files = {}
        for name in names:
            path = bundle.files.get(name)
            if path is None or not path.is_file() or name not in manifest.pins:
                raise BundleMismatch(f"The bundle has no artifact {name!r}.")
            if sha256_file(path) != manifest.pins[name]:
                raise BundleMismatch(
                    f"Artifact {name!r} differs from what was pinned at publication.",
                    remedy="Fetch the artifacts again; if this stays, do not trust the circuit.",
                )
            files[name] = path
        return files

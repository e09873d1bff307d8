"""What publishing does with ezkl: compile a model into a folder, make its keys, pin it all."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zkserve.encoding import canonical_json, identified, sha256_file
from zkserve.engines.agreement import join_samples
from zkserve.engines.base import (
    Bundle,
    Cancelled,
    CircuitPlan,
    FloatArray,
    Limits,
    Progress,
    Srs,
)
from zkserve.engines.child import run_child
from zkserve.engines.ezkl import children, leak
from zkserve.engines.ezkl.claims import fixed_weights, hashed_weights, polycommit_weights
from zkserve.engines.ezkl.inputs import NO_SALT, Opening, SaltShape, quantise
from zkserve.engines.ezkl.options import Options
from zkserve.engines.ezkl.settings import Settings
from zkserve.engines.sandbox import Reach
from zkserve.errors import BundleMismatch, EngineFailed, InvalidInput
from zkserve.types import CircuitManifest, InputMode, TensorSpec, WeightsMode

CALIBRATION_SAMPLES = 200
FILES = {
    "settings": "settings.json",
    "compiled": "model.compiled",
    "verifying_key": "vk.key",
    "proving_key": "pk.key",
    "verifier_srs": "verifier.srs",
    "model": "model.onnx",
    "verifier_source": "Verifier.sol",
}
"""Artifact names and their files in a compiled folder; ``srs`` lies where the caller keeps it."""
PUBLIC = frozenset({"settings", "verifying_key", "verifier_srs", "verifier_source"})
"""What verifying needs. The SRS is public too, but large and needed for proving only."""
KEY_SOURCES = ("settings", "model", "verifying_key", "srs")
"""What shows that the verifying key is that of the ONNX model; only its owner has them all."""
PLAN = "plan.json"
SAMPLES = "calibration.npy"


def compile_circuit(
    model: Path,
    plan: CircuitPlan,
    options: Options,
    calibration: FloatArray,
    out: Path,
    *,
    limits: Limits,
    progress: Progress,
    cancelled: Cancelled,
) -> int:
    """Compile an untrusted ONNX file into ``out``; see :meth:`Engine.compile`."""
    if calibration.ndim != 2 or not len(calibration) or not np.isfinite(calibration).all():
        raise InvalidInput(
            f"Calibration samples have shape {calibration.shape}; expected finite numbers of "
            "shape (samples, elements), at least one sample."
        )
    committed = plan.input_mode is InputMode.COMMITTED
    bound = options.decomp_base**options.decomp_legs
    salt = SaltShape.within(bound) if committed else NO_SALT
    chosen = np.linspace(0, len(calibration) - 1, CALIBRATION_SAMPLES).astype(int)
    samples = calibration[np.unique(chosen)].astype(np.float32)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(model, out / FILES["model"])
    np.save(out / SAMPLES, samples)
    tensors: dict[str, Any] = run_child(
        children.COMPILING + "compile_model",
        limits=limits,
        niceness=children.HEAVY_NICENESS,
        reach=Reach(writable=(out.resolve(),)),
        progress=progress,
        cancelled=cancelled,
        model=str((out / FILES["model"]).resolve()),
        calibration=str((out / SAMPLES).resolve()),
        out=str(out.resolve()),
        run_args=options.run_args(plan.input_mode, plan.weights_mode),
        salt_count=salt.count,
        lookup_margin=options.lookup_margin,
        max_logrows=options.max_logrows,
        logrows=options.logrows,
        lookup_range=(options.lookup_low, options.lookup_high),
        batch=options.batch,
        halved_relus=options.halved_relus,
    ).value
    (out / SAMPLES).unlink()
    settings = Settings.read(out / FILES["settings"])
    found = (settings.input_mode, settings.weights_mode, settings.input_scale)
    if found != (plan.input_mode, plan.weights_mode, options.input_shift):
        raise EngineFailed("ezkl compiled with other modes or another scale than was asked.")
    # One batch of calibration samples stays in the folder: setup proves it to try the keys out.
    first = samples[np.resize(np.arange(len(samples)), options.batch)]
    probe = Opening(
        values=quantise(
            join_samples(_specs(tensors["inputs"]), first),
            size=first.size,
            scale=settings.input_scale,
            bound=bound,
        ),
        salt=tuple(salt.elements(secrets.token_bytes(32))),
        scale=settings.input_scale,
    )
    (out / PLAN).write_bytes(
        canonical_json(
            tensors
            | {
                "salt": [salt.count, salt.bits],
                "probe": probe.encode().decode(),
                "batch": options.batch,
                "leak_fraction": options.leak_fraction,
            }
        )
    )
    return settings.logrows


def set_up(
    compiled: Path,
    srs: Srs,
    *,
    engine: tuple[str, str],
    limits: Limits,
    progress: Progress,
    cancelled: Cancelled,
) -> Bundle:
    """Make the keys in ``compiled``, prove one sample with them, and pin it all.

    ``engine`` is its name and version. See :meth:`zkserve.engines.base.Engine.setup`.
    """
    engine_name, engine_version = engine
    if sha256_file(srs.path) != srs.sha256:
        raise BundleMismatch(f"The SRS file {srs.path.name} has not the digest it came with.")
    plan = json.loads((compiled / PLAN).read_bytes())
    settings = Settings.read(compiled / FILES["settings"])
    progress("setting up")
    keys = run_child(
        children.STEPS + "make_keys",
        limits=limits,
        niceness=children.HEAVY_NICENESS,
        reach=Reach(readable=(srs.path.resolve(),), writable=(compiled.resolve(),)),
        progress=progress,
        cancelled=cancelled,
        folder=str(compiled.resolve()),
        srs=str(srs.path.resolve()),
    )
    files = {name: compiled / file for name, file in FILES.items()} | {"srs": srs.path}
    count, bits = plan["salt"]
    inputs = _specs(plan["inputs"])
    opening = Opening.decode(
        plan["probe"].encode(),
        size=sum(spec.size for spec in inputs),
        scale=settings.input_scale,
        salt=SaltShape(count=count, bits=bits),
    )
    progress("trying the keys")
    trial = children.prove(
        files, opening.elements, None, limits=limits, progress=progress, cancelled=cancelled
    )
    output = TensorSpec(name=plan["output"]["name"], shape=tuple(plan["output"]["shape"]))
    pins = {name: sha256_file(path) for name, path in sorted(files.items())}
    source = files["verifier_source"].read_text()
    budget = None
    if settings.weights_mode is WeightsMode.HASHED:
        weights = hashed_weights(
            trial.value["instances"],
            input_mode=settings.input_mode,
            inputs=len(opening.values),
            outputs=output.size,
        )
    elif settings.weights_mode is WeightsMode.FIXED:
        weights = fixed_weights(pins["verifying_key"])
    else:
        proof = bytes.fromhex(trial.value["proof"])
        children.check_commitments(
            files, opening.elements, proof, points=settings.weights_points, limits=limits
        )
        weights = polycommit_weights(proof, settings.weights_points)
    if settings.weights_mode.leaks:
        budget = leak.budget(
            bits_per_proof=leak.bits_per_proof(settings, source),
            secret_bits=plan["secret_bits"],
            fraction=plan["leak_fraction"],
        )
    for name in files.keys() - PUBLIC - {"srs"}:
        files[name].chmod(0o600)
    manifest = CircuitManifest(
        circuit_id="",  # computed from the rest below
        engine=engine_name,
        engine_version=engine_version,
        input_mode=settings.input_mode,
        weights_mode=settings.weights_mode,
        weights=weights,
        inputs=inputs,
        output=output,
        output_scale=settings.output_scale,
        pins=pins,
        public=PUBLIC,
        development_srs=srs.development,
        rows=settings.rows,
        parameters={
            "batch": plan["batch"],
            "input_scale": settings.input_scale,
            "salt_count": count,
            "salt_bits": bits,
            "proof_bytes": len(trial.value["proof"]) // 2,
            **(
                {"weights_points": settings.weights_points}
                if settings.weights_mode is WeightsMode.POLYCOMMIT
                else {}
            ),
        },
        facts={
            "logrows": settings.logrows,
            "digit_bits_per_proof": leak.digit_bits_per_proof(source),
            "pk_bytes": files["proving_key"].stat().st_size,
            "vk_bytes": files["verifying_key"].stat().st_size,
            "setup_s": round(keys.wall_s, 3),
            "setup_cpu_s": round(keys.cpu_s, 3),
            "setup_peak_rss_bytes": keys.peak_rss_bytes,
            "trial_prove_s": round(trial.wall_s, 3),
            "trial_peak_rss_bytes": trial.peak_rss_bytes,
        },
        leak=budget,
    )
    return Bundle(manifest=identified(manifest), files=files)


def check_key(files: Mapping[str, Path], manifest: CircuitManifest, *, limits: Limits) -> None:
    """Compile a circuit's private ONNX model again under its settings, and compare the keys.

    It needs the circuit's ``settings``, ``model``, ``verifying_key`` and whole ``srs``, and as much
    time and memory as setting the circuit up.

    Raises:
        BundleMismatch: another key comes out: the circuit is not that of the model and settings.

    """
    paths: dict[str, Any] = {name: str(files[name].resolve()) for name in KEY_SOURCES}
    same: bool = run_child(
        children.COMPILING + "rebuilds_key",
        limits=limits,
        niceness=children.HEAVY_NICENESS,
        reach=children.reading(files),
        salt_count=manifest.parameters["salt_count"],
        batch=manifest.batch,
        **paths,
    ).value
    if not same:
        raise BundleMismatch(
            "The ONNX model, compiled again under the pinned settings, gives another verifying key "
            "than the pinned one.",
            remedy="Do not trust this circuit: its key does not bind the weights as its settings "
            "say, or it computes something else than the model.",
        )


def _specs(tensors: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=found["name"], shape=tuple(found["shape"])) for found in tensors)

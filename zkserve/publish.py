"""Publish a model: recipe → ONNX → circuit → keys → measured agreement → artifacts → version.

Everything untrusted happens in the engine's children. Nothing is recorded before the agreement
with the float model was measured on held-out samples and found within the recipe's tolerance.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zkserve import budgets, lock, runtime
from zkserve.chain import evm
from zkserve.encoding import canonical_json, sha256_file, sha256_hex
from zkserve.engines import ENGINES, engine
from zkserve.engines.agreement import measure_agreement
from zkserve.engines.base import Bundle, Engine, Limits, Progress, Srs
from zkserve.engines.choice import choose, objections_of
from zkserve.engines.ezkl import tuning
from zkserve.engines.srs import load_srs
from zkserve.errors import (
    ChainError,
    DevelopmentSrsRefused,
    ModelRejected,
    RecipeInvalid,
    Unavailable,
)
from zkserve.node import Node, secret_names
from zkserve.receipt import manifest_from_dict, manifest_to_dict
from zkserve.recipe import Recipe, export_onnx, samples
from zkserve.samples import Samples
from zkserve.store import versions
from zkserve.types import CircuitManifest

TUNING_FOLDER = "tuning"
"""Beside the artifacts: what searches found before."""
_MIN_FREE_BYTES = 2 << 30
_MIN_ROOM_BYTES = 24 << 20
"""Enough for small circuits; the keys of large ones need as much as they are long."""


@dataclass(frozen=True, kw_only=True)
class SrsSource:
    """Where SRSs come from: a ceremony's file pinned by digest, or a folder of development ones."""

    development_folder: Path
    path: Path | None = None
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version as it stands in the store; ``repeated`` where nothing had to be done.

    ``engine_why`` says why its engine proves it. What was ``deprecated`` before still is.
    """

    model: str
    number: int
    manifest: CircuitManifest
    repeated: bool
    engine_why: str
    deprecated: bool = False


def publish(
    node: Node,
    recipe: Recipe,
    srs_source: SrsSource,
    *,
    progress: Progress,
    update_lock: bool = False,
    renew_lock: bool = False,
    locked: bool = True,
    solc: str = "",
    on_chain: bool = False,
) -> Published:
    """Publish a recipe as the next version of its model; the same again changes nothing.

    With ``update_lock`` options are searched for again and the recipe's lock is written anew; with
    ``renew_lock`` only what it does not hold for this model. Unless ``locked``, it is neither read
    nor written.
    With ``solc``, as :func:`zkserve.chain.evm.compile_verifier`, the size of the verifier's code is
    measured before anything is recorded, and goes into the facts; ``on_chain`` says that the
    version is to be registered, so that the size decides.

    Raises:
        RecipeInvalid: the recipe, its samples or its lock are wrong.
        ModelRejected: the model cannot be proved, or not within the tolerance, or its verifier does
            not fit on a chain that it is for.
        DevelopmentSrsRefused: production, and no SRS file was given.
        Unavailable: too little free disk; or no compiler, though the version is for a chain.
        ChainError: the compiler for that chain is another than it must be.

    """
    if node.production and srs_source.path is None:
        raise DevelopmentSrsRefused(
            "Production needs a ceremony's SRS.",
            remedy="Set ZKSERVE_SRS_PATH and ZKSERVE_SRS_SHA256.",
        )
    if node.artifacts.free_bytes() < _MIN_FREE_BYTES:
        raise Unavailable(
            f"Less than {_MIN_FREE_BYTES >> 30} GiB of disk are free.",
            remedy="Free some: a proving key takes up to a few GiB.",
        )
    runtime.require_room(_MIN_ROOM_BYTES, "Publishing")
    with runtime.private_folder() as work:
        progress("exporting to ONNX")
        onnx = export_onnx(recipe, work / "model.onnx")
        data = samples(recipe)
        recipe, why = _with_engine(recipe, onnx, progress)
        recipe = tuned(
            node,
            recipe,
            onnx,
            data,
            progress=progress,
            fresh=update_lock,
            stale=renew_lock,
        )
        publication = _publication(recipe, onnx, data, srs_source)
        known = _find_known(node, recipe, publication, why)
        if known is not None:
            _check_shapes(recipe, known.manifest)
            _check_agreement(recipe, known.manifest)
            if locked:
                _check_lock(recipe, known.manifest, update=update_lock, renew=renew_lock)
            return known
        bundle = _build(node, recipe, onnx, data, srs_source, work / "circuit", progress)
        _check_shapes(recipe, bundle.manifest)
        _check_leak(bundle.manifest)
        progress("measuring agreement with the float model")
        bundle = _with_agreement(recipe, onnx, data, bundle)
        _check_agreement(recipe, bundle.manifest)
        bundle = _with_verifier_size(recipe, bundle, solc, on_chain, progress)
        if locked:
            _check_lock(recipe, bundle.manifest, update=update_lock, renew=renew_lock)
        progress("storing artifacts")
        return _record(node, recipe, onnx, publication, bundle, why)


def _with_engine(recipe: Recipe, onnx: Path, progress: Progress) -> tuple[Recipe, str]:
    """Return the recipe with its engine and weights mode decided, and why it is that engine."""
    why = "the recipe names it"
    if recipe.engine is None:
        progress("choosing the engine")
        choice = choose(objections_of(name, onnx) for name in ENGINES)
        recipe, why = replace(recipe, engine=choice.engine), choice.why
    weights_mode = recipe.weights_mode or _engine_of(recipe).weights_mode
    return replace(recipe, weights_mode=weights_mode), why


def tuned(
    node: Node,
    recipe: Recipe,
    onnx: Path,
    data: Samples,
    *,
    progress: Progress,
    fresh: bool = False,
    stale: bool = False,
) -> Recipe:
    """Return a recipe that asks for tuning with its options: its lock's, or else searched for.

    With ``fresh`` they are searched for even if they are known; with ``stale``, if the lock's are
    of another model.

    Raises:
        RecipeInvalid: the engine has no tuner, or the lock's options are of another model.
        ModelRejected: no circuit keeps the tolerance.

    """
    if not recipe.tune:
        return recipe
    digest = lock.tuning_digest(recipe, onnx, data.calibration)
    options = None if fresh else _locked_options(recipe, digest, stale=stale)
    if options is None:
        found = tuning.tune(
            _engine_of(recipe).version,
            onnx,
            lock.plan(recipe),
            data.calibration,
            recipe.tolerance,
            node.artifacts.folder.parent / TUNING_FOLDER,
            fresh=fresh,
            limits=_limits(recipe),
            progress=progress,
        )
        options = found.options
    return replace(
        recipe, options=MappingProxyType({**recipe.options, **options}), tuned_for=digest
    )


def _locked_options(recipe: Recipe, digest: str, *, stale: bool) -> Mapping[str, int] | None:
    try:
        return lock.tuned_options(recipe, digest)
    except RecipeInvalid:
        if not stale:
            raise
        return None


def _engine_of(recipe: Recipe) -> Engine:
    if recipe.engine is None:
        raise RecipeInvalid(f"The recipe {recipe.name} has no engine yet.")
    return engine(recipe.engine)


def _publication(recipe: Recipe, onnx: Path, data: Samples, srs_source: SrsSource) -> str:
    proof_system = _engine_of(recipe)
    return sha256_hex(
        canonical_json(
            {
                "name": recipe.name,
                "onnx": sha256_file(onnx),
                "engine": [proof_system.name, proof_system.version],
                "options": dict(recipe.options),
                "modes": [recipe.input_mode.value, recipe.weights_mode],
                "calibration": sha256_hex(data.calibration.tobytes()),
                "held_out": sha256_hex(data.held_out.tobytes()),
                "srs": srs_source.sha256 or "development",
            }
        )
    )


def _find_known(node: Node, recipe: Recipe, publication: str, why: str) -> Published | None:
    with node.database.session() as session:
        row = versions.by_publication(session, publication)
        if row is None:
            return None
        return Published(
            model=recipe.name,
            number=row.number,
            manifest=manifest_from_dict(row.manifest),
            repeated=True,
            engine_why=why,
            deprecated=row.deprecated_at is not None,
        )


def _build(
    node: Node,
    recipe: Recipe,
    onnx: Path,
    data: Samples,
    srs_source: SrsSource,
    out: Path,
    progress: Progress,
) -> Bundle:
    proof_system, limits = _engine_of(recipe), _limits(recipe)
    out.mkdir()
    progress("compiling and calibrating the circuit")
    log_size = proof_system.compile(
        onnx, lock.plan(recipe), data.calibration, out, limits=limits, progress=progress
    )
    srs = _srs(node, proof_system, srs_source, log_size, progress)
    progress("making keys")
    return proof_system.setup(out, srs, limits=limits, progress=progress)


def _limits(recipe: Recipe) -> Limits:
    return Limits(time_s=recipe.time_s, memory_bytes=recipe.memory_bytes)


def _srs(
    node: Node, proof_system: Engine, source: SrsSource, log_size: int, progress: Progress
) -> Srs:
    if source.path is not None:
        return load_srs(source.path, sha256=source.sha256, production=node.production)
    path = source.development_folder / f"{proof_system.name}-{log_size}.srs"
    if path.exists():
        return load_srs(path, sha256=None, production=node.production)
    progress(f"making a development SRS of 2^{log_size} points")
    source.development_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return proof_system.development_srs(log_size, path)


def _with_agreement(recipe: Recipe, onnx: Path, data: Samples, bundle: Bundle) -> Bundle:
    agreement = measure_agreement(_engine_of(recipe), bundle, onnx, data.held_out, data.labels)
    return replace(bundle, manifest=replace(bundle.manifest, agreement=agreement))


def _with_verifier_size(
    recipe: Recipe, bundle: Bundle, solc: str, on_chain: bool, progress: Progress
) -> Bundle:
    """Return the bundle with the size of its verifier's code among its facts, if it can be had."""
    if not solc:
        return bundle
    progress("compiling the verifier")
    try:
        size_bytes = evm.verifier_bytes(_engine_of(recipe).export_verifier(bundle), solc)
    except (ChainError, Unavailable):
        if on_chain:
            raise
        return bundle  # who publishes for no chain needs no compiler
    if on_chain:
        evm.require_deployable(size_bytes)
    facts = {**bundle.manifest.facts, "verifier_bytes": size_bytes}
    return replace(bundle, manifest=replace(bundle.manifest, facts=facts))


def _check_agreement(recipe: Recipe, manifest: CircuitManifest) -> None:
    agreement = manifest.agreement
    if agreement is None or not agreement.max_abs <= recipe.tolerance:  # so that NaN is refused
        found = f"{agreement.max_abs:.4g} on {agreement.samples}" if agreement else "unknown on all"
        raise ModelRejected(
            f"The circuit differs from the float model by up to {found} held-out samples; "
            f"the recipe tolerates {recipe.tolerance:.4g}.",
            remedy="Ask for more precision in [engine.options] (native: activations = 16; ezkl: a "
            "larger scale), add calibration samples, or widen the tolerance knowingly.",
        )


def _check_leak(manifest: CircuitManifest) -> None:
    leak = manifest.leak
    if leak is not None and not leak.proofs:
        raise ModelRejected(
            f"In weights mode {str(manifest.weights_mode)!r} a proof of this model reveals "
            f"{leak.bits_per_proof} bits of its weights, which hold about {leak.secret_bits}: the "
            "leak budget allows none.",
            remedy='Use the native engine, which hides them, or weights mode "hashed", which hides '
            "all but counts of digits (docs/weights-leak.md).",
        )


def _check_shapes(recipe: Recipe, manifest: CircuitManifest) -> None:
    stated = [spec.batched(manifest.batch).shape for spec in recipe.inputs]
    found = [spec.shape for spec in manifest.inputs]
    if stated and stated != found:
        raise RecipeInvalid(
            f"The recipe states input shapes {stated}, the model has {found}.",
            remedy="Correct [[inputs]] in recipe.toml.",
        )
    if recipe.output is not None and recipe.output.size * manifest.batch != manifest.output.size:
        raise RecipeInvalid(
            f"The recipe states output shape {recipe.output.shape}, the model has "
            f"{manifest.output.shape}.",
            remedy="Correct [output] in recipe.toml.",
        )


def _check_lock(
    recipe: Recipe, manifest: CircuitManifest, *, update: bool, renew: bool = False
) -> None:
    path = lock.path_of(recipe)
    if path is None:
        return
    reproducible = _engine_of(recipe).reproducible(manifest)
    pinned = {**lock.foretold(recipe), "rows": manifest.rows, **reproducible}
    if not update and path.exists():
        try:
            lock.require_same(recipe, pinned, reproducible)
        except RecipeInvalid:
            if not renew:
                raise
        else:
            return
    text = json.dumps(_lock(recipe, manifest, pinned), indent=2, sort_keys=True)
    path.write_text(text + "\n")


def _lock(recipe: Recipe, manifest: CircuitManifest, pinned: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a rebuild gives again, as ``pinned``, and what else a reader compares.

    Keys differ each time by nature, and so do commitments with randomness in them, and circuit ids.
    """
    return {
        **pinned,
        **({"tuned_for": recipe.tuned_for} if recipe.tuned_for else {}),
        "output_scale": asdict(manifest.output_scale),
        "agreement": asdict(manifest.agreement) if manifest.agreement else None,
        **({"leak": asdict(manifest.leak)} if manifest.leak else {}),
    }


def _record(
    node: Node, recipe: Recipe, onnx: Path, publication: str, bundle: Bundle, why: str
) -> Published:
    for name, path in bundle.files.items():
        secret = name in secret_names(bundle.manifest)
        stored = (node.artifacts.seal_file if secret else node.artifacts.put_file)(path)
        if stored != bundle.manifest.pins[name]:
            raise ModelRejected(f"Artifact {name} changed while it was being published.")
    digests = budgets.weights_digests(onnx) if bundle.manifest.leak is not None else []
    with node.database.session() as session:
        row = versions.add(
            session,
            name=recipe.name,
            description=recipe.description,
            publication=publication,
            onnx_sha256=sha256_file(onnx),
            manifest=manifest_to_dict(bundle.manifest),
            circuit_id=bundle.manifest.circuit_id,
            classes=list(recipe.classes),
            limits={"time_s": recipe.time_s, "memory_bytes": recipe.memory_bytes},
            weights_digests=digests,
        )
        return Published(
            model=recipe.name,
            number=row.number,
            manifest=bundle.manifest,
            repeated=False,
            engine_why=why,
        )

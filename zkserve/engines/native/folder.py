"""The folder in which a circuit is made: its files, and the bundle that they are pinned in."""

from __future__ import annotations

import secrets
from pathlib import Path

from zkserve.encoding import identified, sha256_file
from zkserve.engines.base import Bundle, Srs
from zkserve.engines.native.circuit import NAME, VERSION
from zkserve.engines.native.claims import decode_multipliers, weights_digest
from zkserve.engines.native.interface import Interface
from zkserve.engines.native.protocol.description import decode
from zkserve.engines.native.verifier_srs import VerifierSrs
from zkserve.types import CircuitManifest, InputMode, WeightsMode

FILES = {
    "description": "description.bin",
    "interface": "interface.json",
    "multipliers": "multipliers.bin",
    "commitment": "commitment.bin",
    "range_proof": "range.proof",
    "verifier_srs": "verifier.srs",
    "verifier_source": "Verifier.sol",
    "input_key": "input.key",
    "weights": "weights.npz",
    "model": "model.sealed",
}
"""Artifact names and their files in a compiled folder; ``srs`` lies where the caller keeps it."""
SECRET = frozenset({"weights", "model"})
"""The quantised weights with the blinds of their commitment, and the ONNX file behind a salt.

Manifests show the digests of these too: with randomness in each file they confirm no guess.
"""
MODEL = "model.onnx"
SALT_BYTES = 32
PLAN = "plan.json"
SAMPLES = "calibration.npy"


def seal(folder: Path, srs: Srs, input_mode: InputMode, *, weight_bytes: int) -> Bundle:
    """Return the bundle of a folder in which all was made; its secret files are closed to others.

    ``weight_bytes`` is what the range proof there is for.
    """
    hidden = input_mode is InputMode.COMMITTED
    files = {name: folder / file for name, file in FILES.items()} | {"srs": srs.path}
    if not hidden:
        del files["input_key"]
    files["model"].write_bytes(secrets.token_bytes(SALT_BYTES) + (folder / MODEL).read_bytes())
    for name in SECRET:
        files[name].chmod(0o600)
    description = decode(files["description"].read_bytes())
    interface = Interface.from_json(files["interface"].read_text())
    multipliers = decode_multipliers(files["multipliers"].read_bytes())
    header = description.header
    manifest = CircuitManifest(
        circuit_id="",  # computed from the rest
        engine=NAME,
        engine_version=VERSION,
        input_mode=input_mode,
        weights_mode=WeightsMode.COMMITTED,
        weights=weights_digest(files["commitment"].read_bytes(), multipliers),
        inputs=tuple(spec.batched(header.batch) for spec in interface.inputs),
        output=interface.output.batched(header.batch),
        output_scale=interface.output_scale,
        pins={name: sha256_file(path) for name, path in sorted(files.items())},
        public=frozenset(files) - SECRET - {"srs"},
        development_srs=srs.development
        or VerifierSrs.decode(files["verifier_srs"].read_bytes()).development,
        rows=interface.rows,
        parameters={
            "proof_bytes": description.proof_bytes(hidden=hidden),
            "weight_bytes": weight_bytes,
            "batch": header.batch,
        },
        facts={
            "k": header.k,
            "weight_tiles": header.weight_tiles,
            "row_tiles": header.row_tiles,
            "helper_tiles": header.helper_tiles,
            "description_bytes": files["description"].stat().st_size,
            "range_proof_bytes": files["range_proof"].stat().st_size,
            "weights_bytes": files["weights"].stat().st_size,
        },
    )
    return Bundle(manifest=identified(manifest), files=files)

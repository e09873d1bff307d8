"""What runs in the children that predict, prove and verify: the compiled core, JSON in and out.

Bytes cross the seam as hex. A child keeps the circuits it has loaded: their files are compared with
their pins, and the weights with their commitment, once, when they are loaded. Nothing is imported
here that proving does not need.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkserve.engines.answering import report
from zkserve.engines.native import core
from zkserve.errors import BundleMismatch, EngineFailed, ProofInvalid

HELPER_BLINDS = 16
THREADS_VARIABLE = "ZKSERVE_PROVER_THREADS"
_CIRCUITS_KEPT = 4

_provers: OrderedDict[str, tuple[Any, bytes]] = OrderedDict()


def predict(*, circuit: dict[str, Any], cells: list[int], blind: str | None) -> dict[str, Any]:
    """Run the circuit on quantised inputs; return its outputs and, where it is hidden, ``C_X``.

    ``circuit`` is what :func:`_prover` takes; ``cells`` are in the order (batch, channel, height,
    width).
    """
    (prover, _), inputs = _prover(circuit), _inputs(circuit, cells)
    outputs = [int(output) for output in prover.predict(inputs)]
    commitment = b"" if blind is None else prover.commit_input(inputs, bytes.fromhex(blind))
    return {"outputs": outputs, "commitment": commitment.hex()}


def prove(
    *,
    circuit: dict[str, Any],
    cells: list[int],
    blind: str | None,
    context: str,
    claimed_input: str,
    claimed_outputs: list[int],
) -> str:
    """Prove, and verify the proof; return it.

    Raises:
        ProofInvalid: the inputs do not give what is claimed.

    """
    report("loading the circuit")
    (prover, owner_key), inputs = _prover(circuit), _inputs(circuit, cells)
    wrong = ProofInvalid("The opening does not give this claim: the circuit computes another one.")
    if [int(output) for output in prover.predict(inputs)] != claimed_outputs:
        raise wrong
    try:
        made, outputs, proof = prover.prove(
            bytes.fromhex(context),
            inputs,
            None if blind is None else bytes.fromhex(blind),
            # It only hedges the operating system's randomness: the blinds of the weights serve.
            owner_key,
            report,
            None,
        )
    except (RuntimeError, ValueError) as exc:
        raise EngineFailed("The prover could not make a proof.") from exc
    if made.hex() != claimed_input or list(outputs) != claimed_outputs:
        raise wrong
    return bytes(proof).hex()


def threads() -> int:
    """Return how many threads a proof takes: as set, or one for each CPU this process may use."""
    return int(os.environ.get(THREADS_VARIABLE) or 0) or len(os.sched_getaffinity(0))


def srs_points(k: int) -> int:
    """Return how many points of an SRS a circuit with tiles of ``2**k`` cells needs."""
    return (1 << k) + max(1 << k // 2, HELPER_BLINDS)


def _prover(circuit: dict[str, Any]) -> tuple[Any, bytes]:
    """Return the prover of a circuit, and the blinds of its weights.

    ``circuit`` is ``{"files": {name: [path, sha256]}, "hidden", "weights", "shape", "k"}``.

    Raises:
        BundleMismatch: a file is not the pinned one, or the weights not those committed to.

    """
    key = json.dumps(circuit, sort_keys=True)
    if key not in _provers:
        while len(_provers) >= _CIRCUITS_KEPT:
            _provers.popitem(last=False)
        _provers[key] = _load(circuit)
    _provers.move_to_end(key)
    return _provers[key]


def _load(circuit: dict[str, Any]) -> tuple[Any, bytes]:
    module = core.load()
    for name in ("weights", "srs"):
        _checked(circuit, name)
    with np.load(circuit["files"]["weights"][0], allow_pickle=False) as archive:
        cells, multipliers, blinds = (archive[name] for name in ("cells", "multipliers", "blinds"))
    try:
        srs = module.Srs(circuit["files"]["srs"][0], srs_points(circuit["k"]))
        prover = module.Prover(
            srs,
            _read(circuit, "description"),
            int(circuit["hidden"]),
            cells,
            blinds.tobytes(),
            multipliers.tolist(),
            threads(),
        )
    except (RuntimeError, ValueError) as exc:
        raise EngineFailed(f"The prover cannot load the circuit: {exc}.") from exc
    if bytes(prover.weights).hex() != circuit["weights"]:
        raise BundleMismatch("The weights and blinds do not give the manifest's commitment.")
    return prover, blinds.tobytes()


def _inputs(circuit: dict[str, Any], cells: list[int]) -> NDArray[np.int32]:
    return np.asarray(cells, np.int32).reshape(circuit["shape"])


def _read(circuit: dict[str, Any], name: str) -> bytes:
    data = Path(circuit["files"][name][0]).read_bytes()
    if hashlib.sha256(data).hexdigest() != circuit["files"][name][1]:
        raise _altered(name)
    return data


def _checked(circuit: dict[str, Any], name: str) -> None:
    path, digest = circuit["files"][name]
    with Path(path).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise _altered(name)


def _altered(name: str) -> BundleMismatch:
    return BundleMismatch(
        f"Artifact {name!r} differs from what was pinned at publication.",
        remedy="Fetch the artifacts again; if this stays, do not trust the circuit.",
    )

"""What runs in the children that compile and set circuits up: the untrusted model is read here."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkserve.encoding import FIELD_MODULUS
from zkserve.engines.answering import report
from zkserve.engines.native import core, steps
from zkserve.engines.native.claims import encode_multipliers
from zkserve.engines.native.compiler import compile as compiler
from zkserve.engines.native.evm import solidity
from zkserve.engines.native.groups import group
from zkserve.engines.native.input_key import POINT_BYTES, InputKey
from zkserve.engines.native.inputs import tile_size
from zkserve.engines.native.options import Options
from zkserve.engines.native.protocol import registration
from zkserve.engines.native.protocol.description import decode
from zkserve.engines.native.verifier_srs import HEAD_BYTES, VerifierSrs
from zkserve.errors import EngineFailed, InvalidInput


def unsupported(*, model: str) -> list[str]:
    """Return what keeps a model from this engine, a sentence each.

    Raises:
        ModelRejected: the model is broken.

    """
    return list(compiler.unsupported(Path(model)))


def compile_model(*, model: str, calibration: str, out: str, options: dict[str, Any]) -> int:
    """Compile a model into the folder ``out``; return ``k``.

    Raises:
        ModelRejected: the model cannot be compiled.

    """
    samples = np.load(calibration, allow_pickle=False)
    compiled = compiler.compile_onnx(Path(model), samples, Options(**options), report)
    compiled.save(Path(out))
    return compiled.description.header.k


def make_srs(*, k: int, out: str) -> None:
    """Write a development SRS for circuits with tiles of ``2**k`` cells."""
    core.load().srs_generate(out, steps.srs_points(k), steps.threads())


def import_srs(*, source: str, out: str, k: int) -> None:
    """Write an SRS from a ceremony's ``.ptau`` file, checked by pairings.

    Raises:
        InvalidInput: it cannot be used.

    """
    try:
        core.load().srs_import_ptau(source, out, steps.srs_points(k), steps.threads())
    except ValueError as exc:
        raise InvalidInput(f"The powers of tau cannot be used: {exc}.") from exc


def set_up(*, folder: str, srs: str, hidden: bool, weight_bytes: int) -> None:
    """Draw the blinds, commit to the weights, and make what verifying needs, in ``folder``.

    That the committed weights are integers of ``weight_bytes`` bytes, with which nothing overflows,
    is proved once, here.

    Raises:
        InvalidInput: the SRS is too small, of another form, or not powers of one secret.
        ProofInvalid: the verifier in Python rejects what the compiled one accepts.

    """
    at, module, threads = Path(folder), core.load(), steps.threads()
    data = (at / "description.bin").read_bytes()
    description = decode(data)
    header = description.header
    points = steps.srs_points(header.k)
    report("checking the SRS")
    verifier_srs = VerifierSrs.cut(Path(srs))
    try:
        module.srs_check(srs, points, threads)
    except ValueError as exc:
        raise InvalidInput(
            f"The SRS cannot be used: {exc}.",
            remedy=f"Use a file of at least {points} powers; `zkserve srs import` makes one.",
        ) from exc
    report("committing to the weights")
    cells, multipliers = compiler.load_weights(at / "weights.npz")
    blinds = b"".join(_blind() for _ in range(header.weight_tiles))
    _write_weights(at / "weights.npz", cells, multipliers, blinds)
    loaded = module.Srs(srs, points)
    commitment = bytes(module.commit_weights(loaded, data, cells, blinds, threads))
    if loaded.digest != verifier_srs.digest:
        raise EngineFailed("The SRS changed while it was read.")
    report("proving the ranges of the weights")
    prover = module.Prover(loaded, data, int(hidden), cells, blinds, multipliers, threads)
    try:
        range_proof = bytes(prover.prove_range(weight_bytes, blinds, None, None))
    except (RuntimeError, ValueError) as exc:
        raise EngineFailed(f"The ranges of the weights cannot be proved: {exc}.") from exc
    # A second opinion: whoever relies on this circuit relies on this proof with every prediction.
    registration.verify_registration(
        data, weight_bytes, loaded.digest, loaded.g2_s, prover.weights, range_proof
    )
    (at / "range.proof").write_bytes(range_proof)
    (at / "commitment.bin").write_bytes(commitment)
    (at / "multipliers.bin").write_bytes(encode_multipliers(multipliers))
    (at / "verifier.srs").write_bytes(verifier_srs.encode())
    if hidden:
        report("making the input key")
        with Path(srs).open("rb") as file:
            file.seek(HEAD_BYTES)
            powers = file.read(POINT_BYTES * points)
        key = InputKey.make(powers, tile_size(description), header.k, group(threads))
        key.check(header.k, verifier_srs.g2_s, group(threads))
        (at / "input.key").write_bytes(key.encode())
    report("making the verifier")
    (at / "Verifier.sol").write_text(
        verifier_source(
            description=data.hex(), verifier_srs=verifier_srs.encode().hex(), hidden=hidden
        )
    )


def verifier_source(*, description: str, verifier_srs: str, hidden: bool) -> str:
    """Return the Solidity source of a circuit's verifier; files come as hex."""
    srs = VerifierSrs.decode(bytes.fromhex(verifier_srs))
    return solidity.generate(
        bytes.fromhex(description), srs_digest=srs.digest, g2_s=srs.g2_s, mode=int(hidden)
    )


def _blind() -> bytes:
    """Draw a uniform scalar: 512 bits of the operating system, reduced."""
    drawn = int.from_bytes(secrets.token_bytes(64), "big")
    return (drawn % FIELD_MODULUS).to_bytes(32, "big")


def _write_weights(
    path: Path, cells: NDArray[np.int32], multipliers: Sequence[int], blinds: bytes
) -> None:
    path.unlink(missing_ok=True)  # made anew with its mode: a confined child changes none
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        np.savez(
            file,
            cells=cells,
            multipliers=np.array(multipliers, np.uint32),
            blinds=np.frombuffer(blinds, np.uint8),
        )

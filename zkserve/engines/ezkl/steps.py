"""What runs in the child: every call into ezkl, with JSON in and out.

Field elements cross the seam as Python integers below the field's order. Files that hold inputs
(witness, proof input) are made in a temporary folder inside the child's private one and are gone
when a step returns; if the child is killed its parent removes that folder. No ONNX library is
loaded here: proofs of small circuits are quicker than that. :mod:`zkserve.engines.ezkl.compiling`
needs one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ezkl

from zkserve.engines.answering import report
from zkserve.engines.ezkl.seam import from_felt, scratch, text_of, to_felt, wrapped
from zkserve.engines.ezkl.settings import Settings
from zkserve.engines.ezkl.verifier_source import patch
from zkserve.errors import EngineFailed, InputOutOfRange, InvalidInput, ProofInvalid
from zkserve.types import InputMode

_SRS_POINT_BYTES = 64
_SRS_TAIL_BYTES = 256


def make_srs(*, log_size: int, out: str) -> None:
    """Sample an SRS with a local secret."""
    with wrapped(EngineFailed, "ezkl cannot make an SRS"):
        ezkl.gen_srs(out, log_size)


def make_keys(*, folder: str, srs: str) -> None:
    """Make the keys, the verification SRS and the Solidity verifier in the compiled ``folder``.

    Verification needs only the first group element and the two of G2, so ``verifier.srs`` is the
    SRS cut to size 1: log2 of its size (4 bytes), the generator twice (as the one power and the one
    Lagrange element), then the G2 elements as in the full file: 388 bytes.

    Raises:
        InvalidInput: the SRS file is too small or has another form.

    """
    at = Path(folder)
    logrows = Settings.read(at / "settings.json").logrows
    with Path(srs).open("rb") as file:
        log_size = int.from_bytes(file.read(4), "little")
        size_bytes = 4 + (2 * _SRS_POINT_BYTES << min(log_size, 40)) + _SRS_TAIL_BYTES
        if logrows > log_size or Path(srs).stat().st_size != size_bytes:
            raise InvalidInput(
                f"The SRS file is broken or too small: it says it has 2^{log_size} points; the "
                f"circuit needs 2^{logrows}.",
                remedy="Use an SRS of at least that size.",
            )
        generator = file.read(_SRS_POINT_BYTES)
        file.seek(-_SRS_TAIL_BYTES, os.SEEK_END)
        tail = file.read()
    (at / "verifier.srs").write_bytes(bytes(4) + 2 * generator + tail)
    with wrapped(EngineFailed, "ezkl cannot set up the circuit"):
        ezkl.setup(
            str(at / "model.compiled"),
            str(at / "vk.key"),
            str(at / "pk.key"),
            srs,
            witness_path=None,
            disable_selector_compression=False,
        )
    report("exporting the verifier")
    (at / "Verifier.sol").write_text(
        export_verifier(
            settings=str(at / "settings.json"), verifying_key=str(at / "vk.key"), srs=srs
        )
    )


def export_verifier(*, settings: str, verifying_key: str, srs: str) -> str:
    """Return the patched Solidity source of a circuit's verifier."""
    import asyncio  # late: this alone needs it, and loading it is a twentieth of a small proof

    with scratch() as folder:
        raw = folder / "raw.sol"
        try:
            asyncio.run(
                _create_verifier(verifying_key, settings, str(raw), str(folder / "abi.json"), srs)
            )
        except Exception as exc:
            # It writes the source and only then asks for a Solidity compiler, which is not there.
            if "svm" not in str(exc) or not raw.is_file():
                raise EngineFailed(f"ezkl cannot export a verifier: {text_of(exc)}.") from exc
        return patch(raw.read_text())


async def _create_verifier(key: str, settings: str, source: str, abi: str, srs: str) -> None:
    await ezkl.create_evm_verifier(key, settings, source, abi, srs, reusable=False)


def witness(*, settings: str, compiled: str, elements: list[int]) -> list[int]:
    """Run the circuit on quantised inputs and salt; return the public instances in circuit order.

    Raises:
        InputOutOfRange: proving this witness would fail or hang.

    """
    with scratch() as folder:
        return _witness(Settings.read(Path(settings)), compiled, elements, folder / "witness.json")


def poseidon(*, elements: list[int]) -> int:
    """Return the hash that the circuit makes of its input tensor."""
    with wrapped(EngineFailed, "ezkl cannot hash"):
        (digest,) = ezkl.poseidon_hash([to_felt(element) for element in elements])
    return from_felt(digest)


def prove(
    *,
    settings: str,
    compiled: str,
    proving_key: str,
    verifying_key: str,
    srs: str,
    verifier_srs: str,
    elements: list[int],
    instances: list[int] | None,
) -> dict[str, Any]:
    """Prove, and verify the proof; return ``{"instances", "proof"}`` with the proof as hex.

    ``elements`` are the quantised inputs and salt; ``instances`` is what the claim says, ``None``
    at setup, where there is no claim yet; the others are paths.

    Raises:
        ProofInvalid: the elements do not give these instances, or the proof came out wrong.
        InputOutOfRange: proving this witness would fail or hang.

    """
    with scratch() as folder:
        path, made = folder / "witness.json", folder / "proof.json"
        found = _witness(Settings.read(Path(settings)), compiled, elements, path)
        if instances is not None and found != instances:
            raise ProofInvalid(
                "The opening does not give this claim: the circuit computes another input "
                "commitment, weights hash or output from it."
            )
        report("proving")
        with wrapped(EngineFailed, "ezkl cannot prove"):
            ezkl.prove(str(path), compiled, proving_key, str(made), srs)
        proof = json.loads(made.read_text())
    if [from_felt(felt) for column in proof["instances"] for felt in column] != found:
        raise ProofInvalid("The prover made a proof of something else than the claim.")
    report("verifying")
    data: str = proof["hex_proof"].removeprefix("0x")
    verify(
        settings=settings,
        verifying_key=verifying_key,
        verifier_srs=verifier_srs,
        instances=found,
        proof=data,
    )
    return {"instances": found, "proof": data}


def weights_commitments(
    *, compiled: str, verifying_key: str, srs: str, elements: list[int]
) -> list[int]:
    """Return the x of each point that ``polycommit`` commits to the weights with, in order."""
    with scratch() as folder:
        data, path = folder / "input.json", folder / "witness.json"
        data.write_text(json.dumps({"input_data": [[to_felt(element) for element in elements]]}))
        with wrapped(EngineFailed, "ezkl cannot commit to the weights"):
            ezkl.gen_witness(str(data), compiled, str(path), vk_path=verifying_key, srs_path=srs)
        found = json.loads(path.read_text())["processed_params"]["polycommit"]
    # Compressed points: x, little-endian, below two bits that tell y and infinity.
    return [from_felt(point) % (1 << 254) for tensor in found for point in tensor]


def verify(
    *, settings: str, verifying_key: str, verifier_srs: str, instances: list[int], proof: str
) -> None:
    """Return if the proof (hex) proves the instances.

    Raises:
        ProofInvalid: it does not.

    """
    with scratch() as folder:
        path = folder / "proof.json"
        path.write_text(
            json.dumps(
                {
                    "instances": [[to_felt(instance) for instance in instances]],
                    "proof": list(bytes.fromhex(proof)),
                    "hex_proof": "0x" + proof,
                    "transcript_type": "EVM",
                }
            )
        )
        with wrapped(ProofInvalid, "The proof does not prove the claim"):
            valid = ezkl.verify(str(path), settings, verifying_key, verifier_srs, reduced_srs=False)
    if valid is not True:
        raise ProofInvalid("The proof does not prove the claim.")


def _witness(settings: Settings, compiled: str, elements: list[int], path: Path) -> list[int]:
    data = path.with_name("input.json")
    data.write_text(json.dumps({"input_data": [[to_felt(element) for element in elements]]}))
    with wrapped(InputOutOfRange, "The circuit cannot compute on this input"):
        ezkl.gen_witness(str(data), compiled, str(path), vk_path=None, srs_path=None)
    found = json.loads(path.read_text())
    settings.check_lookups(found["min_lookup_inputs"], found["max_lookup_inputs"])
    processed = found["processed_params"] or {}
    weights = processed.get("poseidon_hash") or []
    outputs = [felt for column in found["outputs"] for felt in column]
    # Hashes come first, then what is public as it is: the order in which ezkl lays instances out.
    if settings.input_mode is InputMode.PUBLIC:
        inputs = [felt for column in found["inputs"] for felt in column]
        instances = [*weights, *inputs, *outputs]
    else:
        instances = [*found["processed_inputs"]["poseidon_hash"], *weights, *outputs]
    return [from_felt(felt) for felt in instances]

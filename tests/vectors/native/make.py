"""Write the proof vectors anew: ``python -m tests.vectors.native.make`` from the repository.

Weights and inputs are random and small; cells of padding are random too, since nothing may read
them. Every case is rejected by the Python verifier before it is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.native_circuits import CIRCUITS
from tests.native_vectors import FOLDER, Case, ProofVector, altered, parts, write
from zkserve.engines.native import core
from zkserve.engines.native.curve import ORDER
from zkserve.engines.native.description import Description
from zkserve.engines.native.transcript import context
from zkserve.engines.native.verifier import verify
from zkserve.errors import ProofInvalid

CHAIN_ID, REGISTRY, VERSION_ID = 31337, "0x1234567890123456789012345678901234567890", 7
MULTIPLIERS = {
    "dense": [900, 300],
    "convolutions": [600, 9000, 5000, 7000, 20000, 300, 40000, 9000, 20000, 30000, 60000, 300],
    "wide": [65535, 60000, 50000, 65000, 777, 65535],
}


def main() -> None:
    """Make every file."""
    extension = core.load()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "srs")
        extension.srs_generate(path, (1 << 10) + 32)
        srs = extension.Srs(path, 0)
        for name, make in CIRCUITS.items():
            for mode in (0, 1):
                vector = prove(extension, srs, name, make(), mode)
                (FOLDER / f"{vector.name}.json").write_text(write(vector))


def prove(extension: object, srs: object, name: str, d: Description, mode: int) -> ProofVector:
    """Return an honest proof and its cases."""
    rng = np.random.default_rng(len(name))
    h, tensor = d.header, d.tensors[0]
    cells = rng.integers(-7, 8, h.weight_tiles << h.k, dtype=np.int32)
    blinds = b"".join(rng.bytes(31).rjust(32, b"\0") for _ in range(h.weight_tiles))
    multipliers = MULTIPLIERS[name]
    prover = extension.Prover(srs, d.encode(), mode, cells, blinds, multipliers, 1)
    shape = (h.batch, tensor.channels, tensor.height, tensor.width)
    values = rng.integers(0, 256**h.input_bytes, shape, dtype=np.int32)
    where = context(chain_id=CHAIN_ID, registry=REGISTRY, version_id=VERSION_ID)
    blind = rng.bytes(31).rjust(32, b"\0") if mode else None
    claimed, outputs, proof = prover.prove(where, values, blind, rng.bytes(32))
    vector = ProofVector(
        name=f"{name}-{'hidden' if mode else 'public'}",
        description=d.encode(),
        srs_digest=srs.digest,
        g2_s=srs.g2_s,
        chain_id=CHAIN_ID,
        registry=REGISTRY,
        version_id=VERSION_ID,
        context=where,
        mode=mode,
        weights=prover.weights,
        input=claimed,
        outputs=tuple(outputs),
        proof=proof,
        cases=tuple(cases(d, mode, claimed, tuple(outputs), proof)),
    )
    verify(vector.description, **vector.arguments())
    for case in vector.cases:
        try:
            verify(vector.description, **vector.arguments(case))
        except ProofInvalid:
            continue
        raise SystemExit(f"{vector.name} accepts {case}")
    return vector


def cases(
    d: Description, mode: int, claimed: bytes, outputs: tuple[int, ...], proof: bytes
) -> Iterator[Case]:
    """Yield edits: the last bit of every third part, and every special value once a kind."""
    seen: set[str] = set()
    for number, part in enumerate(parts(d, hidden=bool(mode))):
        group = part.name.split(" ")[0]
        for what, data in altered(proof, part):
            if what == "last bit":
                if number % 3 == mode:
                    at = part.at + part.size - 1
                    yield Case(at=at, data=data[-1:], field="proof", name=part.name)
            elif (group, what) not in seen and mode == 0:
                seen.add((group, what))
                yield Case(at=part.at, data=data, field="proof", name=f"{part.name}, {what}")
    for at in (0, len(proof) - 1, len(proof) + 1, len(proof) + 32):
        yield Case(at=at, data=b"", field="length", name=f"a proof of {at} bytes")
    for value, name in (
        (outputs[0] + 1, "another output"),
        (-outputs[0] - 1, "an output of another sign"),
        (outputs[0] + ORDER, "an output plus the modulus"),
        (1 << 62, "an output of 63 bits"),
        (-(1 << 62), "an output of minus 63 bits"),
    ):
        yield Case(at=0, data=value.to_bytes(32, "big", signed=True), field="outputs", name=name)
    at = len(outputs) - 1
    last = (outputs[at] - 1).to_bytes(32, "big", signed=True)
    yield Case(at=at, data=last, field="outputs", name="the last output")
    yield Case(at=at, data=b"", field="outputs_length", name="an output less")
    yield Case(at=at + 2, data=b"", field="outputs_length", name="an output more")
    for at in (0, len(claimed) // 2, len(claimed) - 1):
        data = bytes([claimed[at] ^ 1])
        yield Case(at=at, data=data, field="input", name=f"byte {at} of the input")
    packing, width = d.input_packing, d.tensors[0].width
    if mode == 0 and packing.words_per_row * packing.per_word > width:
        at = width * packing.value_bytes
        yield Case(at=at, data=b"\1", field="input", name="padding of the input")
    yield Case(at=len(claimed) - 1, data=b"", field="input_length", name="a byte less of input")
    yield Case(at=len(claimed) + 1, data=b"", field="input_length", name="a byte more of input")
    yield Case(at=0, data=bytes(32), field="weights", name="no weights")
    yield Case(at=0, data=bytes(32), field="context", name="no context")


if __name__ == "__main__":
    main()

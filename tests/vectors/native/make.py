"""Write the proof vectors anew: ``python -m tests.vectors.native.make`` from the repository.

Weights and inputs are random and small; cells of padding are random too, since nothing may read
them. Every case is rejected by the Python verifier before it is written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.native_circuits import CIRCUITS
from tests.native_proofs import Version, development_srs
from tests.native_vectors import FOLDER, Case, ProofVector, altered, parts, write
from zkserve.engines.native.protocol.curve import ORDER
from zkserve.engines.native.protocol.description import Description
from zkserve.engines.native.protocol.verifier import verify
from zkserve.errors import ProofInvalid


def main() -> None:
    """Make every file."""
    with tempfile.TemporaryDirectory() as folder:
        srs = development_srs(Path(folder))
        for name, make in CIRCUITS.items():
            for mode in (0, 1):
                version = Version(srs, name, make(), mode)
                vector = with_cases(make(), version.prove(version.input()))
                (FOLDER / f"{vector.name}.json").write_text(write(vector))


def with_cases(d: Description, vector: ProofVector) -> ProofVector:
    """Return the vector with its cases, each of which the Python verifier rejects."""
    vector = replace(
        vector,
        cases=tuple(cases(d, vector.mode, vector.input, vector.outputs, vector.proof)),
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

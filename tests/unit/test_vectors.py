"""Vectors cross languages: Python writes ``tests/vectors``, Solidity reads them.

After a deliberate change of a digest, write them anew with ``python tests/unit/test_vectors.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

from zkserve.encoding import FIELD_MODULUS, OUTPUT_BOUND, claim_digest
from zkserve.types import Claim

CLAIMS = Path(__file__).parents[1] / "vectors" / "claims.json"


def claims() -> list[Claim]:
    def word(digits: str) -> str:
        return "0x" + digits * 32

    def make(data: bytes, outputs: tuple[int, ...], circuit: str = "11") -> Claim:
        return Claim(circuit_id=word(circuit), weights=word("22"), input=data, outputs=outputs)

    return [
        make(b"\x01\x02", (76, -77)),
        make(b"\x01\x02", (-77, 76)),
        make(b"", ()),
        make(b"\x00", (0,)),
        make(bytes(31) + b"\x01", (0, 0)),
        make((FIELD_MODULUS - 1).to_bytes(32, "big"), (OUTPUT_BOUND - 1, 1 - OUTPUT_BOUND)),
        make(bytes(range(256)), tuple(range(-20, 20)), circuit="ff"),
    ]


def vectors() -> str:
    entries = [
        {
            "circuit_id": claim.circuit_id,
            "weights": claim.weights,
            "input": "0x" + claim.input.hex(),
            "outputs": [str(output) for output in claim.outputs],
            "digest": claim_digest(claim),
        }
        for claim in claims()
    ]
    return json.dumps({"count": len(entries), "claims": entries}, indent=2) + "\n"


def test_claim_vectors_are_what_python_computes():
    assert CLAIMS.read_text() == vectors()


def test_claim_vectors_are_all_different():
    digests = [claim_digest(claim) for claim in claims()]
    assert len(set(digests)) == len(digests)


if __name__ == "__main__":
    CLAIMS.write_text(vectors())

"""Proofs of small native circuits with edits that every verifier must reject.

The files in ``tests/vectors/native`` are read in three languages. One file is one circuit, one
mode, one proof; each of its cases is the file with one edit:

============== ===================================================================================
field          edit
============== ===================================================================================
proof, input,  the bytes from ``at`` on become ``data``; ``context`` is the one that the verifier
weights,       expects, not the proof's
context
outputs        output number ``at`` becomes the signed 32-byte word ``data``
length,        proof or input is cut to ``at`` bytes or filled with zeros up to that length
input_length
outputs_length the outputs are cut to ``at`` or filled with zeros up to that number
============== ===================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zkserve.engines.native.protocol.curve import FIELD, ORDER
from zkserve.engines.native.protocol.description import Description

FOLDER = Path(__file__).parent / "vectors" / "native"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One edit."""

    at: int
    data: bytes
    field: str
    name: str


@dataclass(frozen=True, kw_only=True)
class ProofVector:
    """A claim and its proof; ``description`` and the SRS are what a verifier trusts."""

    name: str
    description: bytes
    srs_digest: bytes
    g2_s: bytes
    chain_id: int
    registry: str
    version_id: int
    context: bytes
    mode: int
    weights: bytes
    input: bytes
    outputs: tuple[int, ...]
    proof: bytes
    cases: tuple[Case, ...]

    def arguments(self, case: Case | None = None) -> dict[str, Any]:
        """Return the arguments of a verifier, edited."""
        values: dict[str, Any] = {
            "srs_digest": self.srs_digest,
            "g2_s": self.g2_s,
            "context": self.context,
            "mode": self.mode,
            "weights": self.weights,
            "input": self.input,
            "outputs": list(self.outputs),
            "proof": self.proof,
        }
        if case is None:
            return values
        at, data = case.at, case.data
        if case.field == "outputs":
            values["outputs"][at] = int.from_bytes(data, "big", signed=True)
        elif case.field == "outputs_length":
            values["outputs"] = (values["outputs"] + [0] * at)[:at]
        elif case.field.endswith("length"):
            field = "input" if case.field == "input_length" else "proof"
            values[field] = (values[field] + bytes(at))[:at]
        else:
            old = values[case.field]
            values[case.field] = old[:at] + data + old[at + len(data) :]
        return values


def read(path: Path) -> ProofVector:
    """Read one file."""
    raw = json.loads(path.read_text())
    chain = raw.pop("chain")
    raw.pop("expected")
    fixed = {"description", "srs_digest", "g2_s", "context", "weights", "input", "proof"}
    values = {key: _bytes(value) if key in fixed else value for key, value in raw.items()}
    values["outputs"] = tuple(int(value) for value in raw["outputs"])
    values["cases"] = tuple(Case(**case | {"data": _bytes(case["data"])}) for case in raw["cases"])
    return ProofVector(
        **values,
        chain_id=chain["id"],
        registry=chain["registry"],
        version_id=int(chain["version"]),
    )


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def write(vector: ProofVector) -> str:
    """Return the file of a vector: keys of a case are in alphabetical order, one case a line."""
    head = {
        "name": vector.name,
        "description": "0x" + vector.description.hex(),
        "srs_digest": "0x" + vector.srs_digest.hex(),
        "g2_s": "0x" + vector.g2_s.hex(),
        "chain": {
            "id": vector.chain_id,
            "registry": vector.registry,
            "version": str(vector.version_id),
        },
        "context": "0x" + vector.context.hex(),
        "mode": vector.mode,
        "weights": "0x" + vector.weights.hex(),
        "input": "0x" + vector.input.hex(),
        "outputs": [str(value) for value in vector.outputs],
        "proof": "0x" + vector.proof.hex(),
        "expected": True,
    }
    cases = [
        json.dumps({"at": c.at, "data": "0x" + c.data.hex(), "field": c.field, "name": c.name})
        for c in vector.cases
    ]
    body = json.dumps(head, indent=1).removesuffix("\n}")
    return body + ',\n "cases": [\n  ' + ",\n  ".join(cases) + "\n ]\n}\n"


def files() -> list[Path]:
    """Return the files of proofs."""
    return sorted([*FOLDER.glob("*-public.json"), *FOLDER.glob("*-hidden.json")])


@dataclass(frozen=True, kw_only=True)
class Part:
    """A scalar, a point, a multiplier or the context, at its place in a proof."""

    name: str
    kind: str
    at: int
    size: int


def parts(d: Description, *, hidden: bool) -> Iterator[Part]:
    """Yield every part of a proof in order, section 12."""
    h = d.header
    rounds = [f"main round {i + 1} c{e}" for i, degree in enumerate(d.degrees)
              for e in (0, *range(2, degree + 1))]  # fmt: skip
    layout = [
        ("context", ["context"]),
        ("point", [f"C_W {i}" for i in range(h.weight_tiles)] + ["C_X"] * hidden),
        ("multiplier", [f"M {i}" for i in range(d.multipliers)]),
        ("point", [f"C_w {i}" for i in range(h.row_tiles)]),
        ("point", [f"C_h {i}" for i in range(h.helper_tiles)]),
        ("scalar", ["V", *rounds]),
        ("scalar", [f"E {i}" for i in range(d.evaluations)] + ["s_M"]),
        ("scalar", [f"final round {i + 1} c{e}" for i in range(h.k) for e in (0, 2)]),
        ("point", ["[h]", "[q*]", "[g]", "[S]"]),
        ("scalar", ["g(zeta)", "g(1/zeta)", "h(zeta)", "h(1/zeta)", "S(zeta)", "1/zeta"]),
        ("point", ["W1", "W2"]),
    ]
    at = 0
    for kind, names in layout:
        size = {"context": 32, "point": 64, "multiplier": 4, "scalar": 32}[kind]
        for name in names:
            yield Part(name=name, kind=kind, at=at, size=size)
            at += size


def altered(proof: bytes, part: Part) -> Iterator[tuple[str, bytes]]:
    """Yield (what it is, bytes) of other values of a part: near, special and not canonical."""
    own = proof[part.at : part.at + part.size]
    yield "last bit", own[:-1] + bytes([own[-1] ^ 1])
    if part.kind == "scalar":
        value = int.from_bytes(own, "big")
        yield "plus the modulus", (value + ORDER).to_bytes(32, "big")
        yield "negated", (-value % ORDER).to_bytes(32, "big")
        if value:
            yield "zero", bytes(32)
    elif part.kind == "point":
        x, y = own[:32], int.from_bytes(own[32:], "big")
        yield "the opposite point", x + (-y % FIELD).to_bytes(32, "big")
        yield "infinity", bytes(64)
        yield "plus the modulus", (int.from_bytes(x, "big") + FIELD).to_bytes(32, "big") + own[32:]
        yield "the generator", (1).to_bytes(32, "big") + (2).to_bytes(32, "big")
    elif part.kind == "multiplier":
        yield "zero", bytes(4)
        yield "too large", (1 << 16).to_bytes(4, "big")

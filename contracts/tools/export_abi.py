"""Export what Python needs of the built contracts to ``zkserve/chain/abi/<Contract>.json``.

Run after ``forge build``, from anywhere: ``python contracts/tools/export_abi.py``. Each file holds
``abi``, ``bytecode`` (creation code, hex), ``runtime_sha256`` (of the deployed code with the places
of its immutables zeroed, so that it holds whatever the constructor was given) and ``immutables``
(those places, as ``[start, length]`` in bytes), with which a deployed contract can be compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

CONTRACTS = ("ModelRegistry", "PredictionMarket", "EzklVerifier", "SecondOpinion")
ROOT = Path(__file__).parents[2]
OUT = ROOT / "zkserve" / "chain" / "abi"


def export(name: str, build: Path) -> str:
    """Return the exported file's text for one contract of a forge ``out`` folder."""
    artifact = json.loads((build / f"{name}.sol" / f"{name}.json").read_text())
    runtime = artifact["deployedBytecode"]
    places = sorted(
        [place["start"], place["length"]]
        for variable in runtime.get("immutableReferences", {}).values()
        for place in variable
    )
    code = bytearray.fromhex(runtime["object"].removeprefix("0x"))
    for start, length in places:
        code[start : start + length] = bytes(length)
    exported = {
        "contract": name,
        "abi": artifact["abi"],
        "bytecode": artifact["bytecode"]["object"],
        "runtime_sha256": hashlib.sha256(code).hexdigest(),
        "immutables": places,
    }
    return json.dumps(exported, indent=1, sort_keys=True) + "\n"


def main() -> None:
    """Export all contracts."""
    parser = argparse.ArgumentParser(description="Export ABIs and bytecode for Python.")
    parser.add_argument("--build", type=Path, default=ROOT / "contracts" / "out")
    build = parser.parse_args().build
    OUT.mkdir(exist_ok=True)
    for name in CONTRACTS:
        (OUT / f"{name}.json").write_text(export(name, build))


if __name__ == "__main__":
    main()

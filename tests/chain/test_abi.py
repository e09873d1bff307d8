"""What Python deploys and calls is what the Solidity sources give."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRACTS = ROOT / "contracts"
ABI = ROOT / "zkserve" / "chain" / "abi"

EXPORTER = runpy.run_path(str(CONTRACTS / "tools" / "export_abi.py"))

pytestmark = [
    pytest.mark.chain,
    pytest.mark.skipif(
        not (CONTRACTS / "node_modules").exists() or not shutil.which("node"),
        reason="needs Node and `npm ci` in contracts/",
    ),
]


@pytest.fixture(scope="module")
def fresh_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forge")
    out = folder / "out"
    command = ["tools/forge", "build", "--skip", "test", "--force", "--out", str(out)]
    environment = os.environ | {"FOUNDRY_CACHE_PATH": str(folder / "cache")}
    done = subprocess.run(
        command, cwd=CONTRACTS, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("name", EXPORTER["CONTRACTS"])
def test_export_matches_a_fresh_build(name: str, fresh_build: Path):
    committed = (ABI / f"{name}.json").read_text()
    assert committed == EXPORTER["export"](name, fresh_build), (
        "run `forge build` in contracts/ and `python contracts/tools/export_abi.py`"
    )


def test_nothing_else_is_exported():
    assert {path.stem for path in ABI.glob("*.json")} == set(EXPORTER["CONTRACTS"])


@pytest.mark.parametrize("name", EXPORTER["CONTRACTS"])
def test_deployable_code_fits_eip_170_and_eip_3860(name: str, fresh_build: Path):
    artifact = json.loads((fresh_build / f"{name}.sol" / f"{name}.json").read_text())
    assert len(artifact["deployedBytecode"]["object"][2:]) // 2 <= 24_576
    assert len(artifact["bytecode"]["object"][2:]) // 2 <= 49_152


def test_a_failing_forge_is_not_taken_for_a_good_one():
    failed = subprocess.run(
        ["tools/forge", "no-such-command"], cwd=CONTRACTS, capture_output=True, check=False
    )
    assert failed.returncode != 0

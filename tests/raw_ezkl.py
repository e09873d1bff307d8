"""ezkl as it comes, without zkserve's checks: a step for a child process."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import ezkl
import numpy as np

from zkserve.types import FIELD_MODULUS

SCALE, BASE, LEGS = 8, 2048, 4


def outputs(*, model: str, samples: str, prove: bool) -> list[list[float]]:
    """Return what the circuit of a model makes of each row of a ``.npy`` file.

    With ``prove`` the last row is proved and verified too.
    """
    rows = np.load(samples)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        at = {
            name: str(Path(folder, name))
            for name in ("settings", "compiled", "vk", "pk", "srs", "data", "witness", "proof")
        }
        settings = _compile(model, rows, at)
        found = [_run(row, settings, at) for row in rows]
        if prove:
            ezkl.gen_srs(at["srs"], settings["run_args"]["logrows"])
            ezkl.setup(at["compiled"], at["vk"], at["pk"], at["srs"])
            ezkl.prove(at["witness"], at["compiled"], at["pk"], at["proof"], at["srs"])
            assert ezkl.verify(at["proof"], at["settings"], at["vk"], at["srs"])
            proved = json.loads(Path(at["proof"]).read_text())["instances"][0]
            assert _reals(proved[-len(found[-1]) :], settings) == found[-1]
    return found


def _compile(model: str, rows: np.ndarray, at: dict[str, str]) -> dict[str, Any]:
    arguments = ezkl.PyRunArgs()
    arguments.input_visibility = arguments.output_visibility = "public"
    arguments.param_visibility = "fixed"
    arguments.check_mode = "SAFE"
    arguments.input_scale = arguments.param_scale = SCALE
    arguments.decomp_base, arguments.decomp_legs = BASE, LEGS
    ezkl.gen_settings(model, at["settings"], py_run_args=arguments)
    Path(at["data"]).write_text(json.dumps({"input_data": [rows.reshape(-1).tolist()]}))
    ezkl.calibrate_settings(
        at["data"], model, at["settings"], "resources", scales=[SCALE], scale_rebase_multiplier=[1]
    )
    ezkl.compile_circuit(model, at["compiled"], at["settings"])
    found: dict[str, Any] = json.loads(Path(at["settings"]).read_text())
    return found


def _run(row: np.ndarray, settings: dict[str, Any], at: dict[str, str]) -> list[float]:
    (scale,) = settings["model_input_scales"]
    cells = [round(float(value) * 2**scale) % FIELD_MODULUS for value in row]
    felts = [cell.to_bytes(32, "little").hex() for cell in cells]
    Path(at["data"]).write_text(json.dumps({"input_data": [felts]}))
    ezkl.gen_witness(at["data"], at["compiled"], at["witness"])
    return _reals(json.loads(Path(at["witness"]).read_text())["outputs"][0], settings)


def _reals(felts: list[str], settings: dict[str, Any]) -> list[float]:
    (scale,) = settings["model_output_scales"]
    cells = [int.from_bytes(bytes.fromhex(felt), "little") for felt in felts]
    half = FIELD_MODULUS // 2
    return [(cell if cell < half else cell - FIELD_MODULUS) / 2**scale for cell in cells]

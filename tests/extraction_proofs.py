"""Tiny circuits and real proofs of them, made with ezkl alone, to be attacked.

All of it runs in a child process (:func:`in_child`): ezkl is never loaded beside pytest.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.models import save

SCALE = 4
"""Inputs and weights are multiples of 1/16."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A dense layer, followed by ReLU or not: ``outputs * (inputs + 1)`` weights."""

    inputs: int
    outputs: int
    relu: bool = False

    @property
    def weights(self) -> int:
        """Number of weights, biases among them."""
        return self.outputs * (self.inputs + 1)

    def write(self, path: Path, weights: Sequence[int]) -> None:
        """Write the ONNX model with these quantised weights, output by output, then biases."""
        values = np.array(weights, np.float32) / (1 << SCALE)
        matrix, bias = values[: -self.outputs], values[-self.outputs :]
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
        if self.relu:
            nodes = [
                helper.make_node("Gemm", ["x", "w", "b"], ["a"], transB=1),
                helper.make_node("Relu", ["a"], ["y"]),
            ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, self.inputs])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, self.outputs])],
            [
                numpy_helper.from_array(matrix.reshape(self.outputs, self.inputs), "w"),
                numpy_helper.from_array(bias, "b"),
            ],
        )
        save(graph, path)


def in_child(step: Callable[..., Any], *arguments: object) -> Any:
    """Call a step of this module in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(step, *arguments).result()


def set_up(folder: Path, mode: str, shape: Shape, weights: Sequence[int]) -> None:
    """Make all that an owner makes: settings, compiled model, SRS, keys and verifier."""
    _prepare(folder)
    import ezkl

    shape.write(Path("model.onnx"), weights)
    arguments = ezkl.PyRunArgs()
    arguments.param_visibility = mode
    arguments.input_visibility = arguments.output_visibility = "public"
    arguments.input_scale = arguments.param_scale = SCALE
    arguments.num_inner_cols = 1
    arguments.decomp_base, arguments.decomp_legs = 16, 3
    arguments.check_mode = "SAFE"
    arguments.logrows = 6  # calibration takes what it needs, starting from here
    ezkl.gen_settings("model.onnx", "settings.json", py_run_args=arguments)
    samples = np.random.default_rng(1).uniform(-1, 1, size=20 * shape.inputs)
    Path("calibration.json").write_text(json.dumps({"input_data": [samples.tolist()]}))
    ezkl.calibrate_settings(
        "calibration.json",
        "model.onnx",
        "settings.json",
        "resources",
        scales=[SCALE],
        scale_rebase_multiplier=[1],
    )
    _make_keys(ezkl)


def rehearse(folder: Path, owner: Path, shape: Shape, weights: Sequence[int]) -> None:
    """Make the attacker's circuit: the owner's public settings and SRS, other weights."""
    _prepare(folder)
    import ezkl

    shape.write(Path("model.onnx"), weights)
    for name in ("settings.json", "kzg.srs"):
        shutil.copy(owner / name, name)
    _make_keys(ezkl)


def prove(folder: Path, inputs: list[list[float]]) -> list[tuple[bytes, list[int]]]:
    """Return proofs and their public instances, each verified."""
    _prepare(folder)
    import ezkl

    made = []
    for values in inputs:
        Path("input.json").write_text(json.dumps({"input_data": [values]}))
        ezkl.gen_witness(
            "input.json", "model.compiled", "witness.json", vk_path="vk.key", srs_path="kzg.srs"
        )
        ezkl.prove("witness.json", "model.compiled", "pk.key", "proof.json", "kzg.srs")
        assert ezkl.verify("proof.json", "settings.json", "vk.key", "kzg.srs") is True
        proof = json.loads(Path("proof.json").read_text())
        instances = [
            int.from_bytes(bytes.fromhex(felt), "little")
            for column in proof["instances"]
            for felt in column
        ]
        made.append((bytes.fromhex(proof["hex_proof"].removeprefix("0x")), instances))
    return made


def _make_keys(ezkl: Any) -> None:
    ezkl.compile_circuit("model.onnx", "model.compiled", "settings.json")
    if not Path("kzg.srs").exists():
        settings = json.loads(Path("settings.json").read_text())
        ezkl.gen_srs("kzg.srs", settings["run_args"]["logrows"])
    ezkl.setup("model.compiled", "vk.key", "pk.key", "kzg.srs")

    async def export() -> None:
        await ezkl.create_evm_verifier(
            "vk.key", "settings.json", "Verifier.sol", "abi.json", "kzg.srs", reusable=False
        )

    with suppress(RuntimeError):  # it wants a compiler once the source is written
        asyncio.run(export())


def _prepare(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    os.environ["EZKL_REPO_PATH"] = str(folder)
    with Path(os.devnull).open("w") as nowhere:
        for stream in (1, 2):  # what ezkl prints
            os.dup2(nowhere.fileno(), stream)

"""What runs in the child that reads an untrusted model and compiles it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ezkl
import numpy as np
import onnx

from zkserve.engines import onnx_model
from zkserve.engines.answering import report
from zkserve.engines.base import FloatArray
from zkserve.engines.ezkl import faults, secret, surgery
from zkserve.engines.ezkl.seam import scratch, wrapped
from zkserve.engines.ezkl.settings import require_rows
from zkserve.errors import EngineFailed, ModelRejected
from zkserve.types import TensorSpec, WeightsMode


def compile_model(
    *,
    model: str,
    calibration: str,
    out: str,
    run_args: dict[str, Any],
    salt_count: int,
    lookup_margin: int,
    max_logrows: int,
    logrows: int | None,
    lookup_range: tuple[int, int],
    batch: int,
    halved_relus: bool,
) -> dict[str, Any]:
    """Check, rewrite, calibrate and compile a model; return the names and shapes of its tensors.

    ``out`` receives ``settings.json`` and ``model.compiled``. With ``logrows`` nothing is
    calibrated: lookup tables cover ``lookup_range``.

    Raises:
        ModelRejected: the model is not allowed, ezkl cannot compile it, or it does not fit in the
            rows that were asked for.

    """
    report("checking the model")
    original = faults.load(Path(model))
    samples = np.load(calibration, allow_pickle=False)
    flat, samples = surgery.prepare(original, samples, salt_count, batch, halved_relus=halved_relus)
    settings, compiled = Path(out, "settings.json"), Path(out, "model.compiled")
    with scratch() as folder, wrapped(ModelRejected, "ezkl cannot compile the model"):
        network = folder / "network.onnx"
        onnx.save(flat, network)
        arguments = ezkl.PyRunArgs()
        if logrows is not None:
            run_args |= {"logrows": logrows, "lookup_range": tuple(lookup_range)}
        for name, value in run_args.items():
            setattr(arguments, name, value)
        ezkl.gen_settings(str(network), str(settings), py_run_args=arguments)
        if logrows is None:
            calibrate(
                network,
                settings,
                samples,
                run_args=run_args,
                salt_count=salt_count,
                lookup_margin=lookup_margin,
                max_logrows=max_logrows,
            )
        require_rows(json.loads(settings.read_text()))
        report("compiling")
        ezkl.compile_circuit(str(network), str(compiled), str(settings))
    tensors = [
        TensorSpec(name=value.name, shape=onnx_model.shape_of(value)).batched(batch)
        for value in [*onnx_model.inputs_of(original), original.graph.output[0]]
    ]
    *inputs, output = [{"name": tensor.name, "shape": tensor.shape} for tensor in tensors]
    found: dict[str, Any] = {"inputs": inputs, "output": output}
    if WeightsMode(run_args["param_visibility"]).leaks:
        report("counting the bits of the weights")
        found["secret_bits"] = secret.bits(flat, samples, run_args["param_scale"])
    return found


def calibrate(
    network: Path,
    settings: Path,
    samples: FloatArray,
    *,
    run_args: dict[str, Any],
    salt_count: int,
    lookup_margin: int,
    max_logrows: int,
) -> None:
    """Set the ranges of lookups in ``settings`` by samples, the same way whoever asks.

    ``samples`` has the shape ``(samples, elements)``; salts are zeros here, and decide no range.
    """
    report("calibrating")
    salted = np.hstack([samples, np.zeros((len(samples), salt_count), np.float32)])
    data = network.with_name("calibration.json")
    data.write_text(json.dumps({"input_data": [salted.reshape(-1).tolist()]}))
    ezkl.calibrate_settings(
        str(data),
        str(network),
        str(settings),
        "resources",
        lookup_safety_margin=lookup_margin,
        scales=[run_args["param_scale"]],
        scale_rebase_multiplier=[run_args["scale_rebase_multiplier"]],
        max_logrows=max_logrows,
    )


def check_model(*, model: str) -> None:
    """Return if a model is one that :func:`compile_model` takes on.

    Raises:
        ModelRejected: it is not.

    """
    faults.load(Path(model))


def rebuilds_key(
    *, model: str, settings: str, verifying_key: str, srs: str, salt_count: int, batch: int
) -> bool:
    """Whether a model, compiled under the settings of a circuit, gives that circuit's key.

    Given settings and model, ezkl always makes the same key. That ReLUs were halved, or not, stands
    in no settings: either will do.
    """
    original = faults.load(Path(model))
    for halved_relus in (False, True):
        flat = surgery.rewrite(original, salt_count, batch, halved_relus=halved_relus)
        with scratch() as folder:
            network, compiled, key = (folder / name for name in ("n.onnx", "compiled", "vk.key"))
            onnx.save(flat, network)
            try:
                with wrapped(EngineFailed, "ezkl cannot make this circuit again"):
                    report("compiling again")
                    ezkl.compile_circuit(str(network), str(compiled), settings)
                    report("making the key again")
                    ezkl.setup(
                        str(compiled),
                        str(key),
                        str(folder / "pk.key"),
                        srs,
                        witness_path=None,
                        disable_selector_compression=False,
                    )
            except EngineFailed:
                continue  # under settings of another circuit it need not fit
            if key.read_bytes() == Path(verifying_key).read_bytes():
                return True
    return False

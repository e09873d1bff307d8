"""What runs in the child that looks at a model before anything is made of it: settings, no keys."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import ezkl
import numpy as np
import onnx

from zkserve.engines import onnx_model
from zkserve.engines.answering import report
from zkserve.engines.ezkl import cost, faults, leak, secret, surgery
from zkserve.engines.ezkl.compiling import calibrate
from zkserve.engines.ezkl.settings import require_rows
from zkserve.errors import ModelRejected, ZkserveError
from zkserve.types import WeightsMode

NETWORK, SETTINGS = "network.onnx", "settings.json"
STAND_IN_SAMPLES = 16
"""Rows of drawn numbers where there are no samples: they decide the lookup tables only."""
_CALIBRATION_SAMPLES = 16
_CALIBRATED_LOGROWS = 18
"""Larger circuits are not calibrated: computing on samples would take minutes."""


def estimate(
    *,
    model: str,
    calibration: str | None,
    run_args: dict[str, Any],
    salt_count: int,
    lookup_margin: int,
    logrows: int | None,
    lookup_range: tuple[int, int],
    batch: int,
    halved_relus: bool,
    leak_fraction: float,
) -> dict[str, Any]:
    """Return what the circuit of a model would cost, as :meth:`Estimate.to_dict` gives it.

    The arguments are those of :func:`zkserve.engines.ezkl.compiling.compile_model`, and the share
    of the weights that proofs may reveal.

    Raises:
        ModelRejected: the model is not allowed, ezkl cannot lay it out, or it does not fit in the
            rows that were asked for.

    """
    report("laying the circuit out")
    original = faults.load(Path(model))
    if calibration is None:
        shapes = [onnx_model.shape_of(value) for value in onnx_model.inputs_of(original)]
        elements = sum(math.prod(shape) for shape in shapes)
        drawn = np.random.default_rng(0).normal(size=(STAND_IN_SAMPLES, elements))
        samples = drawn.astype(np.float32)
    else:
        samples = np.load(calibration, allow_pickle=False).astype(np.float32)
    samples = samples[: max(_CALIBRATION_SAMPLES, batch)]
    flat, samples = surgery.prepare(original, samples, salt_count, batch, halved_relus=halved_relus)
    if logrows is not None:
        run_args |= {"logrows": logrows, "lookup_range": tuple(lookup_range)}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as scratch:
        work = Path(scratch)
        try:
            settings = _settings(work, flat, run_args)
            if logrows is None and _worth_calibrating(settings):
                calibrate(
                    work / NETWORK,
                    work / SETTINGS,
                    samples,
                    run_args=run_args,
                    salt_count=salt_count,
                    lookup_margin=lookup_margin,
                    max_logrows=_CALIBRATED_LOGROWS + 2,
                )
                settings = json.loads((work / SETTINGS).read_text())
        except (ZkserveError, MemoryError):
            raise
        except BaseException as exc:
            text = " ".join(str(exc).split())[:200]
            raise ModelRejected(f"ezkl cannot lay the model out: {text}.") from exc
    k = cost.logrows_of(settings) if logrows is None else logrows
    settings["run_args"]["logrows"] = k
    require_rows(settings)
    budget = None
    bits = cost.leak_bits(WeightsMode(run_args["param_visibility"]), settings)
    if bits:
        budget = leak.budget(
            bits_per_proof=bits,
            secret_bits=secret.bits(flat, samples, run_args["param_scale"]),
            fraction=leak_fraction,
        )
    return cost.estimate(
        settings,
        yardstick_cpu_s=cost.yardstick(),
        threads=cost.threads(),
        batch=batch,
        budget=budget,
    ).to_dict()


def _settings(folder: Path, network: onnx.ModelProto, run_args: dict[str, Any]) -> dict[str, Any]:
    onnx.save(network, folder / NETWORK)
    arguments = ezkl.PyRunArgs()
    for name, value in run_args.items():
        setattr(arguments, name, value)
    ezkl.gen_settings(str(folder / NETWORK), str(folder / SETTINGS), py_run_args=arguments)
    found: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
    return found


def _worth_calibrating(settings: dict[str, Any]) -> bool:
    """Whether samples decide anything: ranges of lookups do, and only those."""
    return bool(settings["required_lookups"]) and cost.logrows_of(settings) <= _CALIBRATED_LOGROWS

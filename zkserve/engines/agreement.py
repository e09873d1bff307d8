"""How far a circuit's integers are from the float model, measured on held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zkserve import runtime
from zkserve.engines.base import Bundle, Engine, FloatArray, Limits
from zkserve.engines.child import run_child
from zkserve.engines.sandbox import Reach
from zkserve.errors import InvalidInput
from zkserve.types import Agreement, TensorSpec

IntArray = NDArray[np.int64]
FLOAT_LIMITS = Limits(time_s=300.0, memory_bytes=4 << 30)


def measure_agreement(
    engine: Engine,
    bundle: Bundle,
    model_onnx: Path,
    held_out: FloatArray,
    labels: IntArray | None = None,
) -> Agreement:
    """Compare the circuit's outputs with onnxruntime's on samples that calibration never saw.

    ``held_out`` has shape ``(samples, elements)`` and ``labels`` shape ``(samples,)``: the index of
    the right output, or 0 and 1 for a single output, whose positive sign decides for 1.

    Raises:
        InvalidInput: there is no sample, or not a label for each.
        InputOutOfRange: the circuit cannot compute on one of them.

    """
    if held_out.ndim != 2 or not len(held_out):
        raise InvalidInput(
            f"Held-out samples have shape {held_out.shape}; expected (samples, elements)."
        )
    if labels is not None and labels.shape != (len(held_out),):
        raise InvalidInput(
            f"Labels have shape {labels.shape}; expected ({len(held_out)},), one for each sample."
        )
    with runtime.private_folder() as folder:
        samples, outputs = folder / "samples.npy", folder / "outputs.npy"
        np.save(samples, held_out)
        run_child(
            "zkserve.engines.onnx_model:float_outputs",
            limits=FLOAT_LIMITS,
            reach=Reach(readable=(model_onnx.resolve(),), writable=(folder.resolve(),)),
            model=str(model_onnx.resolve()),
            samples=str(samples.resolve()),
            outputs=str(outputs.resolve()),
        )
        floats = np.load(outputs, allow_pickle=False).astype(np.float64)
    circuit = _circuit_outputs(engine, bundle, held_out)
    difference = np.abs(circuit - floats)
    decided, expected = _decisions(circuit), _decisions(floats)
    return Agreement(
        samples=len(held_out),
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        top1=float((decided == expected).mean()),
        float_accuracy=None if labels is None else float((expected == labels).mean()),
        circuit_accuracy=None if labels is None else float((decided == labels).mean()),
    )


def _circuit_outputs(engine: Engine, bundle: Bundle, held_out: FloatArray) -> NDArray[np.float64]:
    """Return the circuit's outputs of each sample; the last batch is filled up with its first."""
    manifest = bundle.manifest
    rows: list[list[float]] = []
    for start in range(0, len(held_out), manifest.batch):
        taken = held_out[start : start + manifest.batch]
        filled = taken[np.resize(np.arange(len(taken)), manifest.batch)]
        outputs = engine.predict(bundle, join_samples(manifest.inputs, filled)).claim.outputs
        reals = np.array([manifest.output_scale.to_real(output) for output in outputs])
        rows += reals.reshape(manifest.batch, -1)[: len(taken)].tolist()
    return np.array(rows)


def join_samples(inputs: Sequence[TensorSpec], samples: FloatArray) -> FloatArray:
    """Return the samples of one batch, a row each, as one input: tensor after tensor.

    Each tensor holds its part of all samples; of one sample it is the sample itself. ``inputs`` are
    those of the whole batch.
    """
    sizes = [spec.size // len(samples) for spec in inputs]
    parts = np.split(samples, np.cumsum(sizes)[:-1], axis=1)
    return np.concatenate([part.ravel() for part in parts])


def _decisions(outputs: NDArray[np.float64]) -> IntArray:
    if outputs.shape[1] == 1:
        return np.asarray(outputs[:, 0] > 0, dtype=np.int64)
    return np.asarray(outputs.argmax(axis=1), dtype=np.int64)

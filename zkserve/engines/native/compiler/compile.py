"""From an ONNX file and calibration samples to a native circuit.

Runs in a disposable child only: everything here has touched an untrusted model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zkserve.engines.base import FloatArray
from zkserve.engines.native.compiler.graph import Graph, load
from zkserve.engines.native.compiler.layout import lay_out
from zkserve.engines.native.compiler.lowering import lower
from zkserve.engines.native.compiler.packing import Cells, multipliers_of, weight_cells
from zkserve.engines.native.compiler.program import Program
from zkserve.engines.native.compiler.quantise import Quantised, exact_scale, quantise
from zkserve.engines.native.interface import Interface
from zkserve.engines.native.options import Options
from zkserve.engines.native.protocol.description import Description
from zkserve.errors import InvalidInput, ModelRejected
from zkserve.types import Scale, TensorSpec

DESCRIPTION_FILE = "description.bin"
INTERFACE_FILE = "interface.json"
WEIGHTS_FILE = "weights.npz"
"""Secret, unlike the others."""
CALIBRATION_SAMPLES = 512
"""No more samples are looked at; they are taken evenly from all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """A circuit and the owner's secret: ``cells`` and ``multipliers`` make the version.

    ``data`` is the description ``D`` in bytes.
    """

    description: Description
    data: bytes
    program: Program
    cells: Cells
    multipliers: tuple[int, ...]
    interface: Interface

    def save(self, folder: Path) -> None:
        """Write the description, the interface and, secret, the weights."""
        (folder / DESCRIPTION_FILE).write_bytes(self.data)
        (folder / INTERFACE_FILE).write_text(self.interface.to_json(), encoding="utf-8")
        np.savez(
            folder / WEIGHTS_FILE,
            cells=self.cells,
            multipliers=np.array(self.multipliers, np.uint32),
        )


def compile_onnx(
    model: Path,
    calibration: FloatArray,
    options: Options,
    progress: Callable[[str], None] = lambda _: None,
) -> Compiled:
    """Compile an untrusted model with samples of shape ``(samples, elements)``.

    Deterministic: the same file, samples and options give the same circuit and weights; another
    training of the same architecture gives the same description, as long as its input and function
    tables keep their coarse scales.

    Raises:
        ModelRejected: the model is broken or computes what no native circuit does.
        InvalidInput: the samples do not fit it.

    """
    progress("checking the model")
    graph = load(model)
    network = lower(graph)
    elements = sum(prod(shape) for _, shape in graph.inputs)
    if calibration.ndim != 2 or calibration.shape[1] != elements or not len(calibration):
        raise InvalidInput(
            f"Samples have shape {calibration.shape}; expected (samples, {elements}), each row "
            "all inputs of the model flattened and joined."
        )
    if not np.isfinite(calibration).all():
        raise InvalidInput("A calibration sample is not finite.")
    progress("calibrating")
    quantised = quantise(network, _evenly(calibration), options)
    progress("laying out")
    program = quantised.program
    description = lay_out(program, batch=options.batch, k=options.k)
    return Compiled(
        description=description,
        data=description.encode(),
        program=program,
        cells=weight_cells(program, description),
        multipliers=multipliers_of(program),
        interface=_interface(graph, quantised),
    )


def unsupported(model: Path) -> list[str]:
    """Return what keeps a model from the native engine, in sentences; nothing if it compiles.

    Options and samples may still keep it: a table of functions needs activations of 8 bits.
    """
    try:
        lower(load(model))
    except ModelRejected as reason:
        return [reason.message]
    return []


def load_weights(path: Path) -> tuple[NDArray[np.int32], tuple[int, ...]]:
    """Return cells and multipliers from the file that :meth:`Compiled.save` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["cells"], tuple(int(value) for value in archive["multipliers"])


def _evenly(samples: FloatArray) -> FloatArray:
    if len(samples) <= CALIBRATION_SAMPLES:
        return samples
    return np.asarray(samples[np.linspace(0, len(samples) - 1, CALIBRATION_SAMPLES).astype(int)])


def _interface(graph: Graph, quantised: Quantised) -> Interface:
    first = quantised.program.tensors[0]
    multiplier, shift = exact_scale(quantised.output_scale)
    entry = quantised.input_scale
    return Interface(
        inputs=tuple(TensorSpec(name=name, shape=shape) for name, shape in graph.inputs),
        output=TensorSpec(name=graph.output_name, shape=graph.output[1]),
        output_scale=Scale(multiplier=multiplier, shift=shift),
        rows=sum(t.channels * t.height * t.width for t in quantised.program.tensors[1:]),
        shape=(first.channels, first.height, first.width),
        input_bytes=entry.bytes,
        scales=entry.scales,
        zeros=entry.zeros,
    )

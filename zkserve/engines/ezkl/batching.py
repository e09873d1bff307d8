"""Several predictions in one circuit: widen a checked ONNX graph to take a batch at once.

A circuit pays for its weights, their hash above all, and for its padding once, whatever the number
of predictions in it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from zkserve.engines import onnx_model
from zkserve.engines.base import FloatArray
from zkserve.errors import ModelRejected

_REMEDY = (
    "Leave the option batch out, or export the model with a batch dimension first in every tensor."
)


def widen(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """Return the model for ``count`` samples at once: the first dimension of each tensor.

    Inputs and output must have a first dimension of 1. Shapes that the graph states for one sample
    (the constants of ``Reshape``) are widened along. Whether the answers are those of single
    samples is for :func:`zkserve.engines.ezkl.surgery.check_same` to say.

    Raises:
        ModelRejected: an operator, an input or the output cannot take a batch.

    """
    if count == 1:
        return model
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    graph = wide.graph
    for value in [*onnx_model.inputs_of(model), *model.graph.output]:
        if onnx_model.shape_of(value)[:1] != (1,):
            raise ModelRejected(
                f"Tensor {value.name!r} of shape {list(onnx_model.shape_of(value))} has no batch "
                "dimension of 1 to be widened.",
                remedy=_REMEDY,
            )
    _widen_reshapes(model, graph, count)
    for value in onnx_model.inputs_of(wide):
        value.type.tensor_type.shape.dim[0].dim_value = count
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        wide = onnx_model.infer(wide)
    except ModelRejected as exc:
        raise ModelRejected(
            f"The model cannot take {count} samples at once: {exc.message}", remedy=_REMEDY
        ) from exc
    (before,), (after,) = model.graph.output, wide.graph.output
    expected = (count, *onnx_model.shape_of(before)[1:])
    if onnx_model.shape_of(after) != expected:
        raise ModelRejected(
            f"The model cannot take {count} samples at once: its output would have shape "
            f"{list(onnx_model.shape_of(after))}, expected {list(expected)}.",
            remedy=_REMEDY,
        )
    return wide


def stack(model: onnx.ModelProto, samples: FloatArray, count: int) -> FloatArray:
    """Return the samples as inputs of batches, a batch a row, tensor after tensor.

    ``model`` is the one for single samples. The last batch is filled up with the first samples.
    """
    sizes = [math.prod(onnx_model.shape_of(value)) for value in onnx_model.inputs_of(model)]
    batches = -(-len(samples) // count)
    filled = samples[np.resize(np.arange(len(samples)), batches * count)]
    parts = np.split(filled, np.cumsum(sizes)[:-1], axis=1)
    return np.hstack([part.reshape(batches, -1) for part in parts])


def _widen_reshapes(model: onnx.ModelProto, graph: onnx.GraphProto, count: int) -> None:
    """Let each ``Reshape`` of data with a first dimension of 1 state ``count`` where it states 1.

    A tensor that no input reaches keeps its shape: it is the same for all samples.
    """
    constants = _constants(model.graph)
    first = {
        value.name: onnx_model.shape_of(value)[:1]
        for value in [*model.graph.value_info, *onnx_model.inputs_of(model)]
    }
    reached = {value.name for value in onnx_model.inputs_of(model)}
    taken = {tensor.name for tensor in graph.initializer} | {
        name for node in graph.node for name in [*node.input, *node.output]
    }
    for node in graph.node:
        if not reached.intersection(node.input):
            continue
        reached.update(node.output)
        if node.op_type != "Reshape" or first.get(node.input[0]) != (1,):
            continue
        target = constants.get(node.input[1])
        if target is None:
            raise ModelRejected(
                f"The model computes the shape that {node.output[0]!r} is given; it must be a "
                "constant for a batch.",
                remedy=_REMEDY,
            )
        if target[:1].tolist() == [1]:
            name = f"{node.output[0]}_shape"
            while name in taken:
                name += "_"
            taken.add(name)
            wider = np.array([count, *target[1:]], dtype=np.int64)
            graph.initializer.append(numpy_helper.from_array(wider, name))
            node.input[1] = name


def _constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.int64]]:
    """Return the integers that may be shapes, by name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer} | {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if tensor.data_type == onnx.TensorProto.INT64
    }

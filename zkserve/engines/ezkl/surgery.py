"""Rewrite a checked ONNX graph so that it takes one flat tensor: all its inputs and then a salt.

ezkl hashes an input tensor as a whole. With the salt inside that tensor the hash becomes a
commitment, and with all inputs in it a claim has one; the graph itself slices the salt off. So does
a whole batch.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import helper, numpy_helper

from zkserve.engines import onnx_model
from zkserve.engines.base import FloatArray
from zkserve.engines.ezkl import relus
from zkserve.engines.ezkl.batching import stack, widen
from zkserve.errors import ModelRejected

PREFIX = "zkserve_"
FLAT = PREFIX + "flat"
COMPARED_SAMPLES = 8


def flatten(model: onnx.ModelProto, salt_count: int) -> onnx.ModelProto:
    """Return the model with the single input ``zkserve_flat`` of shape ``(1, elements + salt)``.

    Raises:
        ModelRejected: a name of the model collides with ours.

    """
    flat = onnx.ModelProto()
    flat.CopyFrom(model)
    graph = flat.graph
    names = {name for node in graph.node for name in [*node.input, *node.output, node.name]}
    if any(name.startswith(PREFIX) for name in names):
        raise ModelRejected(f"The model uses names that begin with {PREFIX!r}.")
    inputs = onnx_model.inputs_of(model)
    nodes, offset = [], 0
    for number, value in enumerate(inputs):
        shape = onnx_model.shape_of(value)
        end = offset + math.prod(shape)
        constants = {"start": [offset], "end": [end], "axis": [1], "shape": list(shape)}
        named = {key: f"{PREFIX}{key}_{number}" for key in constants}
        for key, integers in constants.items():
            array = np.array(integers, dtype=np.int64)
            graph.initializer.append(numpy_helper.from_array(array, named[key]))
        part = f"{PREFIX}part_{number}"
        nodes += [
            helper.make_node("Slice", [FLAT, named["start"], named["end"], named["axis"]], [part]),
            helper.make_node("Reshape", [part, named["shape"]], [value.name]),
        ]
        offset = end
    body = list(graph.node)
    del graph.node[:], graph.value_info[:], graph.input[:]
    graph.node.extend(nodes + body)
    graph.input.append(
        helper.make_tensor_value_info(FLAT, onnx.TensorProto.FLOAT, [1, offset + salt_count])
    )
    return onnx_model.infer(flat)


def rewrite(
    original: onnx.ModelProto, salt_count: int, batch: int = 1, *, halved_relus: bool = False
) -> onnx.ModelProto:
    """Return the model for ``batch`` samples at once that ezkl compiles, not yet checked.

    ``halved_relus`` is that of :class:`zkserve.engines.ezkl.options.Options`.

    Raises:
        ModelRejected: the model cannot be rewritten.

    """
    flat = flatten(widen(original, batch), salt_count)
    return relus.halve(flat) if halved_relus else flat


def prepare(
    original: onnx.ModelProto,
    samples: FloatArray,
    salt_count: int,
    batch: int = 1,
    *,
    halved_relus: bool = False,
) -> tuple[onnx.ModelProto, FloatArray]:
    """Return the rewritten model for ``batch`` samples at once, checked, and the samples for it.

    ``samples`` has shape ``(samples, elements)``; a row of what is returned is a whole batch.
    The options are those of :func:`rewrite`.

    Raises:
        ModelRejected: the model cannot be rewritten so that it answers the same.

    """
    flat = rewrite(original, salt_count, batch, halved_relus=halved_relus)
    check_same(original, flat, samples, salt_count, batch)
    return flat, stack(original, samples, batch)


def check_same(
    original: onnx.ModelProto,
    flat: onnx.ModelProto,
    samples: FloatArray,
    salt_count: int,
    batch: int = 1,
) -> None:
    """Check in onnxruntime that the rewritten model answers as the original, whatever the salt.

    In a batch every row is another, so that one which reaches into another's answer shows.

    Raises:
        ModelRejected: it does not.

    """
    drawn = np.random.default_rng(0)
    count = batch * math.ceil(COMPARED_SAMPLES / batch)
    samples = samples[:count]
    if batch > 1:
        samples = samples[np.resize(np.arange(len(samples)), count)]
        samples = (samples * drawn.uniform(0.9, 1.1, samples.shape)).astype(np.float32)
    expected = onnx_model.run(original, samples)
    joined = stack(original, samples, batch)
    salt = drawn.normal(size=(len(joined), salt_count)).astype(np.float32)
    got = onnx_model.run(flat, np.hstack([joined, salt]))
    same = np.allclose(expected.reshape(len(joined), -1), got, rtol=1e-5, atol=1e-6)
    if not (np.isfinite(expected).all() and same):
        raise ModelRejected(
            "The model's answers on calibration samples are not finite, or change when its inputs "
            "are joined into one tensor"
            + (f" and {batch} samples into one batch." if batch > 1 else "."),
            remedy="Leave the option batch out." if batch > 1 else None,
        )

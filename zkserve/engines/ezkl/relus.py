"""Compute ``Relu`` with fewer cells: of h, half of its input, it is h + |h|.

ezkl masks what is not positive by comparing a sign; a magnitude is the product of a sign that is
there anyhow. Halving costs nothing where it goes into the weights of the layer before, which then
need one bit of scale more to be as exact.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_LINEAR = frozenset({"Conv", "Gemm"})
_MAGNITUDE = "zkserve_magnitude_"


def halvable(model: onnx.ModelProto) -> list[int]:
    """Return which nodes are a ``Relu`` that alone takes what a ``Conv`` or ``Gemm`` gives.

    Weights and bias of that layer are its own, constants of the graph and ``float32``.
    """
    graph = model.graph
    floats = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    constants = floats - {value.name for value in graph.input}
    used = Counter(name for node in graph.node for name in node.input)
    used.update(value.name for value in graph.output)
    makers = {name: node for node in graph.node for name in node.output}
    found = []
    for number, node in enumerate(graph.node):
        layer = makers.get(node.input[0]) if node.op_type == "Relu" else None
        if layer is None or layer.op_type not in _LINEAR or used[node.input[0]] != 1:
            continue
        own = [name for name in layer.input[1:] if name]
        if constants.issuperset(own) and all(used[name] == 1 for name in own):
            found.append(number)
    return found


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same function, each such ``Relu`` computed from a magnitude."""
    wanted = set(halvable(model))
    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for number, node in enumerate(graph.node):
        if number not in wanted:
            nodes.append(node)
            continue
        (taken,), (given,) = node.input, node.output
        for name in filter(None, makers[taken].input[1:]):
            half = numpy_helper.to_array(tensors[name]) * np.float32(0.5)
            tensors[name].CopyFrom(numpy_helper.from_array(half, name))
        magnitude = f"{_MAGNITUDE}{number}"
        nodes.append(helper.make_node("Abs", [taken], [magnitude]))
        nodes.append(helper.make_node("Add", [taken, magnitude], [given]))
    del graph.node[:]
    graph.node.extend(nodes)
    return halved

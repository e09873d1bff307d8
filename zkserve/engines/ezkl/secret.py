"""How much of a model's weights is a secret that its circuit holds; in a disposable child only.

A leak budget is a share of the secret, so what no answer depends on must not enlarge it: constants
that nothing uses, rows that are multiplied by zero, copies, and what was computed from less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from zkserve.engines import onnx_model
from zkserve.engines.base import FloatArray
from zkserve.engines.entropy import bits_of
from zkserve.engines.ezkl import leak
from zkserve.engines.onnx_gate import EXPORT_AGAIN, first_line
from zkserve.errors import ModelRejected

Tensors = dict[str, NDArray[Any]]
SAMPLES = 16
"""What changes the answers neither to so many samples nor to drawn inputs is not counted."""
PARTS = 1024
"""Rows, and columns, of one tensor that are looked at one by one; of more, neighbours together."""
NUMBERS = 1 << 28
"""Of larger models fewer parts are looked at, so that parts times numbers stay below this."""


def bits(model: onnx.ModelProto, samples: FloatArray, scale: int) -> int:
    """Return how many bits the weights of a checked model hold that its answers depend on.

    Of what enters the first operators that also see inputs, as ezkl folds constants, quantised to
    multiples of ``2**-scale``, and never more than the constants that it was computed from hold.
    What no answer changes with is left out, by row and by column: each is altered in turn, and the
    model run on ``samples``, whose rows are the inputs flattened and joined, and zeros for a salt.
    """
    used, constants = _used(model), _constants(model)
    fixed = _computed_from(constants, used)
    varying = [node for node in used if not fixed.issuperset(_inputs(node))]
    entering = {name for node in varying for name in _inputs(node) if name in fixed}
    folded = _fold(model, used, constants, entering)
    weights = {name: value for name, value in folded.items() if _is_float(value)}
    quantised = {
        name: np.asarray(np.rint(value * 2.0**scale) / 2.0**scale, dtype=value.dtype)
        for name, value in weights.items()
    }
    runs = _Runs(model, varying, folded | quantised, _with_drawn(samples[:SAMPLES]))
    live = [_without_dead(name, value, runs) for name, value in quantised.items()]
    sources = {name for node in used for name in _inputs(node)} & constants.keys()
    exact = sum(bits_of(constants[name]) for name in sources if _is_float(constants[name]))
    return min(leak.secret_bits(live, scale), math.floor(exact))


class _Runs:
    """Tells whether answers change when a constant of a model does."""

    def __init__(
        self,
        model: onnx.ModelProto,
        nodes: list[NodeProto],
        constants: Tensors,
        samples: FloatArray,
    ) -> None:
        graph, inputs = model.graph, onnx_model.inputs_of(model)
        opened = [_value_info(name, value) for name, value in constants.items()]
        self._session = _session(
            model, helper.make_graph(nodes, graph.name, [*inputs, *opened], graph.output)
        )
        shapes = {value.name: onnx_model.shape_of(value) for value in inputs}
        width = sum(math.prod(shape) for shape in shapes.values())
        rows = np.pad(samples, ((0, 0), (0, width - samples.shape[1]))).astype(np.float32)
        ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
        self._feeds = [
            {
                name: part.reshape(shapes[name])
                for name, part in zip(shapes, np.split(row, ends), strict=True)
            }
            for row in rows
        ]
        self._constants = constants
        self._answers = [self._answer(feed, {}) for feed in self._feeds]
        self._drawn = np.random.default_rng(0)
        size = sum(value.size for value in constants.values())
        self.parts = max(1, min(PARTS, NUMBERS // max(1, size)))

    def change(self, name: str, where: tuple[Any, ...]) -> bool:
        """Whether some answer is another when the numbers of a constant at ``where`` are."""
        value = self._constants[name]
        reach = float(np.abs(value).max()) or 1.0
        for feed, answer in zip(self._feeds, self._answers, strict=True):
            other = value.copy()
            noise = self._drawn.uniform(0.5, 1.5, other[where].shape)
            other[where] += reach * noise * self._drawn.choice([-1, 1], noise.shape)
            if not np.array_equal(self._answer(feed, {name: other}), answer):
                return True
        return False

    def _answer(self, feed: Mapping[str, NDArray[Any]], other: Tensors) -> NDArray[Any]:
        found: NDArray[Any] = self._session.run(None, {**feed, **self._constants, **other})[0]
        return found


def _with_drawn(samples: FloatArray) -> FloatArray:
    """Return samples, and inputs drawn from wider ranges, at which silent units may speak."""
    drawn, reach = np.random.default_rng(0), np.abs(samples).max()
    around = samples + reach * drawn.normal(size=samples.shape)
    anywhere = 2 * reach * drawn.uniform(-1, 1, samples.shape)
    return np.vstack([samples, around, anywhere]).astype(np.float32)


def _without_dead(name: str, value: NDArray[Any], runs: _Runs) -> NDArray[Any]:
    """Return a tensor less the rows and the columns that no answer changes with."""
    if not value.ndim:
        return value if runs.change(name, (...,)) else value.reshape(1)[:0]
    kept = value
    for axis in range(min(value.ndim, 2)):
        parts = np.array_split(np.arange(value.shape[axis]), min(value.shape[axis], runs.parts))
        live = [part for part in parts if runs.change(name, (slice(None),) * axis + (part,))]
        kept = np.take(kept, np.concatenate(live) if live else [], axis=axis)
    return kept


def _used(model: onnx.ModelProto) -> list[NodeProto]:
    """Return the nodes that the output depends on, in graph order."""
    needed, used = {value.name for value in model.graph.output}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            used.append(node)
    return used[::-1]


def _constants(model: onnx.ModelProto) -> Tensors:
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _computed_from(constants: Tensors, nodes: list[NodeProto]) -> set[str]:
    """Return the tensors that are the same whatever the input."""
    fixed = set(constants)
    for node in nodes:
        if fixed.issuperset(_inputs(node)):
            fixed.update(node.output)
    return fixed


def _fold(
    model: onnx.ModelProto, nodes: list[NodeProto], constants: Tensors, names: set[str]
) -> Tensors:
    """Return the values of tensors that no input decides."""
    found = {name: constants[name] for name in sorted(names) if name in constants}
    left = sorted(names - found.keys())
    if not left:
        return found
    fixed = _computed_from(constants, nodes)
    body = [node for node in nodes if fixed.issuperset(_inputs(node))]
    kinds = {value.name: value for value in model.graph.value_info}
    graph = helper.make_graph(
        body, "constants", [], [kinds[name] for name in left], list(model.graph.initializer)
    )
    return found | dict(zip(left, _session(model, graph).run(None, {}), strict=True))


def _session(model: onnx.ModelProto, graph: onnx.GraphProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    try:
        return onnxruntime.InferenceSession(
            made.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:
        raise ModelRejected(
            f"ONNX Runtime cannot run the model with other weights: {first_line(exc)}.",
            remedy=EXPORT_AGAIN,
        ) from exc


def _inputs(node: NodeProto) -> Iterator[str]:
    return filter(None, node.input)


def _is_float(value: NDArray[Any]) -> bool:
    return value.dtype in (np.float32, np.float64) and value.size > 0


def _value_info(name: str, value: NDArray[Any]) -> onnx.ValueInfoProto:
    kind: TensorProto.DataType = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(name, kind, value.shape)

"""Which operators a model asks for, and what each engine makes of them; read in a child only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zkserve.engines import onnx_gate, onnx_model
from zkserve.engines.ezkl import faults
from zkserve.engines.native.compiler.graph import OPERATORS as NATIVE_OPERATORS
from zkserve.errors import ModelRejected

MAX_NAMED = 8
"""Nodes that are named of each operator; the rest is counted."""
SUPPORTED, REFUSED, WRONG = "supported", "refused", "silently wrong"
_ADVICE = {
    "Equal": "Write it as Not(Or(Less, Greater)); trees as sums, clips and Relus.",
    "GRU": "Unroll it into MatMul, Sigmoid and Tanh for a fixed number of steps.",
    "LSTM": "Unroll it into MatMul, Sigmoid and Tanh for a fixed number of steps.",
    "RNN": "Unroll it into MatMul and Tanh for a fixed number of steps.",
    "LogSoftmax": "Leave it out: prove the logits, whose order is the same.",
    "Softmax": "As the last operator, leave it out: prove the logits, whose order is the same.",
    "Pow": "Write a square as Mul.",
    "Resize": "Resize before the model, or upsample by a fixed convolution.",
    "GroupNormalization": "Use BatchNormalization, which folds into the layer before it.",
    "InstanceNormalization": "Use BatchNormalization, which folds into the layer before it.",
    "TreeEnsembleClassifier": "Convert the trees to tensors first (hummingbird-ml).",
    "TreeEnsembleRegressor": "Convert the trees to tensors first (hummingbird-ml).",
}
_OTHERWISE = "Export the model without it, or compute it before or after the model."


def survey(*, model: str) -> list[dict[str, Any]]:
    """Return each operator of a model, in order of its first node, with what the engines say.

    An entry is ``{"name", "count", "nodes", "engines", "why", "remedy"}``: ``nodes`` has the first
    names (or outputs, where a node has no name), ``engines`` a verdict for each engine, and ``why``
    and ``remedy`` are "" where every engine supports it.

    Raises:
        ModelRejected: it is no ONNX file, or too large.

    """
    graph = onnx_gate.read(Path(model)).graph
    if len(graph.node) > onnx_gate.MAX_NODES:
        raise ModelRejected(
            f"The model has {len(graph.node)} nodes; at most {onnx_gate.MAX_NODES} may come.",
            remedy=onnx_gate.EXPORT_AGAIN,
        )
    onnx_gate.check_names(graph)
    found: dict[str, list[str]] = {}
    for number, node in enumerate(graph.node):
        name = node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}.{node.op_type}"
        label = node.name or next(iter(node.output), "") or f"node {number}"
        found.setdefault(name[:128], []).append(label[:128])
    faulty = _faulty(Path(model))
    return [_entry(name, nodes, faulty.get(name)) for name, nodes in found.items()]


def _faulty(path: Path) -> dict[str, faults.Fault]:
    """Return what ezkl proves wrongly though it supports the operator, by the operator's name."""
    try:
        checked = onnx_model.load(path)
    except ModelRejected:
        return {}  # ezkl is not asked then
    return {fault.node.op_type: fault for fault in faults.find(checked)}


def _entry(name: str, nodes: list[str], fault: faults.Fault | None) -> dict[str, Any]:
    engines, why = {}, []
    for engine, allowed in (("native", NATIVE_OPERATORS), ("ezkl", onnx_model.OPERATORS)):
        if engine == "ezkl" and fault:
            engines[engine] = WRONG
            why.append(f"ezkl {fault.how} ({fault.node.output[0]!r})")
        elif name in allowed:
            engines[engine] = SUPPORTED
        elif engine == "ezkl" and name in faults.OPERATORS:
            engines[engine] = WRONG
            why.append(f"ezkl {faults.OPERATORS[name]}")
        else:
            engines[engine] = REFUSED
    refused = [engine for engine, verdict in engines.items() if verdict != SUPPORTED]
    remedy = ""
    if len(refused) == len(engines):
        remedy = fault.remedy if fault else _ADVICE.get(name.rpartition(".")[2], _OTHERWISE)
    elif refused and fault:
        remedy = fault.remedy
    elif refused:
        others = [engine for engine in engines if engine not in refused]
        remedy = f"Prove it with {' or '.join(others)}."
    return {
        "name": name,
        "count": len(nodes),
        "nodes": nodes[:MAX_NAMED],
        "engines": engines,
        "why": "; ".join(why),
        "remedy": remedy,
    }

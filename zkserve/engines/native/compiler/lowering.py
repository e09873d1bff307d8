"""ONNX graphs as float networks: which operator becomes which equation."""

from __future__ import annotations

from zkserve.engines.native.compiler import activations, linear, moves, windows
from zkserve.engines.native.compiler.builder import Builder, Handlers, Unsupported
from zkserve.engines.native.compiler.graph import Graph
from zkserve.engines.native.compiler.network import Network
from zkserve.errors import ModelRejected

_HANDLERS: Handlers = {
    **linear.HANDLERS,
    **windows.HANDLERS,
    **activations.HANDLERS,
    **moves.HANDLERS,
}


def lower(graph: Graph) -> Network:
    """Return the float network of a graph.

    Raises:
        ModelRejected: no equations of ours compute it; every operator that stands in the way by
            itself is named.

    """
    if complaints := unsupported(graph):
        raise ModelRejected(" ".join(complaints))
    builder = Builder(graph)
    for node in graph.nodes:
        try:
            builder.values[node.output] = _HANDLERS[node.kind](builder, node)
        except Unsupported as reason:
            raise ModelRejected(f"{node.kind} ({node.output!r}) {reason}.") from None
        except (ArithmeticError, LookupError, TypeError, ValueError) as exc:
            raise ModelRejected(
                f"{node.kind} ({node.output!r}) cannot be read: its inputs or attributes are not "
                "what the operator takes."
            ) from exc
    return builder.finish()


def unsupported(graph: Graph) -> list[str]:
    """Return a sentence for each operator that cannot be computed whatever surrounds it."""
    found = []
    for node in graph.nodes:
        if node.kind not in _HANDLERS:
            found.append(f"Operator {node.kind} ({node.output!r}) is not supported.")
    return found

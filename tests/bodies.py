"""Request bodies for the model that the fake engine proves."""

from __future__ import annotations

from typing import Any


def tensor(data: Any = (1.0, 2.0, 3.0, 4.5), **changes: Any) -> dict[str, Any]:
    """One input tensor of the model, in a request's form."""
    data = list(data) if isinstance(data, tuple) else data
    return {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": data} | changes


def body(*tensors: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A request's body."""
    return {"inputs": list(tensors) or [tensor()], **more}

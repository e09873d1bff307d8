"""From ONNX models to descriptions, cells and multipliers; imported in disposable children only."""

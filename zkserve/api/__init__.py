"""The HTTP API: Open Inference Protocol v2, proofs, receipts, public artifacts."""

from zkserve.api.app import create_app, serve

__all__ = ["create_app", "serve"]

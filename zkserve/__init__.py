"""zkserve: verifiable inference with hidden, bound weights."""

__version__ = "0.1.0"

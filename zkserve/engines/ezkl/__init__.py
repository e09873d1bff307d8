"""The ezkl proof system (Halo2 with KZG on BN254) as an engine."""

from zkserve.engines.ezkl.engine import EzklEngine

__all__ = ["EzklEngine"]

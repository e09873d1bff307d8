"""The chain as Python objects: a node, our contracts, their deployment; it knows no jobs."""

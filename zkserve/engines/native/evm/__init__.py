"""Solidity verifiers: expressions of what a description fixes, and their schedule as Yul."""

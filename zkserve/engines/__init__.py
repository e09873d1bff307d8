"""Proof systems behind one protocol; nothing outside this package knows field instances."""

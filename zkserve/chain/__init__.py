"""Contracts as Python objects: no database, no jobs."""

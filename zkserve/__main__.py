"""``python -m zkserve``."""

from zkserve.cli import main

main()

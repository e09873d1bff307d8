"""Structured reference strings: files with the powers of a secret that nobody may know."""

from __future__ import annotations

from pathlib import Path

from zkserve.encoding import sha256_file
from zkserve.engines.base import Srs
from zkserve.errors import BundleMismatch, DevelopmentSrsRefused, NotFound

MARK = ".development"
"""Suffix of the file that stands beside an SRS whose secret was known on the machine it is from."""


def mark_development(path: Path) -> None:
    """Mark on disk that the SRS at ``path``, there or about to be, is unfit for production."""
    _mark(path).write_text("The secret of this SRS was known to the machine that made it.\n")


def load_srs(path: Path, *, sha256: str | None, production: bool) -> Srs:
    """Return the SRS at ``path`` if it may be used.

    It is a development SRS if it is marked so, or if no digest of a known ceremony was given.

    Raises:
        NotFound: there is no such file.
        BundleMismatch: its SHA-256 is not ``sha256``.
        DevelopmentSrsRefused: it is a development SRS and this is production.

    """
    if not path.is_file():
        raise NotFound(f"There is no SRS file {path.name}.", remedy="Check the configured path.")
    digest = sha256_file(path)
    if sha256 is not None and digest != sha256.lower():
        raise BundleMismatch(
            f"The SRS file {path.name} has SHA-256 {digest}, configured is {sha256}.",
            remedy="Fetch the file of the ceremony you trust again.",
        )
    development = sha256 is None or _mark(path).exists()
    if development and production:
        raise DevelopmentSrsRefused(
            f"The SRS {path.name} is for development, or no digest vouches for it: whoever made it "
            "can forge proofs.",
            remedy="Configure the file and the SHA-256 of a public ceremony.",
        )
    return Srs(path=path, sha256=digest, development=development)


def _mark(path: Path) -> Path:
    return path.with_name(path.name + MARK)

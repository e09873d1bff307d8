"""What every step that calls ezkl shares: its field elements, scratch folders and errors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zkserve.errors import ZkserveError
from zkserve.types import FIELD_MODULUS


def to_felt(integer: int) -> str:
    """Return ezkl's spelling of a field element: 32 bytes, little-endian, hex; signed goes in."""
    return (integer % FIELD_MODULUS).to_bytes(32, "little").hex()


def from_felt(felt: str) -> int:
    """Return the integer below the field's order that ezkl spells ``felt``."""
    return int.from_bytes(bytes.fromhex(felt), "little")


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder inside the child's private one, and remove it."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        yield Path(folder)


@contextmanager
def wrapped(error: type[ZkserveError], message: str) -> Iterator[None]:
    """Wrap whatever ezkl raises; its Rust panics derive from BaseException."""
    try:
        yield
    except (ZkserveError, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:
        raise error(f"{message}: {text_of(exc)}.") from exc


def text_of(exc: BaseException) -> str:
    """Return the beginning of what an exception says, on one line."""
    return " ".join(str(exc).split())[:200]

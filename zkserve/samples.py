"""Samples: real inputs for calibration and, held out of it, for measuring; read strictly."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zkserve.encoding import parse_json
from zkserve.errors import RecipeInvalid

MAX_ELEMENTS = 1 << 26
MAX_FILE_BYTES = 1 << 30
MAX_JSON_BYTES = 256 << 20
_REQUIRED = ("calibration", "held_out")
_KNOWN = (*_REQUIRED, "labels")
_MOST = len(_KNOWN) + 4
"""Members of an archive; of those not known, the first is named."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Real inputs: rows of all inputs of the model, flattened and joined in graph order.

    ``calibration`` is float32 of shape ``(n, elements)``; ``held_out``, float32 of shape
    ``(m, elements)``, has no part in calibration and measures agreement. ``labels`` is int64 of
    shape ``(m,)``: the index of the true class of each held-out row, where known.
    """

    calibration: NDArray[np.float32]
    held_out: NDArray[np.float32]
    labels: NDArray[np.int64] | None = None


def read(path: Path, *, elements: int | None, classes: int | None) -> Samples:
    """Read samples from ``.npz`` (never pickled) or ``.json``.

    Both hold the arrays ``calibration`` and ``held_out``, and perhaps ``labels``; rows may have the
    shape of the input or be flat.

    Args:
        path: The file.
        elements: Elements of all inputs together; None where only the model knows.
        classes: Number of classes that labels index; None where only the model knows.

    Raises:
        RecipeInvalid: an array is missing, unknown, empty, not finite, or of the wrong shape.

    """
    arrays = _read_arrays(path)
    if unknown := sorted(arrays.keys() - set(_KNOWN)):
        raise RecipeInvalid(
            f"{path} has the unknown array {unknown[0]!r}.",
            remedy=f"Known here: {', '.join(_KNOWN)}.",
        )
    if missing := [name for name in _REQUIRED if name not in arrays]:
        raise RecipeInvalid(
            f"{path} has no array {missing[0]!r}.",
            remedy="It needs calibration and held_out, one row a sample, and may have labels.",
        )
    calibration = _rows(path, "calibration", arrays["calibration"], elements)
    held_out = _rows(path, "held_out", arrays["held_out"], elements or calibration.shape[1])
    labels = None
    if "labels" in arrays:
        labels = _labels(path, arrays["labels"], held_out=len(held_out), classes=classes)
    return Samples(calibration=calibration, held_out=held_out, labels=labels)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    most = MAX_JSON_BYTES if path.suffix == ".json" else MAX_FILE_BYTES
    if path.stat().st_size > most:
        raise RecipeInvalid(
            f"{path} has {path.stat().st_size} bytes; at most {most} may come.",
            remedy="Give fewer samples: some thousands tell as much.",
        )
    try:
        if path.suffix == ".npz":
            _check_archive(path)
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        if path.suffix == ".json":
            table = parse_json(path.read_bytes())
            if not isinstance(table, dict):
                raise ValueError("its top level is not an object")
            return {name: np.asarray(rows) for name, rows in table.items()}
    except Exception as exc:  # what numpy raises on a broken archive has no common base
        raise RecipeInvalid(
            f"{path} cannot be read as samples: {str(exc)[:200].rstrip('.')}.",
            remedy="Write it with numpy.savez(path, calibration=..., held_out=...).",
        ) from exc
    raise RecipeInvalid(f"Samples come as .npz or .json, not {path.name!r}.")


def _check_archive(path: Path) -> None:
    """Read what an archive says that it holds, before it is let fill memory.

    Raises:
        ValueError: too much, an array twice, or Python objects.

    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) != len(members) or len(members) > _MOST:
            raise ValueError(f"it has {len(members)} members; at most {_MOST} may come, each once")
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = read(file)
            if dtype.hasobject:
                raise ValueError("it holds Python objects, which are never read")
            if math.prod(shape) > MAX_ELEMENTS or member.file_size > MAX_ELEMENTS * 8 + 4096:
                raise ValueError(f"an array of shape {shape} is beyond {MAX_ELEMENTS} elements")


def _rows(path: Path, name: str, array: NDArray[Any], elements: int | None) -> NDArray[np.float32]:
    if array.dtype.kind not in "fiu":
        raise RecipeInvalid(
            f"{path}: {name} holds {array.dtype}; expected numbers.",
            remedy="Encode what is no number before sampling, as the model's training did.",
        )
    if array.ndim < 2 or not array.size or array.size > MAX_ELEMENTS:
        raise RecipeInvalid(
            f"{path}: {name} has shape {array.shape}; expected (samples, elements), neither empty "
            f"nor beyond {MAX_ELEMENTS} elements in all.",
            remedy="Give one row a sample.",
        )
    with np.errstate(over="ignore"):
        rows = array.reshape(len(array), -1).astype(np.float32)
    if elements is not None and rows.shape[1] != elements:
        raise RecipeInvalid(
            f"{path}: {name} has {rows.shape[1]} elements a sample; the inputs take {elements}.",
            remedy="Correct the samples, or the shapes under [[inputs]] in recipe.toml.",
        )
    if not np.isfinite(rows).all():
        row = int(np.argwhere(~np.isfinite(rows))[0, 0])
        raise RecipeInvalid(
            f"{path}: {name} row {row} is not finite in float32.",
            remedy="Drop or impute missing values before sampling.",
        )
    return rows


def _labels(
    path: Path, array: NDArray[Any], *, held_out: int, classes: int | None
) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu" or array.shape != (held_out,):
        raise RecipeInvalid(
            f"{path}: labels is {array.dtype} of shape {array.shape}; expected integers, one for "
            f"each of {held_out} held-out rows.",
            remedy="Give the index of the true class of each held-out row, as int64.",
        )
    if array.min() < 0 or (classes is not None and array.max() >= classes):
        raise RecipeInvalid(
            f"{path}: labels run from {array.min()} to {array.max()}; expected 0 to "
            f"{'the number of classes' if classes is None else classes - 1}.",
            remedy="A label is the index of the true class.",
        )
    return array.astype(np.int64)

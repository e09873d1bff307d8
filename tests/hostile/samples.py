"""Hostile and broken samples: files, and what the refusal must say."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROWS = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)


class Evil:
    """Unpickled, it would leave a mark."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pickled",)


def npz(path: Path, **arrays: Any) -> None:
    np.savez(path, **({"calibration": ROWS, "held_out": ROWS} | arrays))


def members(path: Path, contents: list[tuple[str, bytes]], *, deflated: bool = False) -> None:
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in contents:
            archive.writestr(name, content)


def array(values: Any) -> bytes:
    made = io.BytesIO()
    np.save(made, values, allow_pickle=True)
    return made.getvalue()


def header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def bomb(path: Path) -> None:
    """256 MiB of zeros in as many KiB, under a header that says 8 GiB."""
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("calibration.npy", array(ROWS))
        with archive.open("held_out.npy", "w", force_zip64=True) as file:
            file.write(header("(2147483648, 1)"))
            for _ in range(256):
                file.write(zeros)


NPZ: tuple[tuple[str, Callable[[Path], Any], str], ...] = (
    ("not_a_zip", lambda p: p.write_bytes(b"PK\x03\x04 not really"), "cannot be read"),
    ("empty_file", lambda p: p.write_bytes(b""), "cannot be read"),
    ("cut", lambda p: (npz(p), p.write_bytes(p.read_bytes()[:-30])), "cannot be read"),
    ("pickled_array", lambda p: npz(p, held_out=np.array([Evil()] * 3, object)), "Python objects"),
    (
        "pickle_in_the_zip",
        lambda p: members(
            p, [("calibration.npy", pickle.dumps(Evil())), ("held_out.npy", array(ROWS))]
        ),
        "cannot be read",
    ),
    ("bomb", bomb, "beyond"),
    (
        "header_of_a_terabyte",
        lambda p: members(
            p, [("calibration.npy", header("(274877906944, 4)")), ("held_out.npy", array(ROWS))]
        ),
        "beyond",
    ),
    (
        "negative_shape",
        lambda p: members(
            p, [("calibration.npy", header("(-4, -4)")), ("held_out.npy", array(ROWS))]
        ),
        "cannot be read|shape",
    ),
    (
        "header_is_code",
        lambda p: members(
            p, [("calibration.npy", header("__import__('os').system('touch pickled')"))]
        ),
        "cannot be read",
    ),
    (
        "path_traversal",
        lambda p: members(
            p,
            [
                ("calibration.npy", array(ROWS)),
                ("held_out.npy", array(ROWS)),
                ("../../x.npy", array(ROWS)),
            ],
        ),
        "unknown array",
    ),
    (
        "name_twice",
        lambda p: members(
            p,
            [
                ("calibration.npy", array(ROWS)),
                ("held_out.npy", array(ROWS)),
                ("held_out.npy", array(ROWS)),
            ],
        ),
        "each once",
    ),
    (
        "many_members",
        lambda p: members(p, [(f"{n}.npy", array(ROWS)) for n in range(999)]),
        "at most",
    ),
    ("nan", lambda p: npz(p, held_out=ROWS * np.nan), "not finite"),
    ("infinity", lambda p: npz(p, calibration=ROWS / np.float32(0)), "not finite"),
    ("too_large_for_float32", lambda p: npz(p, held_out=ROWS.astype(float) * 1e300), "not finite"),
    ("strings", lambda p: npz(p, held_out=np.array([["a"] * 4])), "expected numbers"),
    ("complex", lambda p: npz(p, held_out=ROWS * 1j), "expected numbers"),
    (
        "dates",
        lambda p: npz(p, held_out=np.array([["2020-01-01"] * 4], "M8[D]")),
        "expected numbers",
    ),
    ("records", lambda p: npz(p, held_out=np.zeros(3, [("a", "f4")])), "expected numbers"),
    ("a_single_row", lambda p: npz(p, held_out=ROWS[0]), "shape"),
    ("no_rows", lambda p: npz(p, held_out=ROWS[:0]), "neither empty"),
    ("other_width", lambda p: npz(p, held_out=ROWS[:, :3]), "3 elements a sample"),
    (
        "one_array_only",
        lambda p: members(p, [("calibration.npy", array(ROWS))]),
        "no array 'held_out'",
    ),
    ("labels_out_of_range", lambda p: npz(p, labels=np.array([-1] * 10)), "labels run from -1"),
    ("labels_of_other_number", lambda p: npz(p, labels=np.arange(3)), "one for"),
    ("labels_as_reals", lambda p: npz(p, labels=np.zeros(10)), "expected integers"),
)


def _json(**arrays: Any) -> Callable[[Path], Any]:
    rows = {"calibration": ROWS.tolist(), "held_out": ROWS.tolist()}
    return lambda path: path.write_text(json.dumps(rows | arrays))


JSON: tuple[tuple[str, Callable[[Path], Any], str], ...] = (
    ("deep", lambda p: p.write_bytes(b'{"calibration":' + b"[" * 100_000), "cannot be read"),
    ("nan", _json(held_out=[[float("nan")] * 4]), "cannot be read"),
    ("ragged", _json(held_out=[[1.0] * 4, [1.0]]), "cannot be read"),
    ("huge_integers", _json(held_out=[[10**400] * 4]), "cannot be read|expected numbers"),
    ("texts", _json(held_out=[["1"] * 4]), "expected numbers"),
    ("objects", _json(held_out=[[{}] * 4]), "expected numbers"),
    ("a_list", lambda p: p.write_text("[1, 2]"), "not an object"),
    ("not_utf8", lambda p: p.write_bytes(b'{"calibration": "\xff"}'), "cannot be read"),
    ("empty", lambda p: p.write_bytes(b""), "cannot be read"),
)

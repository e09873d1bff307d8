"""Hostile samples, recipes and weights files: each gets a sentence, and nothing is left behind."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as safetensors

from tests.hostile import models, samples
from tests.hostile.conftest import Owner
from zkserve.recipe import load

RECIPE = """
name = "hostile"
description = "A recipe."
[[inputs]]
name = "x"
shape = [1, 4]
[output]
name = "y"
shape = [1, 3]
tolerance = 0.5
"""
EXPORT = """
import pathlib
import onnx
from onnx import numpy_helper
from safetensors.numpy import load_file


def export(weights, out):
    model = onnx.load(pathlib.Path(__file__).with_name("architecture.bin"))
    tensors = load_file(weights)
    for initializer in model.graph.initializer:
        array = tensors[initializer.name]
        initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    onnx.save(model, out)
"""


@pytest.mark.parametrize(
    ("name", "write", "says"), samples.NPZ, ids=[case[0] for case in samples.NPZ]
)
def test_hostile_npz_samples_are_refused(
    owner: Owner, good: tuple[Path, Path], name: str, write: Callable[[Path], object], says: str
):
    path = owner.folder / f"{name}.npz"
    write(path)
    owner.is_refused(good[0], "--samples", path, says=says, codes={"recipe-invalid"})


@pytest.mark.parametrize(
    ("name", "write", "says"), samples.JSON, ids=[case[0] for case in samples.JSON]
)
def test_hostile_json_samples_are_refused(
    owner: Owner, good: tuple[Path, Path], name: str, write: Callable[[Path], object], says: str
):
    path = owner.folder / f"{name}.json"
    write(path)
    owner.is_refused(good[0], "--samples", path, says=says, codes={"recipe-invalid"})


def test_samples_that_are_no_file_are_refused(owner: Owner, good: tuple[Path, Path]):
    fifo, folder = owner.folder / "fifo.npz", owner.folder / "folder.npz"
    os.mkfifo(fifo)
    folder.mkdir()
    (owner.folder / "zero.npz").symlink_to("/dev/zero")
    (owner.folder / "loop.npz").symlink_to("loop.npz")
    for name in ("fifo.npz", "folder.npz", "zero.npz", "none.npz"):
        owner.is_refused(good[0], "--samples", owner.folder / name, says="There is no file")
    owner.is_refused(good[0], says="without samples")
    pickled = owner.folder / "samples.pkl"
    pickled.write_bytes(b"\x80\x04.")
    owner.is_refused(good[0], "--samples", pickled, says=r"\.npz or \.json")


def recipe(folder: Path, text: str | bytes = RECIPE) -> Path:
    """A recipe that is right but for its text."""
    at = folder / "recipe"
    (at / "samples").mkdir(parents=True)
    data = text if isinstance(text, bytes) else text.encode()
    (at / "recipe.toml").write_bytes(data)
    (at / "model.onnx").write_bytes(models.good().SerializeToString())
    samples.npz(at / "samples" / "samples.npz")
    return at


def replaced(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new)


def test_the_recipe_without_a_fault_is_read(tmp_path: Path):
    assert load(recipe(tmp_path)).name == "hostile"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "lacks"),
        ("\x00", "not TOML"),
        (b"name = '\xff'", "not TOML"),
        ("name = 'a'\nname = 'b'", "not TOML"),
        ("a = " + "[" * 10_000, "nested too deeply|not TOML"),
        ("a." * 3000 + "a = 1", "unknown key|nested too deeply|not TOML|lacks"),
        ("a." * 50_000 + "a = 1", "at most 32768"),
        (RECIPE + "#" * (1 << 15), "at most 32768"),
        (replaced('"hostile"', '"../../etc"'), "name is"),
        (replaced('"hostile"', '"' + "a" * 100 + '"'), "name is"),
        (replaced('"A recipe."', '"' + "d" * 5000 + '"'), "description is"),
        (replaced("[1, 4]", "[1, -4]"), "greater than"),
        (replaced("[1, 4]", "[1, 99999999999999999999999999]"), "less than"),
        (replaced("[1, 4]", "[" + "1," * 50 + "]"), "at most 8"),
        (replaced("[1, 4]", "[1, 5]"), "inputs take 5"),
        (replaced("0.5", "nan"), "finite"),
        (replaced("0.5", "-1.0"), "greater than"),
        (RECIPE + "[limits]\ntime_s = inf", "finite"),
        (RECIPE + "[limits]\nmemory_mb = 1000000000000000000000", "less than|valid"),
        (RECIPE + "[engine]\nname = '../../evil'", "name is"),
        (RECIPE + "[engine]\nname = 'groth'", "no engine"),
        (RECIPE + "[engine]\noptions = {scale = 8}", "names no engine"),
        (RECIPE + "[engine]\nname = 'ezkl'\noptions = {scale = 1000}", "scale is 1000"),
        (RECIPE + "[engine]\nname = 'ezkl'\noptions = {check_mode = 'unsafe'}", "no option"),
        (RECIPE + "[visibility]\nweights = 'private'", "weights is"),
        (RECIPE + "[visibility]\ninput = 'encrypted'", "input is"),
        (RECIPE + "shell = 'rm -rf'", "unknown key"),
    ],
    ids=range(27),
)
def test_hostile_recipes_are_refused(owner: Owner, text: str | bytes, says: str):
    codes = {"recipe-invalid", "not-found"}
    owner.is_refused(recipe(owner.folder, text), says=says, codes=codes)


@pytest.mark.parametrize("linked", ["model.onnx", "samples/samples.npz"])
def test_links_out_of_a_recipe_are_refused(owner: Owner, linked: str):
    at = recipe(owner.folder)
    secret = owner.folder / "secret"
    (at / linked).rename(secret)
    (at / linked).symlink_to(secret)
    owner.is_refused(at, says="leads out of")


def test_samples_above_the_recipe_are_refused(owner: Owner):
    text = 'samples = "../../secret.npz"\n' + RECIPE
    owner.is_refused(recipe(owner.folder, text), says="leads out of")


TENSORS = {
    "w": np.ones((3, 4), np.float32) / 4,
    "b": np.zeros(3, np.float32),
}


def safetensors_of(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "failed to export"),
        (safetensors(TENSORS)[:-9], "failed to export"),
        (struct.pack("<Q", 1 << 62) + b"{}", "failed to export"),
        (safetensors_of(b"[" * 9999), "failed to export"),
        (safetensors_of(b'{"w":{"dtype":"F32","shape":[3,4],"data_offsets":[0,9]}}'), "failed to"),
        (b"\x80\x04\x95pickle", "failed to export"),
        (safetensors({"w": TENSORS["w"]}), "failed to export"),
        (safetensors(TENSORS | {"w": TENSORS["w"] * np.nan}), "NaN or infinity"),
        (safetensors(TENSORS | {"w": np.ones((9, 9), np.float32)}), "fit|checker|elements"),
    ],
    ids=["empty", "cut", "long_header", "deep", "offsets", "pickle", "missing", "nan", "shape"],
)
@pytest.mark.prover
def test_hostile_weights_are_refused(owner: Owner, data: bytes, says: str):
    at = recipe(owner.folder)
    (at / "model.onnx").rename(at / "architecture.bin")
    (at / "model.py").write_text(EXPORT)
    (at / "weights.safetensors").write_bytes(data)
    owner.is_refused(at, says=says)

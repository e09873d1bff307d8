"""Recipes: what an owner writes down to have a model proved, read and checked strictly.

A recipe is a folder with ``recipe.toml``, real samples, and the model: either ``model.onnx``, or
``model.py`` beside ``weights.safetensors``. A bare ``.onnx`` with a samples file does as well.
The ONNX file is never parsed here and torch is never imported here.

The whole of ``recipe.toml``; what is commented out shows the default::

    name = "breast_cancer"                # a-z, 0-9, _ and -; starts with a letter
    description = "One sentence."
    classes = ["benign", "malignant"]     # optional; one output: [below zero, above zero]
    # samples = "samples/samples.npz"

    [[inputs]]                            # in graph order
    name = "features"
    shape = [1, 30]

    [output]
    name = "logit"
    shape = [1, 1]
    tolerance = 0.01                      # largest allowed |circuit - float|, in output units

    [visibility]
    # input = "committed"                 # or "public"
    # weights = "committed"               # native's default; ezkl: "hashed", its default, or
                                          # "fixed", "polycommit": with a leak budget

    # [engine]                            # left out: native, or ezkl where the model needs it
    # name = "native"
    # options = {}                        # the engine's own; it refuses what it does not know
    # tune = false                        # ezkl: find the options of the cheapest circuit

    [limits]                              # on each child process
    # time_s = 900
    # memory_mb = 16384
"""

from __future__ import annotations

import difflib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from zkserve.errors import RecipeInvalid
from zkserve.samples import Samples, read
from zkserve.types import InputMode, TensorSpec, WeightsMode

NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
DEFAULT_TOLERANCE = 0.1
_MAX_TOML_BYTES = 1 << 15
"""Parsing takes time that grows with the square of a key's length."""
_NO_MODULE = 3
"""Exit status of the exporting child when ``model.py`` imports what is not installed."""
_EXPORT = f"""
import importlib.util, pathlib, sys
source, weights, out = map(pathlib.Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location("model", source)
module = importlib.util.module_from_spec(spec)
try:
    spec.loader.exec_module(module)
    module.export(weights, out)
except ModuleNotFoundError as missing:
    print(missing.name, file=sys.stderr)
    sys.exit({_NO_MODULE})
"""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe.

    ``inputs`` is empty and ``output`` is None for a bare ONNX file: the engine, which alone may
    parse it, reports them in the manifest. ``tolerance`` bounds ``|circuit - float|`` on held-out
    samples, in units of the output.
    """

    name: str
    description: str
    source: Path
    """The ONNX file, or the ``model.py`` that exports it."""
    samples_path: Path | None
    """None only where :func:`load` was told that samples may be missing."""
    engine: str | None = None
    """None: whichever can prove the model, see :func:`zkserve.publish.publish`."""
    input_mode: InputMode = InputMode.COMMITTED
    weights_mode: WeightsMode | None = None
    """None: the engine's own."""
    options: Mapping[str, int | float | str | bool] = field(
        default_factory=lambda: MappingProxyType({})
    )
    tune: bool = False
    """Whether the rest of the options is to be found by the engine's tuner."""
    tuned_for: str | None = None
    """Digest of what ``options`` were tuned for, once they are."""
    inputs: tuple[TensorSpec, ...] = ()
    output: TensorSpec | None = None
    classes: tuple[str, ...] = ()
    tolerance: float = DEFAULT_TOLERANCE
    time_s: float = 900.0
    memory_bytes: int = 16 << 30

    @property
    def folder(self) -> Path:
        """Where the recipe lies."""
        return self.source.parent


class SampleSizes(TypedDict):
    """Arguments of :func:`zkserve.samples.read`; None: only the model knows."""

    elements: int | None
    classes: int | None


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Name = Annotated[str, Field(pattern=rf"^{NAME.pattern}$")]
TensorName = Annotated[str, Field(min_length=1, max_length=128)]
Shape = Annotated[list[Annotated[int, Field(gt=0, le=1 << 31)]], Field(min_length=1, max_length=8)]


class _Input(_Table):
    name: TensorName
    shape: Shape


class _Output(_Input):
    tolerance: Annotated[float, Field(gt=0)]


def _not_private(weights: object) -> object:
    if weights == "private":
        raise ValueError("refused: private weights are bound by nothing, any would verify")
    return weights


class _Visibility(_Table):
    # TOML knows strings, not enums
    input: Annotated[InputMode, Field(strict=False)] = InputMode.COMMITTED
    weights: Annotated[WeightsMode | None, Field(strict=False), BeforeValidator(_not_private)] = (
        None
    )


class _Engine(_Table):
    name: Name | None = None
    options: dict[str, int | float | str | bool] = {}
    tune: bool = False


class _Limits(_Table):
    time_s: Annotated[float, Field(gt=0, le=1e6)] = 900.0
    memory_mb: Annotated[int, Field(gt=0, le=1 << 22)] = 16384


class _File(_Table):
    name: Name
    description: Annotated[str, Field(min_length=1, max_length=1000)]
    classes: list[Annotated[str, Field(min_length=1)]] = []
    samples: str = "samples/samples.npz"
    inputs: Annotated[list[_Input], Field(min_length=1)]
    output: _Output
    visibility: _Visibility = _Visibility()
    engine: _Engine = _Engine()
    limits: _Limits = _Limits()


def load(path: Path, *, samples: Path | None = None, need_samples: bool = True) -> Recipe:
    """Read a recipe folder, or a bare ``.onnx`` file and its ``samples`` file.

    A bare model takes its name from the file, and the defaults: whichever engine can prove it,
    committed input, the engine's weights mode, a tolerance of 0.1. Only a preflight can do without
    samples.

    Raises:
        RecipeInvalid: a file is missing, a key unknown, or a value of the wrong kind.

    """
    path = path.resolve()
    if path.suffix == ".onnx":
        return _bare(path, samples, need_samples=need_samples)
    if not path.is_dir():
        raise RecipeInvalid(
            f"{path} is neither a folder nor an .onnx file.",
            remedy="Name a folder that holds recipe.toml, or an .onnx file with its samples.",
        )
    file = _read_toml(path / "recipe.toml")
    _check_classes(file)
    if (file.engine.options or file.engine.tune) and file.engine.name is None:
        raise RecipeInvalid(
            f"{path / 'recipe.toml'} has engine options, or asks for tuning, but names no engine.",
            remedy="Add name to [engine]: options are one engine's own.",
        )
    weights = file.visibility.weights
    if weights is not None and weights.leaks and file.engine.name != "ezkl":
        raise RecipeInvalid(
            f"{path / 'recipe.toml'} asks for weights mode {str(weights)!r}, whose proofs reveal "
            "the weights bit by bit; only ezkl has it.",
            remedy='Leave weights out: native hides them. Or add name = "ezkl" to [engine], '
            "knowing that proofs will be counted.",
        )
    samples_path = samples.resolve() if samples else _inside(path, file.samples)
    return Recipe(
        name=file.name,
        description=file.description,
        source=_model_source(path),
        samples_path=_existing(samples_path) if need_samples else _if_there(samples_path),
        engine=file.engine.name,
        input_mode=file.visibility.input,
        weights_mode=file.visibility.weights,
        options=MappingProxyType(file.engine.options),
        tune=file.engine.tune,
        inputs=tuple(TensorSpec(name=i.name, shape=tuple(i.shape)) for i in file.inputs),
        output=TensorSpec(name=file.output.name, shape=tuple(file.output.shape)),
        classes=tuple(file.classes),
        tolerance=file.output.tolerance,
        time_s=file.limits.time_s,
        memory_bytes=file.limits.memory_mb << 20,
    )


def export_onnx(recipe: Recipe, out: Path) -> Path:
    """Return the recipe's ONNX file: its own, or ``out`` as written by ``model.py`` in a child.

    ``model.py`` is the owner's own, trusted code; the child keeps torch out of this process.

    Raises:
        RecipeInvalid: ``model.py`` failed, took longer than ``time_s``, or wrote nothing.

    """
    if recipe.source.suffix == ".onnx":
        return recipe.source
    weights = recipe.folder / "weights.safetensors"
    out = out.resolve()
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        written = Path(scratch) / "model.onnx"
        command = [
            sys.executable,
            "-B",
            "-c",
            _EXPORT,
            *map(str, (recipe.source, weights, written)),
        ]
        try:
            child = subprocess.run(
                command,
                cwd=scratch,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=recipe.time_s,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise RecipeInvalid(
                f"{recipe.source} did not export within {recipe.time_s:g} s.",
                remedy="Raise time_s under [limits] in recipe.toml.",
            ) from exc
        complaint = (child.stderr.strip().splitlines() or ["no message"])[-1]
        if child.returncode == _NO_MODULE:
            raise RecipeInvalid(
                f"{recipe.source} imports {complaint}, which is not installed.",
                remedy="Install torch with: pip install 'zkserve[torch]'"
                if complaint == "torch"
                else f"Install {complaint} into this environment.",
            )
        if child.returncode:
            raise RecipeInvalid(
                f"{recipe.source} failed to export (status {child.returncode}): {complaint}.",
                remedy="It must define export(weights: Path, out: Path) that writes ONNX to out.",
            )
        if not written.is_file():
            raise RecipeInvalid(
                f"{recipe.source} exported nothing.",
                remedy="Its export(weights, out) must write the ONNX model to out.",
            )
        written.replace(out)
    return out


def samples(recipe: Recipe) -> Samples:
    """Read the recipe's samples; see :func:`zkserve.samples.read`.

    Raises:
        RecipeInvalid: an array is missing, unknown, empty, not finite, or of the wrong shape.

    """
    if recipe.samples_path is None:
        raise RecipeInvalid(f"The recipe {recipe.name} has no samples.", remedy="Add them.")
    return read(recipe.samples_path, **expected_samples(recipe))


def expected_samples(recipe: Recipe) -> SampleSizes:
    """Return what a recipe says of its samples: elements of a row, and classes of labels."""
    return {
        "elements": sum(spec.size for spec in recipe.inputs) or None,
        "classes": len(recipe.classes) or (max(recipe.output.size, 2) if recipe.output else None),
    }


def _bare(path: Path, samples: Path | None, *, need_samples: bool) -> Recipe:
    if samples is None and need_samples:
        raise RecipeInvalid(
            f"{path.name} came without samples.",
            remedy="Add --samples FILE: an .npz or .json with the arrays calibration and held_out.",
        )
    name = path.stem.lower()
    if not NAME.fullmatch(name):
        raise RecipeInvalid(
            f"The file name gives the model the name {name!r}, which is not allowed.",
            remedy="Rename the file: a letter, then at most 62 of a-z, 0-9, _ and -.",
        )
    return Recipe(
        name=name,
        description=f"The model in {path.name}.",
        source=_existing(path),
        samples_path=_existing(samples.resolve()) if samples else None,
    )


def _model_source(folder: Path) -> Path:
    onnx, module = folder / "model.onnx", folder / "model.py"
    if onnx.is_file() and module.is_file():
        raise RecipeInvalid(
            f"{folder} has both model.onnx and model.py.",
            remedy="Delete model.onnx if model.py is to export it, or else model.py.",
        )
    if module.is_file():
        _existing(folder / "weights.safetensors")
        _inside(folder, "weights.safetensors")
        return _inside(folder, module.name)
    if onnx.is_file():
        return _inside(folder, onnx.name)
    raise RecipeInvalid(
        f"{folder} has no model.",
        remedy="Add model.onnx, or model.py with export() and weights.safetensors.",
    )


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise RecipeInvalid(f"There is no file {path}.", remedy="Add it, or correct the path.")
    return path


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise RecipeInvalid(
            f"The recipe's {name!r} leads out of {folder}.",
            remedy="Keep samples, model and weights in the recipe's folder, not links to others.",
        )
    return path


def _read_toml(path: Path) -> _File:
    size_bytes = _existing(path).stat().st_size
    if size_bytes > _MAX_TOML_BYTES:
        raise RecipeInvalid(f"{path} has {size_bytes} bytes; at most {_MAX_TOML_BYTES} may come.")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise RecipeInvalid(f"{path} is not TOML: {exc}.") from exc
    except RecursionError as exc:
        raise RecipeInvalid(f"{path} is nested too deeply.") from exc
    try:
        return _File.model_validate(table)
    except ValidationError as exc:
        raise _complaint(path, exc) from exc


def _complaint(path: Path, exc: ValidationError) -> RecipeInvalid:
    """Say the first thing that is wrong, an unknown key before the rest: it is often the cause."""
    errors = sorted(exc.errors(), key=lambda error: error["type"] != "extra_forbidden")
    location = ".".join(str(part) for part in errors[0]["loc"])
    if errors[0]["type"] == "extra_forbidden":
        return _unknown(path, location, _keys_beside(errors[0]["loc"]))
    if errors[0]["type"] == "missing":
        return RecipeInvalid(f"{path} lacks {location}.", remedy="Add it.")
    given = repr(errors[0]["input"])[:80]
    return RecipeInvalid(f"{path}: {location} is {given}; {errors[0]['msg'].lower()}.")


def _keys_beside(location: tuple[int | str, ...]) -> tuple[str, ...]:
    tables: dict[str, type[BaseModel]] = {
        "inputs": _Input,
        "output": _Output,
        "visibility": _Visibility,
        "engine": _Engine,
        "limits": _Limits,
    }
    table = tables[str(location[0])] if len(location) > 1 else _File
    return tuple(table.model_fields)


def _unknown(path: Path, key: str, known: tuple[str, ...]) -> RecipeInvalid:
    near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    return RecipeInvalid(
        f"{path} has the unknown key {key!r}.",
        remedy=f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(known)}.",
    )


def _check_classes(file: _File) -> None:
    size = TensorSpec(name=file.output.name, shape=tuple(file.output.shape)).size
    expected = 2 if size == 1 else size
    if file.classes and len(file.classes) != expected:
        raise RecipeInvalid(
            f"The recipe names {len(file.classes)} classes, but an output of {size} decides among "
            f"{expected}.",
            remedy="Name one class an output, or two for a single one: below zero, above zero.",
        )

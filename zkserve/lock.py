"""The lock beside a recipe: what its circuit was when last published, and the options tuned for it.

Publishing and preflight both read it here, so that neither takes a lock that the other refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zkserve.encoding import parse_json
from zkserve.engines import engine
from zkserve.engines.base import CircuitPlan, FloatArray
from zkserve.engines.ezkl import EzklEngine, tuning
from zkserve.errors import RecipeInvalid
from zkserve.recipe import Recipe

LOCK_NAME = "circuit.lock"
_RECIPE_NAME = "recipe.toml"


def plan(recipe: Recipe) -> CircuitPlan:
    """Return what a recipe whose engine is decided asks of its circuit."""
    return CircuitPlan(
        input_mode=recipe.input_mode,
        weights_mode=recipe.weights_mode or engine(_engine(recipe)).weights_mode,
        options=recipe.options,
    )


def tuning_digest(recipe: Recipe, onnx: Path, calibration: FloatArray) -> str:
    """Return the digest of what the options of a recipe that asks for tuning are tuned for.

    Raises:
        RecipeInvalid: its engine has no tuner, or it states options that tuning decides.

    """
    if recipe.engine != EzklEngine.name:
        raise RecipeInvalid(
            f"The recipe asks for tuning, which the engine {recipe.engine} needs none of.",
            remedy='Drop tune = true, or set name = "ezkl", under [engine].',
        )
    asked = plan(recipe)
    tuning.require_undecided(asked)
    version = engine(recipe.engine).version
    return tuning.key(version, onnx, asked, calibration, recipe.tolerance)


def tuned_options(recipe: Recipe, digest: str) -> Mapping[str, int] | None:
    """Return the options that a recipe's lock holds for a digest; None where there is no lock.

    Raises:
        RecipeInvalid: the lock is damaged, or its options were tuned for something else.

    """
    path = recipe.folder / LOCK_NAME
    if not path.exists():
        return None
    try:
        lock = parse_json(path.read_bytes())
        locked, options = lock.get("tuned_for"), dict(lock["options"])
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise _damaged(path) from exc
    if locked != digest:
        raise RecipeInvalid(
            f"{path} holds no options tuned for this model, its calibration samples, modes and "
            "tolerance.",
            remedy="Publish with --update-lock to search for them.",
        )
    return {name: value for name, value in options.items() if name in tuning.CHOSEN}


def foretold(recipe: Recipe) -> dict[str, Any]:
    """Return what a lock holds and a recipe decides, once its engine and options are known."""
    asked = plan(recipe)
    return {
        "engine": recipe.engine,
        "engine_version": engine(_engine(recipe)).version,
        "options": dict(recipe.options),
        "input_mode": asked.input_mode.value,
        "weights_mode": asked.weights_mode.value,
    }


def path_of(recipe: Recipe) -> Path | None:
    """Return where a recipe's lock lies, or would; None for a bare ONNX file, which keeps none."""
    if not (recipe.folder / _RECIPE_NAME).exists():
        return None  # the folder is not the model's own
    return recipe.folder / LOCK_NAME


def require_same(
    recipe: Recipe, found: Mapping[str, Any], reproducible: Iterable[str] = ()
) -> None:
    """Return if a recipe's lock, where there is one, pins what was ``found``.

    Of these, the names in ``reproducible`` are compared with a lock of the same engine only.

    Raises:
        RecipeInvalid: the lock is damaged, or pins something else.

    """
    path = path_of(recipe)
    if path is None or not path.exists():
        return
    try:
        locked = parse_json(path.read_bytes())
        skipped = {*reproducible} if locked["engine"] != found["engine"] else set()
        differing = [name for name in found if name not in skipped and locked[name] != found[name]]
    except (ValueError, KeyError, TypeError) as exc:
        raise _damaged(path) from exc
    if differing:
        raise RecipeInvalid(
            f"{path} pins other values of {', '.join(differing)} than this circuit has.",
            remedy="If the model changed on purpose, publish with --update-lock.",
        )


def _engine(recipe: Recipe) -> str:
    if recipe.engine is None:
        raise RecipeInvalid(f"The recipe {recipe.name} has no engine yet.")
    return recipe.engine


def _damaged(path: Path) -> RecipeInvalid:
    return RecipeInvalid(
        f"{path} is damaged.", remedy="Publish with --update-lock to write it anew."
    )

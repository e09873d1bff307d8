"""Publish a model whose weights leak anew, so that they do not: hidden, or retrained.

A new verifying key of the same weights refreshes nothing: what proofs revealed were equations about
the weights, and they hold of the same weights under every key. So the same weights are published in
a mode that hides them; other weights have a budget of their own. See docs/adr/0013.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

from zkserve import budgets, publish, runtime
from zkserve.engines import engine
from zkserve.engines.base import Progress
from zkserve.errors import Conflict, ModelRejected, NotFound
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict
from zkserve.recipe import Recipe, export_onnx
from zkserve.store import versions
from zkserve.store.tables import VersionRow
from zkserve.types import WeightsMode


@dataclass(frozen=True, kw_only=True)
class Rekeyed:
    """The new version, the numbers of those that it takes the place of, and how it helps."""

    published: publish.Published
    replaced: tuple[int, ...]
    why: str


def rekey(
    node: Node,
    recipe: Recipe,
    srs_source: publish.SrsSource,
    *,
    progress: Progress,
    solc: str = "",
    on_chain: bool = False,
) -> Rekeyed:
    """Publish a recipe as the next version of its model, such that proofs can go on.

    The recipe's engine and weights mode count where its weights are others than those of the
    versions in use. Else the native engine is tried, then ezkl with hashed weights; neither looks
    at the recipe's circuit.lock. Nothing is deprecated here. ``solc`` and ``on_chain`` are those of
    :func:`zkserve.publish.publish`.

    Raises:
        NotFound: no version of the model was ever published.
        Conflict: no version of the model that is in use leaks.
        ModelRejected: the weights are the same and no engine can hide them.

    """
    leaking = _leaking(_versions(node, recipe.name))
    replaced = tuple(row.number for row in leaking)
    if not leaking:
        raise Conflict(
            f"No version of {recipe.name} that is in use reveals its weights.",
            remedy="There is nothing to rekey; publish the model with `zkserve publish`.",
        )
    progress("comparing the weights")
    if _retrained(recipe, leaking):
        published = publish.publish(
            node, recipe, srs_source, progress=progress, solc=solc, on_chain=on_chain
        )
        return Rekeyed(
            published=published,
            replaced=replaced,
            why="its weights are other ones, whose budget is their own",
        )
    refusals = []
    for hidden in _hidden(recipe):
        try:
            published = publish.publish(
                node,
                hidden,
                srs_source,
                progress=progress,
                locked=False,
                solc=solc,
                on_chain=on_chain,
            )
        except ModelRejected as exc:
            refusals.append(f"{hidden.engine}: {exc.message}")
        else:
            mode = published.manifest.weights_mode
            return Rekeyed(
                published=published,
                replaced=replaced,
                why=f"it hides the same weights (engine {hidden.engine}, weights mode {mode})",
            )
    raise ModelRejected(
        f"The weights of {recipe.name} are those of before, and no engine can hide them: "
        + " ".join(refusals),
        remedy="Retrain the model: other weights have a budget of their own. A new key of the same "
        "weights has not.",
    )


def _versions(node: Node, name: str) -> list[VersionRow]:
    with node.database.snapshot() as session:
        found = [row for model, row in versions.listing(session) if model.name == name]
    if not found:
        raise NotFound(
            f"No version of a model {name!r} was published here.",
            remedy="Publish it with `zkserve publish`; the name is that in recipe.toml.",
        )
    return found


def _leaking(published: list[VersionRow]) -> list[VersionRow]:
    return [
        row
        for row in published
        if row.deprecated_at is None and manifest_from_dict(row.manifest).leak is not None
    ]


def _retrained(recipe: Recipe, leaking: list[VersionRow]) -> bool:
    """Whether a recipe shares no weights with any of the versions; False where that is unknown."""
    with runtime.private_folder() as folder:
        found = set(budgets.weights_digests(export_onnx(recipe, folder / "model.onnx")))
    known = [set(row.weights_digests) for row in leaking]
    return bool(found) and all(known) and not any(found & digests for digests in known)


def _hidden(recipe: Recipe) -> Iterator[Recipe]:
    """Yield the recipe in the ways that hide its weights, the best first."""
    native = engine("native")
    yield replace(
        recipe,
        engine=native.name,
        weights_mode=native.weights_mode,
        options=MappingProxyType({}),
        tune=False,
    )
    if recipe.engine != "native":
        options = {name: value for name, value in recipe.options.items() if name != "leak_fraction"}
        yield replace(
            recipe,
            engine="ezkl",
            weights_mode=WeightsMode.HASHED,
            options=MappingProxyType(options),
            tune=False,
        )

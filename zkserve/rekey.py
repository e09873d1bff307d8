"""Publish a model whose weights leak anew, so that they do not: hidden, or retrained.

A new verifying key of the same weights refreshes nothing: what proofs revealed were equations about
the weights, and they hold of the same weights under every key. So the same weights are published in
a mode that hides them; other weights have a budget of their own. See docs/adr/0013.

Each step is taken once, however often all is cut off and called again: what was published is found
again by the digest of its ONNX file, and what took whose place stands in the table of versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

from zkserve import budgets, publish, register, runtime
from zkserve.encoding import sha256_file
from zkserve.engines import engine
from zkserve.engines.base import Progress
from zkserve.errors import Conflict, ModelRejected, NotFound
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict
from zkserve.recipe import Recipe, export_onnx
from zkserve.store import versions
from zkserve.store.tables import VersionRow
from zkserve.types import WeightsMode

CAVEAT = (
    "That they are others is told by digests of their values, rounded or not. Weights that were "
    "fine-tuned from those before count as others, though much of the secret is the same and what "
    "proofs revealed of it still holds: no budget knows that, only you do."
)


@dataclass(frozen=True, kw_only=True)
class Rekeyed:
    """The version that is offered now, the numbers of those that it took the place of, and why.

    ``caveat`` says what the comparison of weights cannot see, where anything hangs on it.
    """

    published: publish.Published
    replaced: tuple[int, ...]
    why: str
    caveat: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """What tells the weights of a recipe: their file, and their digests."""

    onnx_sha256: str
    digests: frozenset[str]


def rekey(
    node: Node,
    recipe: Recipe,
    srs_source: publish.SrsSource,
    *,
    progress: Progress,
    solc: str = "",
    place: register.Place | None = None,
    price_wei: int | None = None,
    uri: str = "",
    keep: bool = False,
) -> Rekeyed:
    """Publish a recipe as the next version of its model, such that proofs can go on.

    The recipe's engine and weights mode count where its weights are others than those of all
    versions that leak or leaked, of any model; its circuit.lock is renewed then. Else the native
    engine is tried, then ezkl with hashed weights; neither looks at the lock. With a ``place`` the
    version is registered there, see :func:`zkserve.register.register`. At last those versions of
    the model that leak are deprecated, unless ``keep``, and point to the new one.

    Safe to repeat after whatever cut it off: the end is that of one whole run. A version of other
    weights that took the place of those before stands until its own budget is spent.

    Raises:
        NotFound: no version of the model was ever published.
        Conflict: no version of the model that is in use leaks.
        ModelRejected: the weights are the same and no engine can hide them.
        ChainError: a version is to be deprecated that ``place`` does not reach; nothing was done.

    """
    own = _versions(node, recipe.name)
    in_use = [row for row in own if row.deprecated_at is None]
    leaking = [row for row in in_use if _leaks(row)]
    if not keep:
        for row in leaking:
            register.require_reach(place, row)
    progress("comparing the weights")
    weights = _weights(recipe)
    standing = _standing(node, recipe, in_use, own, weights)
    if standing is not None:
        published = _published(recipe, standing)
    elif leaking:
        published = _publish(
            node, recipe, weights, srs_source, progress, solc=solc, on_chain=place is not None
        )
    else:
        raise Conflict(
            f"No version of {recipe.name} that is in use reveals its weights.",
            remedy="There is nothing to rekey; publish the model with `zkserve publish`.",
        )
    model, number = published.model, published.number
    if place is not None:
        register.register(
            node, place, model, number, price_wei=price_wei, uri=uri, progress=progress
        )
    pointing = {row.number for row in own if row.replaced_by == number}
    taken = set() if keep else {row.number for row in leaking} - {number}
    for other in sorted(taken):
        progress(f"deprecating version {other}")
        register.deprecate(node, place, model, other, replaced_by=number)
    retrained = published.manifest.leak is not None
    return Rekeyed(
        published=published,
        replaced=tuple(sorted(pointing | taken)),
        why="its weights are other ones, whose budget is their own"
        if retrained
        else f"it hides the weights (engine {published.manifest.engine}, weights mode "
        f"{published.manifest.weights_mode})",
        caveat=CAVEAT if retrained else None,
    )


def _versions(node: Node, name: str) -> list[VersionRow]:
    """Return all versions of a model, the newest first."""
    with node.database.snapshot() as session:
        found = [row for model, row in versions.listing(session) if model.name == name]
    if not found:
        raise NotFound(
            f"No version of a model {name!r} was published here.",
            remedy="Publish it with `zkserve publish`; the name is that in recipe.toml.",
        )
    return found


def _weights(recipe: Recipe) -> _Weights:
    with runtime.private_folder() as folder:
        onnx = export_onnx(recipe, folder / "model.onnx")
        digests = frozenset(budgets.weights_digests(onnx))
        return _Weights(onnx_sha256=sha256_file(onnx), digests=digests)


def _standing(
    node: Node,
    recipe: Recipe,
    in_use: Iterable[VersionRow],
    own: Iterable[VersionRow],
    weights: _Weights,
) -> VersionRow | None:
    """Return the version in use that a run before made of this recipe, if it need not be replaced.

    One that hides its weights stands where nothing in use leaks any more. One that leaks stands
    where it took, or is to take, the place of older ones with other weights, and may still be
    proved.
    """
    leaking = [row for row in in_use if _leaks(row)]
    pointed = {row.replaced_by for row in own}
    for row in in_use:
        if row.onnx_sha256 != weights.onnx_sha256 or not _as_asked(recipe, row):
            continue
        if not _leaks(row):
            if not leaking and row.number in pointed:
                return row
        elif (
            (row.number in pointed or leaking != [row])
            and row.number == max(other.number for other in leaking)
            and _sharing(node, recipe, weights, besides=row) is None
            and _payable(node, row)
        ):
            return row
    return None


def _as_asked(recipe: Recipe, row: VersionRow) -> bool:
    """Return whether a version is of the modes that a recipe asks for, or hides its weights."""
    manifest = manifest_from_dict(row.manifest)
    return manifest.leak is None or (
        recipe.engine in (None, manifest.engine)
        and recipe.weights_mode in (None, manifest.weights_mode)
        and recipe.input_mode is manifest.input_mode
    )


def _payable(node: Node, row: VersionRow) -> bool:
    """Return whether the leak budget of a version allows one more proof."""
    leak = manifest_from_dict(row.manifest).leak
    with node.database.snapshot() as session:
        made = budgets.proofs_made(session, row)
    return leak is not None and made is not None and made < leak.proofs


def _sharing(
    node: Node, recipe: Recipe, weights: _Weights, besides: VersionRow | None = None
) -> str | None:
    """Return the name of a version that leaks or leaked some of the weights; None: there is none.

    Versions of the model itself whose weights cannot be told count as if they had.
    """
    with node.database.snapshot() as session:
        for model, row in versions.listing(session):
            if not _leaks(row) or (besides is not None and row.id == besides.id):
                continue
            known = set(row.weights_digests)
            unknown = model.name == recipe.name and not (known and weights.digests)
            if unknown or known & weights.digests:
                return f"{model.name} version {row.number}"
    return None


def _publish(
    node: Node,
    recipe: Recipe,
    weights: _Weights,
    srs_source: publish.SrsSource,
    progress: Progress,
    *,
    solc: str,
    on_chain: bool,
) -> publish.Published:
    shared = _sharing(node, recipe, weights)
    if shared is None:
        published = publish.publish(
            node,
            recipe,
            srs_source,
            progress=progress,
            renew_lock=True,
            solc=solc,
            on_chain=on_chain,
        )
        return _in_use(node, published)
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
            return _in_use(node, published)
        except (ModelRejected, Conflict) as exc:
            refusals.append(f"{hidden.engine}: {exc.message}")
    raise ModelRejected(
        f"The weights of {recipe.name}, or some of them, are those of {shared}, and no engine can "
        "hide them: " + " ".join(refusals),
        remedy="Retrain the model: other weights have a budget of their own. A new key of the same "
        "weights has not.",
    )


def _in_use(node: Node, published: publish.Published) -> publish.Published:
    """Offer what was published and deprecated before again: the model needs a version in use.

    Raises:
        Conflict: it was deprecated on a chain, for good.

    """
    if published.deprecated:
        register.restore(node, published.model, published.number)
    return replace(published, deprecated=False)


def _published(recipe: Recipe, row: VersionRow) -> publish.Published:
    return publish.Published(
        model=recipe.name,
        number=row.number,
        manifest=manifest_from_dict(row.manifest),
        repeated=True,
        engine_why="it was published before",
    )


def _leaks(row: VersionRow) -> bool:
    return manifest_from_dict(row.manifest).leak is not None


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

"""The command of an owner whose weights leak."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from zkserve import log
from zkserve.cli.console import JsonFlag, answer, progress, read_settings
from zkserve.cli.owner import (
    ChainOption,
    PriceOption,
    SamplesOption,
    open_node,
    open_place,
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(rekey)


def rekey(
    path: Annotated[
        Path, typer.Argument(help="The model's folder circuits/NAME, or .onnx with --samples.")
    ],
    samples: SamplesOption = None,
    price_wei: PriceOption = None,
    chain: ChainOption = True,
    keep: Annotated[
        bool, typer.Option("--keep", help="Do not deprecate the versions that leak.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Publish a model whose weights leak so that proofs can go on, and deprecate what leaks.

    The same weights are hidden from now on, by the native engine or else ezkl with weights mode
    hashed; weights retrained since are published as the recipe says, with a budget of their own. A
    new key of the same weights would refresh nothing. Cut off, it is safe to run again.
    Example: `zkserve rekey circuits/my_model`
    """
    from zkserve import publish as publishing
    from zkserve import recipe
    from zkserve import rekey as use_case

    settings = read_settings()
    log.configure("WARNING")
    node = open_node(settings)
    source = publishing.SrsSource(
        development_folder=settings.data_dir / "srs",
        path=settings.srs_path,
        sha256=settings.srs_sha256,
    )
    place = open_place(settings) if chain and settings.rpc_url else None
    with progress(as_json) as show:
        made = use_case.rekey(
            node,
            recipe.load(path, samples=samples),
            source,
            progress=show,
            solc=settings.solc_command,
            place=place,
            price_wei=price_wei,
            uri=settings.public_url,
            keep=keep,
        )
    published, deprecated = made.published, list(made.replaced)
    manifest = published.manifest
    data: dict[str, Any] = {
        "model": published.model,
        "version": published.number,
        "why": made.why,
        "caveat": made.caveat,
        "engine": manifest.engine,
        "weights_mode": manifest.weights_mode.value,
        "leak": asdict(manifest.leak) if manifest.leak else None,
        "deprecated": deprecated,
    }
    lines = [f"{published.model} version {published.number}: {made.why}."]
    if deprecated:
        listed = ", ".join(map(str, deprecated))
        lines.append(
            f"  Deprecated: version {listed}. What was asked of it is still proved; its users are "
            f"pointed to version {published.number}."
        )
    if made.caveat:
        lines.append(f"  [yellow]{escape(made.caveat)}[/]")
    if manifest.leak is None:
        lines.append(
            escape(
                f'  Put name = "{manifest.engine}" under [engine] and weights = '
                f'"{manifest.weights_mode}" under [visibility] into recipe.toml to keep it so.'
            )
        )
    answer(data, as_json, *lines)

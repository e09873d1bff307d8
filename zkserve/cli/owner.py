"""Commands of a model's owner: publish, serve, work."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from zkserve import log
from zkserve.cli.console import JsonErrorsFlag, JsonFlag, answer, progress, read_settings
from zkserve.errors import InvalidInput
from zkserve.node import Node
from zkserve.settings import Settings
from zkserve.types import CODE_LIMIT_BYTES

if TYPE_CHECKING:  # imported when called: `serve` must stay light, and --help quick
    from zkserve.chain.rpc import Chain
    from zkserve.register import Place

SamplesOption = Annotated[
    Path | None, typer.Option(help="Samples (.npz or .json) for a bare .onnx file.")
]
PriceOption = Annotated[
    int | None, typer.Option(min=0, help="Offer the version on the market at this price.")
]
ChainOption = Annotated[
    bool, typer.Option(help="Register on the chain of ZKSERVE_RPC_URL, if one is set.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(publish)
    app.command()(card)
    app.command()(deprecate)
    app.command()(serve)
    app.command()(work)


def open_node(settings: Settings) -> Node:
    """Open the node the settings describe and check its tables.

    Raises:
        ZkserveError: the tables are of another version.

    """
    node = connect(settings)
    node.database.require_current()
    return node


def connect(settings: Settings) -> Node:
    """Open the node the settings describe, whatever its tables are.

    Raises:
        StorageKeyWrong: the storage key is missing, malformed or another.

    """
    return Node.open(
        data_dir=settings.data_dir,
        database_url=settings.database,
        production=settings.production,
        storage_key=settings.storage_key.get_secret_value(),
        storage_key_file=settings.storage_key_file,
    )


def publish(
    path: Annotated[
        Path, typer.Argument(help="A folder circuits/NAME, or an .onnx file with --samples.")
    ],
    samples: SamplesOption = None,
    price_wei: PriceOption = None,
    chain: ChainOption = True,
    update_lock: Annotated[
        bool, typer.Option(help="Write circuit.lock anew where the model changed on purpose.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Only say what publishing would give and cost; make nothing."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compile, measure and register a model as its next version.

    Publishing the same again changes nothing. Example: `zkserve publish circuits/breast_cancer`.
    With `--dry-run` a bare .onnx needs no samples; the exit status is 1 if it would not publish.
    """
    if dry_run:
        from zkserve.cli import preflight

        preflight.run(path, samples, on_chain=chain, update_lock=update_lock, as_json=as_json)
        return
    from zkserve import publish as use_case
    from zkserve import recipe
    from zkserve import register as register_version

    settings = read_settings()
    log.configure("WARNING")
    node = open_node(settings)
    source = use_case.SrsSource(
        development_folder=settings.data_dir / "srs",
        path=settings.srs_path,
        sha256=settings.srs_sha256,
    )
    with progress(as_json) as show:
        published = use_case.publish(
            node,
            recipe.load(path, samples=samples),
            source,
            progress=show,
            update_lock=update_lock,
            solc=settings.solc_command,
            on_chain=chain and bool(settings.rpc_url),
        )
        registered = None
        if chain and settings.rpc_url:
            version_id = register_version.register(
                node,
                open_place(settings),
                published.model,
                published.number,
                price_wei=price_wei,
                uri=settings.public_url,
                progress=show,
            )
            registered = f"0x{version_id:064x}"
    manifest = published.manifest
    agreement = manifest.agreement
    data: dict[str, Any] = {
        "model": published.model,
        "version": published.number,
        "repeated": published.repeated,
        "engine": f"{manifest.engine} {manifest.engine_version}",
        "engine_why": published.engine_why,
        "circuit_id": manifest.circuit_id,
        "weights": manifest.weights,
        "weights_mode": manifest.weights_mode.value,
        "input_mode": manifest.input_mode.value,
        "rows": manifest.rows,
        "development_srs": manifest.development_srs,
        "agreement_max_abs": agreement.max_abs if agreement else None,
        "verifier_bytes": manifest.facts.get("verifier_bytes"),
        "leak": asdict(manifest.leak) if manifest.leak else None,
        "chain_version_id": registered,
    }
    lines = [
        f"{published.model} version {published.number}"
        + (" was published already" if published.repeated else " is published")
        + (", and is deprecated." if published.deprecated else "."),
        f"  engine    {manifest.engine} {manifest.engine_version}: {published.engine_why}",
        f"  circuit   {manifest.circuit_id}",
        f"  weights   {manifest.weights_mode.value}, {manifest.weights}",
    ]
    if manifest.leak:
        lines.append(
            f"  [yellow]leak      each proof reveals up to {manifest.leak.bits_per_proof} of about "
            f"{manifest.leak.secret_bits} bits of weights: at most {manifest.leak.proofs} "
            "will be made[/]"
        )
    if agreement:
        lines.append(
            f"  agreement within {agreement.max_abs:.4g} of the float model on "
            f"{agreement.samples} held-out samples"
        )
    if registered:
        lines.append(f"  on chain  version {registered}")
    verifier_bytes = manifest.facts.get("verifier_bytes", 0)
    if isinstance(verifier_bytes, int) and verifier_bytes > CODE_LIMIT_BYTES:
        lines.append(
            f"  [yellow]No chain takes its verifier: {verifier_bytes} bytes, at most "
            f"{CODE_LIMIT_BYTES} may come.[/]"
        )
    if manifest.development_srs:
        lines.append("  [yellow]Development SRS: proofs can be forged. Not for production.[/]")
    answer(data, as_json, *lines)


def open_chain(settings: Settings) -> Chain:
    """Return the chain of the settings, with their signer.

    Raises:
        InvalidInput: none is set.

    """
    from zkserve.chain.rpc import Chain

    key = settings.signer_key.get_secret_value()
    if not (settings.rpc_url and key):
        raise InvalidInput(
            "No chain or no signer is set.",
            remedy="Set ZKSERVE_RPC_URL and ZKSERVE_SIGNER_KEY.",
        )
    return Chain(settings.rpc_url, signer_key=key, max_fee_gwei=settings.max_fee_gwei)


def card(
    path: Annotated[Path, typer.Argument(help="A folder circuits/NAME that was published.")],
    as_json: JsonFlag = False,
) -> None:
    """Print what belongs into a model card of how the weights are bound, and of their leak budget.

    Read from the folder's circuit.lock. Example: `zkserve card circuits/breast_cancer`
    """
    from zkserve import card as use_case

    said = use_case.weights(path)
    answer({"weights": said}, as_json, escape(said))


def deprecate(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int, typer.Argument(min=1, help="Number of the version.")],
    as_json: JsonFlag = False,
) -> None:
    """Offer a version no longer, here and on the chain it is registered on.

    What was asked for before is still proved and settled. Example: `zkserve deprecate digits_cnn 1`
    """
    from zkserve import register as use_case

    settings = read_settings()
    log.configure("WARNING")
    place = open_place(settings) if settings.rpc_url else None
    use_case.deprecate(open_node(settings), place, model, version)
    answer(
        {"model": model, "version": version, "deprecated": True},
        as_json,
        f"{model} version {version} is deprecated.",
    )


def open_place(settings: Settings) -> Place:
    """Return where the settings say that versions are registered.

    Raises:
        InvalidInput: no chain, signer, registry or market is set.

    """
    from zkserve.register import Place

    if not (settings.registry and settings.market):
        raise InvalidInput(
            "ZKSERVE_RPC_URL is set but ZKSERVE_REGISTRY and ZKSERVE_MARKET are not.",
            remedy="Run `zkserve chain deploy`, set both, or publish with --no-chain.",
        )
    return Place(
        chain=open_chain(settings),
        registry=settings.registry,
        market=settings.market,
        solc=settings.solc_command,
        confirmations=settings.confirmations,
    )


def serve(as_json: JsonErrorsFlag = False) -> None:
    """Serve the HTTP API (Open Inference Protocol v2, proofs, receipts, artifacts).

    Example: `ZKSERVE_PORT=8080 zkserve serve`
    """
    from zkserve import api
    from zkserve.engines import sandbox

    del as_json
    settings = read_settings()
    log.configure(settings.log_level)
    log.get("api").info("api_starting", sandbox=str(sandbox.in_force()))
    api.serve(settings)


def work(as_json: JsonErrorsFlag = False) -> None:
    """Run a worker: proves jobs and, where a chain is set, follows and fulfils requests.

    Kill it whenever you like: started again under the same ZKSERVE_EXECUTOR_ID it goes on.
    Example: `zkserve work`
    """
    from zkserve import worker

    del as_json
    settings = read_settings()
    log.configure(settings.log_level)
    worker.main(settings)

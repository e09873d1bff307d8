"""Commands of those who want predictions: predict, verify."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from zkserve.cli.console import JsonFlag, answer, progress, read_settings
from zkserve.client import Client
from zkserve.encoding import parse_json, to_hex
from zkserve.errors import InvalidInput, NotFound, ProofInvalid
from zkserve.receipt import receipt_to_dict

UrlOption = Annotated[
    str | None,
    typer.Option(help="Where the service is; default: this machine's.", show_default=False),
]
ApiKeyOption = Annotated[
    str | None, typer.Option(envvar="ZKSERVE_API_KEY", help="API key.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(predict)
    app.command()(verify)
    app.command()(audit)


def open_client(url: str | None, api_key: str | None) -> Client:
    """Open a client of the named service, or of this machine's."""
    if url is None:
        settings = read_settings()
        url = settings.public_url or f"http://{settings.host}:{settings.port}"
    return Client(url, api_key=api_key)


def predict(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    source: Annotated[
        str, typer.Option("--input", help="JSON file with the input's numbers; - for stdin.")
    ] = "-",
    version: Annotated[int | None, typer.Option(min=1, help="Version; default: newest.")] = None,
    receipt: Annotated[
        Path | None, typer.Option(help="Wait for the proof and write its receipt here.")
    ] = None,
    opening: Annotated[
        Path | None, typer.Option(help="Write the private opening of a committed input here.")
    ] = None,
    url: UrlOption = None,
    api_key: ApiKeyOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask for a prediction; with --receipt, wait until it is proven.

    Example: `zkserve predict breast_cancer --input patient.json --receipt receipt.json`
    """
    values = _read_numbers(source)
    with open_client(url, api_key) as client, progress(as_json) as show:
        show("predicting")
        prediction = client.infer(model, values, version=version)
        if opening is not None and prediction.opening is not None:
            _write_private(opening, prediction.opening)
        if receipt is not None and prediction.proof_id is not None:
            show("proving")
            client.wait(prediction.proof_id, on_event=lambda event: show(f"proof: {event.state}"))
            proven = client.receipt(prediction.proof_id)
            receipt.write_text(json.dumps(receipt_to_dict(proven), indent=2) + "\n")
    data = {
        "values": list(prediction.values),
        "outputs": [str(value) for value in prediction.outputs],
        "batch": prediction.batch,
        "rows": prediction.rows,
        "proof_id": prediction.proof_id,
        "proven": receipt is not None,
        "receipt": str(receipt) if receipt else None,
    }
    answer(
        data,
        as_json,
        *(f"values  {row}" for row in _rows(prediction.values, prediction.rows)),
        f"proof   {prediction.proof_id}"
        + (f", receipt in {escape(str(receipt))}" if receipt else " (not yet proven)"),
    )


def _rows(values: Sequence[float], rows: int) -> list[str]:
    size = len(values) // rows
    parts = [values[number * size : (number + 1) * size] for number in range(rows)]
    return [", ".join(f"{value:.6g}" for value in part) for part in parts]


def verify(
    path: Annotated[Path, typer.Argument(metavar="RECEIPT", help="A receipt's JSON file.")],
    artifacts: Annotated[
        Path | None, typer.Option(help="Folder of the circuit's public artifacts: fully offline.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Download the public artifacts from this service first.")
    ] = None,
    expect_circuit: Annotated[
        str | None, typer.Option(help="The circuit id you trust, from registry or model card.")
    ] = None,
    opening: Annotated[
        Path | None, typer.Option(help="Opening of the committed input, to check that too.")
    ] = None,
    rpc_url: Annotated[
        str | None, typer.Option(help="Ask the verifier contract through this node instead.")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="Address of the registry you trust, with --rpc-url.")
    ] = None,
    version_id: Annotated[
        str | None, typer.Option(help="Id of the registered version you rely on, with --rpc-url.")
    ] = None,
    market: Annotated[
        str | None, typer.Option(help="Address of the market you trust: checks the settlement.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Verify a receipt: offline from public artifacts, or by asking the chain.

    Examples: `zkserve verify receipt.json --artifacts artifacts/` or
    `zkserve verify receipt.json --rpc-url URL --registry ADDRESS --version-id ID`
    """
    from zkserve import verify as use_case

    receipt = use_case.read_receipt(path)
    if rpc_url is not None:
        if registry is None or version_id is None:
            raise InvalidInput(
                "--rpc-url needs --registry and --version-id.",
                remedy="Name the version you rely on: anybody can register one that accepts all.",
            )
        if artifacts is not None or url is not None or opening is not None:
            raise InvalidInput(
                "--rpc-url goes without --artifacts, --url and --opening.",
                remedy="Verify twice: on chain, and offline.",
            )
        from zkserve.chain.rpc import Chain

        if expect_circuit is not None and expect_circuit != receipt.claim.circuit_id:
            raise ProofInvalid(
                f"The receipt is of circuit {receipt.claim.circuit_id}, expected {expect_circuit}."
            )
        result = use_case.verify_on_chain(
            receipt, Chain(rpc_url), registry, _version_number(version_id), market=market
        )
    elif registry or version_id or market:
        raise InvalidInput("--registry, --version-id and --market go with --rpc-url.")
    elif artifacts is not None:
        result = _verify_folder(receipt, artifacts, expect_circuit, opening)
    elif url is not None:
        with tempfile.TemporaryDirectory() as folder, Client(url) as client:
            client.download_artifacts(receipt.claim.circuit_id, Path(folder))
            result = _verify_folder(receipt, Path(folder), expect_circuit, opening)
    else:
        raise InvalidInput(
            "Nothing to verify against was named.",
            remedy="Add --artifacts FOLDER, --url URL, or --rpc-url URL with --registry and "
            "--version-id.",
        )
    first, *others = _rows(result.values, result.batch or 1)
    answer(
        {"valid": True, **asdict(result)},
        as_json,
        f"[bold green]valid[/]  values {first}",
        *(f"       values {row}" for row in others),
        *(f"  ✓ {line}" for line in result.established),
        *(f"  [yellow]![/] {line}" for line in result.caveats),
    )


def audit(
    version_id: Annotated[str, typer.Argument(help="Id of a registered version, 0x….")],
    rpc_url: Annotated[str, typer.Option(help="A node of the chain.")],
    registry: Annotated[str, typer.Option(help="Address of the registry you trust.")],
    artifacts: Annotated[
        Path | None, typer.Option(help="Folder of the circuit's public artifacts.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Download the public artifacts from this service first.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check that a registered version's contracts verify the circuit of the public artifacts.

    The verifier is made anew from the artifacts, compiled, and compared byte for byte.
    Example: `zkserve audit 0x1f… --rpc-url URL --registry ADDRESS --url URL`
    """
    from zkserve import audit as use_case
    from zkserve.chain.contracts import Registry
    from zkserve.chain.rpc import Chain
    from zkserve.verify import read_bundle

    number = _version_number(version_id)
    chain, solc = Chain(rpc_url), read_settings().solc_command
    with tempfile.TemporaryDirectory() as temporary:
        folder = artifacts or Path(temporary)
        if artifacts is None:
            if url is None:
                raise InvalidInput(
                    "No artifacts were named.", remedy="Add --artifacts FOLDER or --url URL."
                )
            circuit = Registry(chain, registry).get_version(number).circuit_id
            with Client(url) as client:
                client.download_artifacts(to_hex(circuit), folder)
        result = use_case.audit(chain, registry, number, read_bundle(folder, private=True), solc)
    answer(
        {"matches": True, **asdict(result)},
        as_json,
        f"[bold green]matches[/]  version {result.version_id}",
        *(f"  ✓ {line}" for line in result.established),
        *(f"  [yellow]![/] {line}" for line in result.caveats),
    )


def _version_number(version_id: str) -> int:
    """Read a uint256 in hex or in decimal: tools print both."""
    try:
        number = int(version_id, 0)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 256:
        raise InvalidInput(
            f"{version_id[:90]!r} is no version id: expected a number below 2**256, 0x… or decimal."
        )
    return number


def _verify_folder(receipt: Any, folder: Path, circuit: str | None, opening: Path | None) -> Any:
    from zkserve import verify as use_case

    return use_case.verify_offline(
        receipt,
        folder,
        expected_circuit=circuit,
        opening=_read_bytes(opening) if opening else None,
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise NotFound(f"{path} cannot be read: {exc.strerror}.") from exc


def _read_numbers(source: str) -> list[float]:
    raw = sys.stdin.buffer.read() if source == "-" else _read_bytes(Path(source))
    try:
        values = parse_json(raw)
    except ValueError as exc:
        raise InvalidInput(
            "The input is not JSON.", remedy="Give a list of numbers: [0.1, 0.2, …]."
        ) from exc
    flat = _flatten(values)
    if not flat:
        raise InvalidInput("The input is empty.", remedy="Give a list of numbers: [0.1, 0.2, …].")
    return flat


def _flatten(values: object) -> list[float]:
    if isinstance(values, list):
        return [number for value in values for number in _flatten(value)]
    if isinstance(values, (int, float)) and not isinstance(values, bool):
        try:
            return [float(values)]
        except OverflowError as exc:
            raise InvalidInput(
                "The input holds a number beyond what a float can hold.",
                remedy="Give a list of numbers of the model's own range.",
            ) from exc
    raise InvalidInput(
        f"The input holds a {type(values).__name__}.", remedy="Give a list of numbers only."
    )


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)

"""What verifying offline says of the registration that a proof is bound to, and of batches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from typer.testing import CliRunner

from tests import fakes
from zkserve import cli, prove, verify
from zkserve.encoding import context, identified, to_hex
from zkserve.engines.base import NO_CONTEXT
from zkserve.errors import BundleMismatch
from zkserve.node import Node
from zkserve.receipt import manifest_bytes, manifest_from_dict, receipt_to_dict
from zkserve.types import CircuitManifest, Receipt, Settlement, TensorSpec

SETTLEMENT = Settlement(
    chain_id=31337,
    registry="0x" + "12" * 20,
    market="0x" + "34" * 20,
    verifier="0x" + "56" * 20,
    version_id=7,
    request_id=1,
    transaction="0x" + "78" * 32,
    block=1,
    gas=1,
    callback_ok=True,
)
BOUND = context(31337, "0x" + "12" * 20, 7)


def test_the_registration_that_a_receipt_names_is_established_only_if_the_proof_is_for_it() -> None:
    established, caveats = verify._context_said(BOUND, SETTLEMENT)
    assert (len(established), caveats) == (1, ())
    assert "version 0x7 of registry 0x1212" in established[0]
    for other in (
        replace(SETTLEMENT, chain_id=1),
        replace(SETTLEMENT, registry="0x" + "13" * 20),
        replace(SETTLEMENT, version_id=8),
    ):
        established, caveats = verify._context_said(BOUND, other)
        assert established == ()
        assert "another registration" in caveats[0]


def test_a_proof_without_a_settlement_shows_what_it_is_bound_to() -> None:
    established, caveats = verify._context_said(BOUND, None)
    assert established == ()
    assert to_hex(BOUND) in caveats[0]


def test_a_proof_for_no_registration_is_said_to_be_one() -> None:
    for settlement in (None, SETTLEMENT):
        established, caveats = verify._context_said(NO_CONTEXT, settlement)
        assert established == ()
        assert "no registration" in caveats[0]


def test_of_an_engine_that_binds_nothing_nothing_is_said() -> None:
    assert verify._context_said(None, SETTLEMENT) == ((), ())


one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ROWS = [[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]]
Issue = Callable[..., tuple[Receipt, Path]]


@pytest.fixture
def issue(node: Node, engine: fakes.FakeEngine, tmp_path: Path) -> Iterator[Issue]:
    """Prove rows with a version of as many; return its receipt and the public artifacts."""

    def issue(
        rows: list[list[float]],
        change: Callable[[CircuitManifest], CircuitManifest] = lambda manifest: manifest,
    ) -> tuple[Receipt, Path]:
        version = fakes.publish(node, "many", batch=len(rows))
        claim = prove.predict(node, version, np.array(rows, np.float32).ravel()).claim
        manifest = identified(change(manifest_from_dict(version.manifest)))
        claim = replace(claim, circuit_id=manifest.circuit_id)
        folder = tmp_path / "artifacts"
        folder.mkdir()
        (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
        for name in manifest.public:
            (folder / name).write_bytes(node.artifacts.get(manifest.pins[name]))
        receipt = Receipt(
            claim=claim,
            proof=fakes.proof_of(claim),
            engine=manifest.engine,
            engine_version=manifest.engine_version,
            model="many",
            version=1,
            output_scale=manifest.output_scale,
            development_srs=manifest.development_srs,
        )
        return receipt, folder

    with mock.patch("zkserve.verify.engine", return_value=engine):
        yield issue


@one_database
def test_of_a_batch_it_is_said_how_many_samples_the_claim_is_about(issue: Issue) -> None:
    found = verify.verify_offline(*issue(ROWS))
    assert found.batch == 3
    assert any("one of 3 samples" in line for line in found.established)
    assert not any("repeated" in line for line in found.caveats), "all rows differ"


@one_database
@pytest.mark.parametrize(
    ("rows", "answers"),
    [([ROWS[0]] * 3, 1), ([ROWS[0], ROWS[1], ROWS[1]], 2), ([ROWS[0], ROWS[1], ROWS[0]], 2)],
)
def test_rows_that_may_be_one_sample_repeated_are_not_passed_off_as_several(
    issue: Issue, rows: list[list[float]], answers: int
) -> None:
    caveats = verify.verify_offline(*issue(rows)).caveats
    assert any(f"The 3 rows hold {answers} different answers." in line for line in caveats)


@one_database
def test_of_one_sample_nothing_is_said_of_rows(issue: Issue) -> None:
    found = verify.verify_offline(*issue(ROWS[:1]))
    assert found.batch == 1
    assert not any(
        word in line
        for line in (*found.established, *found.caveats)
        for word in ("rows", "samples")
    )


@one_database
@pytest.mark.parametrize("batch", [-1, 0, 2, 6, 7])
def test_a_batch_that_the_output_has_not_is_refused(issue: Issue, batch: int) -> None:
    def lie(manifest: CircuitManifest) -> CircuitManifest:
        return replace(manifest, parameters={"batch": batch})

    with pytest.raises(BundleMismatch, match=f"batch of {batch}"):
        verify.verify_offline(*issue(ROWS, lie))


@one_database
def test_a_flat_output_passes_for_no_batch(issue: Issue) -> None:
    def flat(manifest: CircuitManifest) -> CircuitManifest:
        return replace(manifest, output=TensorSpec(name="y", shape=(6,)))

    with pytest.raises(BundleMismatch, match="batch of 3"):
        verify.verify_offline(*issue(ROWS, flat))


@one_database
def test_the_command_line_prints_a_row_a_line(issue: Issue, tmp_path: Path) -> None:
    receipt, folder = issue([ROWS[0], ROWS[1], ROWS[1]])
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipt_to_dict(receipt)))
    arguments = ["verify", str(path), "--artifacts", str(folder)]
    printed = CliRunner().invoke(cli.app, arguments).output.splitlines()
    assert printed[:3] == ["valid  values 1, -1", "       values 2, -2", "       values 2, -2"]
    answer = json.loads(CliRunner().invoke(cli.app, [*arguments, "--json"]).output)
    assert (answer["valid"], answer["batch"]) == (True, 3)

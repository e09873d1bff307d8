"""From the last proof that a leak budget allows to a version that hides the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models import tiny_onnx
from zkserve import budgets, prove, publish, recipe, register, rekey
from zkserve.engines import engine
from zkserve.engines.base import Limits
from zkserve.errors import LeakBudgetSpent, ModelRejected
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict
from zkserve.store import jobs, versions
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import JobState, WeightsMode

pytestmark = [
    pytest.mark.prover,
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
]
INPUTS, HIDDEN, OUTPUTS = 8, 256, 4
RECIPE = """
name = "leaking"
description = "A model whose proofs reveal its weights."
[[inputs]]
name = "x"
shape = [1, 8]
[output]
name = "y"
shape = [1, 4]
tolerance = 0.5
[visibility]
weights = "{weights}"
[engine]
name = "ezkl"
options = {{ decomp_base = 128, decomp_legs = 4 }}
"""


@pytest.fixture
def source(tmp_path: Path) -> publish.SrsSource:
    return publish.SrsSource(development_folder=tmp_path / "srs")


def folder(tmp_path: Path, weights: str, hidden: int = HIDDEN) -> Path:
    where = tmp_path / f"{weights}-{hidden}"
    (where / "samples").mkdir(parents=True)
    (where / "recipe.toml").write_text(RECIPE.format(weights=weights))
    tiny_onnx(where / "model.onnx", inputs=INPUTS, hidden=hidden, outputs=OUTPUTS)
    rows = np.random.default_rng(7).normal(size=(40, INPUTS)).astype(np.float32)
    np.savez(where / "samples" / "samples.npz", calibration=rows[:30], held_out=rows[30:])
    return where


def accept(node: Node, queue: JobQueue, version: VersionRow) -> JobRow:
    return prove.accept(
        node,
        queue,
        version,
        prove.predict(node, version, np.full(INPUTS, 0.5, np.float32)),
        tenant="acme",
        idempotency_key=None,
        request_sha256=None,
        max_open_jobs=100,
    )


def finish(node: Node, queue: JobQueue, job: JobRow) -> None:
    prove.prove(node, job.id, limits=Limits(time_s=300), cancelled=lambda: False)
    prove.deliver(node, queue, job.id)
    with node.database.snapshot() as session:
        done = jobs.get(session, job.id)
        assert done.state == JobState.DONE
        receipt = prove.receipt(node, session, done)
        _, version = versions.get(session, done.version_id)
    manifest = manifest_from_dict(version.manifest)
    proof_system, bundle = engine(manifest.engine), node.bundle(manifest)
    proof_system.verify(bundle, receipt.claim, receipt.proof)
    caveats = proof_system.caveats(bundle)
    said = any("hides the weights only while" in caveat for caveat in caveats)
    assert said == manifest.weights_mode.leaks


def test_a_spent_model_goes_on_hidden(
    node: Node, queue: JobQueue, tmp_path: Path, source: publish.SrsSource
) -> None:
    asked = recipe.load(folder(tmp_path, "fixed"))
    published = publish.publish(node, asked, source, progress=lambda _: None)
    leak = published.manifest.leak
    assert published.manifest.weights_mode is WeightsMode.FIXED
    assert leak is not None
    assert 1 <= leak.proofs < 10
    with node.database.snapshot() as session:
        _, leaking = versions.find(session, "leaking")
    assert leaking.weights_digests
    # The trial of the keys was a proof as well: it is gone, and counts for nothing.
    kept = {*node.artifacts.in_clear(), *node.artifacts.sealed()}
    assert kept == set(published.manifest.pins.values())
    with node.database.snapshot() as session:
        assert budgets.proofs_made(session, leaking) == 0
    accepted = [accept(node, queue, leaking) for _ in range(leak.proofs)]
    with pytest.raises(LeakBudgetSpent):
        accept(node, queue, leaking)
    finish(node, queue, accepted[0])

    made = rekey.rekey(node, asked, source, progress=lambda _: None)
    assert made.published.manifest.weights_mode is WeightsMode.COMMITTED
    assert (made.published.number, made.replaced) == (2, (1,))
    register.deprecate(node, None, "leaking", 1)
    with node.database.snapshot() as session:
        _, hidden = versions.find(session, "leaking")
    assert hidden.number == 2
    finish(node, queue, accept(node, queue, hidden))


@pytest.mark.parametrize("weights", ["fixed", "polycommit"])
def test_a_model_whose_first_proof_would_reveal_too_much_is_not_published(
    node: Node, tmp_path: Path, source: publish.SrsSource, weights: str
) -> None:
    asked = recipe.load(folder(tmp_path, weights, hidden=4))
    with pytest.raises(ModelRejected, match="leak budget allows none"):
        publish.publish(node, asked, source, progress=lambda _: None)
    assert not (asked.folder / "circuit.lock").exists()

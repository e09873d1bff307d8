"""Several predictions in one proof of ezkl: bound row by row, and never mixed up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.chain.anvil_node import running
from tests.models import tiny_onnx
from tests.prover.conftest import INPUTS, LIMITS, OPTIONS
from tests.unit.test_ezkl_batching import mixing
from zkserve import outbox
from zkserve.chain.adapter import Adapter, AdapterTerms
from zkserve.chain.deploy import deploy_verifier
from zkserve.chain.evm import compile_verifier
from zkserve.encoding import identified
from zkserve.engines.agreement import join_samples, measure_agreement
from zkserve.engines.base import Bundle, CircuitPlan, FloatArray, Srs
from zkserve.engines.ezkl import EzklEngine
from zkserve.errors import BundleMismatch, ModelRejected, ProofInvalid
from zkserve.settings import Settings
from zkserve.store.database import Database
from zkserve.types import InputMode, WeightsMode

pytestmark = pytest.mark.prover

BATCH = 3
OUTPUTS = 2


def plan(mode: InputMode, **options: int | bool) -> CircuitPlan:
    return CircuitPlan(
        input_mode=mode,
        weights_mode=WeightsMode.HASHED,
        options=OPTIONS | {"batch": BATCH} | options,
    )


@pytest.fixture(scope="module", params=list(InputMode))
def batched(
    request: pytest.FixtureRequest,
    ezkl_engine: EzklEngine,
    development_srs: Srs,
    samples: FloatArray,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Bundle, Path]:
    folder = tmp_path_factory.mktemp("batched")
    model = tiny_onnx(folder / "tiny.onnx", inputs=INPUTS, hidden=2, outputs=OUTPUTS)
    ezkl_engine.compile(model, plan(request.param), samples, folder / "circuit", limits=LIMITS)
    return ezkl_engine.setup(folder / "circuit", development_srs, limits=LIMITS), model


def test_a_batch_is_one_claim_and_one_proof(
    ezkl_engine: EzklEngine, batched: tuple[Bundle, Path], samples: FloatArray
):
    bundle, model = batched
    manifest = bundle.manifest
    assert manifest.batch == BATCH
    assert manifest.inputs[0].shape == (BATCH, INPUTS)
    assert manifest.output.shape == (BATCH, OUTPUTS)

    def predict(*rows: int) -> tuple[int, ...]:
        joined = join_samples(manifest.inputs, samples[list(rows)])
        return ezkl_engine.predict(bundle, joined).claim.outputs

    alone = [predict(row, row, row)[:OUTPUTS] for row in range(3)]
    assert len(set(alone)) == 3
    assert predict(2, 0, 1) == alone[2] + alone[0] + alone[1]

    joined = join_samples(manifest.inputs, samples[:BATCH])
    prediction = ezkl_engine.predict(bundle, joined)
    proof = ezkl_engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
    ezkl_engine.verify(bundle, prediction.claim, proof.data)
    opened = ezkl_engine.check_opening(bundle, prediction.claim, prediction.opening)
    np.testing.assert_allclose(opened, joined, atol=2**-9)
    a, b, c = alone
    for outputs in (b + a + c, a + b + b, a + b, (*a, *b, c[0], c[1] + 1)):
        with pytest.raises(ProofInvalid):
            ezkl_engine.verify(bundle, replace(prediction.claim, outputs=outputs), proof.data)

    found = measure_agreement(ezkl_engine, bundle, model, samples[:10])
    assert found.samples == 10
    assert found.max_abs < 0.1


def test_outputs_cannot_be_passed_off_as_other_rows(
    ezkl_engine: EzklEngine, batched: tuple[Bundle, Path], samples: FloatArray
):
    bundle, _ = batched
    manifest = bundle.manifest
    turned = replace(manifest.output, shape=(OUTPUTS, BATCH))
    lying = identified(replace(manifest, output=turned))
    with pytest.raises(BundleMismatch, match="batch"):
        ezkl_engine.predict(
            replace(bundle, manifest=lying), join_samples(manifest.inputs, samples[:BATCH])
        )


def test_a_model_that_mixes_its_samples_is_refused_before_it_is_compiled(
    ezkl_engine: EzklEngine, tmp_path: Path
):
    out = tmp_path / "circuit"
    samples = np.ones((4, 4), dtype=np.float32)
    with pytest.raises(ModelRejected, match="batch"):
        ezkl_engine.compile(
            mixing(tmp_path / "m.onnx"), plan(InputMode.PUBLIC), samples, out, limits=LIMITS
        )
    assert not (out / "model.compiled").exists()


@pytest.mark.chain
def test_a_batch_is_verified_on_chain(
    ezkl_engine: EzklEngine, batched: tuple[Bundle, Path], samples: FloatArray, tmp_path: Path
):
    """Three rows sent, of which the last fills the batch: all the outputs are bound on chain."""
    bundle, _ = batched
    manifest = bundle.manifest
    joined = join_samples(manifest.inputs, samples[[0, 1, 1]])
    prediction = ezkl_engine.predict(bundle, joined)
    claim = prediction.claim
    proof = ezkl_engine.prove(bundle, claim, prediction.opening, limits=LIMITS).data
    code = compile_verifier(
        ezkl_engine.export_verifier(bundle), Settings(solc="").solc_command
    ).creation
    database = Database(f"sqlite:///{tmp_path / 'outbox.db'}")
    database.upgrade()
    with running() as node:
        chain = node.chain()

        def create(purpose: str, code: bytes) -> str:
            return outbox.create(database, chain, purpose=purpose, code=code)

        adapter = Adapter(chain, deploy_verifier(chain, create, code, AdapterTerms.of(manifest)))
        adapter.verify(claim, proof)
        first, second, third = (claim.outputs[at : at + OUTPUTS] for at in range(0, 6, OUTPUTS))
        assert second == third
        for outputs in (second + first + third, first + second, first + second + first):
            with pytest.raises(ProofInvalid):
                adapter.verify(replace(claim, outputs=outputs), proof)
    database.close()

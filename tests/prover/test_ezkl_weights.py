"""Weights modes that leak: bound all the same, off chain; and what their claims name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from eth_utils.crypto import keccak
from onnx import numpy_helper

from tests.models import tiny_onnx
from tests.prover.conftest import INPUTS, LIMITS, OPTIONS, Publish
from zkserve.encoding import circuit_id, identified, to_hex
from zkserve.engines.base import Bundle, CircuitPlan, FloatArray, Srs
from zkserve.engines.child import run_child
from zkserve.engines.ezkl import EzklEngine
from zkserve.engines.ezkl.children import STEPS
from zkserve.engines.ezkl.claims import (
    POINT_BYTES,
    POLYCOMMIT_TAG,
    fixed_weights,
    from_instances,
    polycommit_weights,
    salt_shape,
)
from zkserve.engines.ezkl.inputs import Opening
from zkserve.engines.ezkl.leak import FIELD_BITS
from zkserve.errors import BundleMismatch, ProofInvalid
from zkserve.types import InputMode, Scale, WeightsMode

pytestmark = pytest.mark.prover
LEAKING = [mode for mode in WeightsMode if mode.leaks]


def public_of(bundle: Bundle) -> Bundle:
    files = {name: bundle.files[name] for name in bundle.manifest.public}
    return Bundle(manifest=bundle.manifest, files=files)


@pytest.mark.parametrize("input_mode", list(InputMode))
@pytest.mark.parametrize("weights_mode", LEAKING)
def test_proofs_of_leaking_modes_verify_and_name_the_weights(
    ezkl_engine: EzklEngine,
    publish: Publish,
    samples: FloatArray,
    input_mode: InputMode,
    weights_mode: WeightsMode,
):
    bundle, _ = publish(input_mode, weights_mode=weights_mode)
    manifest = bundle.manifest
    assert manifest.weights_mode is weights_mode
    assert circuit_id(manifest) == manifest.circuit_id
    for sample in samples[:2]:
        prediction = ezkl_engine.predict(bundle, sample)
        proof = ezkl_engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
        ezkl_engine.verify(public_of(bundle), prediction.claim, proof.data)
        assert prediction.claim.weights == manifest.weights
        if weights_mode is WeightsMode.FIXED:
            assert manifest.weights == fixed_weights(manifest.pins["verifying_key"])
        else:
            points = manifest.parameters["weights_points"]
            assert manifest.weights == polycommit_weights(proof.data, points)
        first, *rest = prediction.claim.outputs
        forged = replace(prediction.claim, outputs=(first + 1, *rest))
        with pytest.raises(ProofInvalid):
            ezkl_engine.verify(public_of(bundle), forged, proof.data)


@pytest.mark.parametrize("weights_mode", LEAKING)
def test_proofs_of_other_weights_are_refused_in_leaking_modes(
    ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray, weights_mode: WeightsMode
):
    """Same architecture, other weights, each with keys of its own."""
    ours, _ = publish(InputMode.COMMITTED, weights_mode=weights_mode)
    theirs, _ = publish(InputMode.COMMITTED, seed=1, weights_mode=weights_mode)
    assert ours.manifest.weights != theirs.manifest.weights
    prediction = ezkl_engine.predict(theirs, samples[0])
    proof = ezkl_engine.prove(theirs, prediction.claim, prediction.opening, limits=LIMITS)
    named = {"circuit_id": ours.manifest.circuit_id, "weights": ours.manifest.weights}
    for claim in (prediction.claim, replace(prediction.claim, **named)):
        with pytest.raises(ProofInvalid):
            ezkl_engine.verify(public_of(ours), claim, proof.data)


def test_a_commitment_to_other_weights_is_refused_though_ezkl_accepts_the_proof(
    ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray, tmp_path: Path
):
    """In `polycommit` the same keys prove any weights: only the first bytes of a proof differ."""
    ours, _ = publish(InputMode.PUBLIC, weights_mode=WeightsMode.POLYCOMMIT)
    theirs = tmp_path / "theirs.compiled"
    run_child(
        "tests.child_steps:compile_under",
        limits=LIMITS,
        model=str(tiny_onnx(tmp_path / "b.onnx", INPUTS, 2, 2, seed=1)),
        settings=str(ours.files["settings"]),
        out=str(theirs),
    )
    prediction = ezkl_engine.predict(ours, samples[0])
    opening = Opening.decode(
        prediction.opening,
        size=INPUTS,
        scale=ours.manifest.parameters["input_scale"],
        salt=salt_shape(ours.manifest),
    )
    paths = {name: str(path) for name, path in ours.files.items()}
    arguments = {
        name: paths[name]
        for name in ("settings", "proving_key", "verifying_key", "srs", "verifier_srs")
    }
    made = run_child(
        STEPS + "prove",
        limits=LIMITS,
        compiled=str(theirs),
        elements=opening.elements,
        instances=None,
        **arguments,
    ).value  # this step verified the proof by ezkl, under our key
    claim = from_instances(ours.manifest, opening, made["instances"])
    proof = bytes.fromhex(made["proof"])
    with pytest.raises(ProofInvalid, match="other weights"):
        ezkl_engine.verify(public_of(ours), claim, proof)
    # Nor do the right points help in front of that proof.
    honest = ezkl_engine.prove(ours, prediction.claim, prediction.opening, limits=LIMITS).data
    with pytest.raises(ProofInvalid, match="does not prove"):
        ezkl_engine.verify(public_of(ours), claim, honest[:POINT_BYTES] + proof[POINT_BYTES:])


@pytest.mark.parametrize("weights_mode", LEAKING)
def test_a_manifest_that_names_other_weights_is_refused(
    ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray, weights_mode: WeightsMode
):
    bundle, _ = publish(InputMode.PUBLIC, weights_mode=weights_mode)
    prediction = ezkl_engine.predict(bundle, samples[0])
    proof = ezkl_engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
    lying = identified(replace(bundle.manifest, weights="0x" + "11" * 32))
    claim = replace(prediction.claim, circuit_id=lying.circuit_id, weights=lying.weights)
    with pytest.raises((BundleMismatch, ProofInvalid), match="weights"):
        ezkl_engine.verify(replace(public_of(bundle), manifest=lying), claim, proof.data)


def test_a_circuit_passed_off_under_another_weights_mode_is_refused(
    ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray
):
    bundle, _ = publish(InputMode.PUBLIC, weights_mode=WeightsMode.FIXED)
    prediction = ezkl_engine.predict(bundle, samples[0])
    proof = ezkl_engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
    lying = identified(replace(bundle.manifest, weights_mode=WeightsMode.HASHED))
    claim = replace(prediction.claim, circuit_id=lying.circuit_id)
    with pytest.raises(BundleMismatch, match="weights mode"):
        ezkl_engine.verify(replace(public_of(bundle), manifest=lying), claim, proof.data)


@pytest.mark.parametrize("input_mode", list(InputMode))
@pytest.mark.parametrize("weights_mode", EzklEngine.weights_modes)
def test_a_manifest_that_reads_a_circuit_otherwise_is_refused(
    ezkl_engine: EzklEngine,
    publish: Publish,
    samples: FloatArray,
    weights_mode: WeightsMode,
    input_mode: InputMode,
):
    """Its key is honest, and the contract the key's: proofs would hold of claims in other units."""
    bundle, _ = publish(input_mode, weights_mode=weights_mode)
    manifest = bundle.manifest
    prediction = ezkl_engine.predict(bundle, samples[0])
    (given,), (count,) = manifest.inputs, manifest.output.shape[1:]
    other_mode = next(mode for mode in InputMode if mode is not input_mode)
    lies: list[dict[str, Any]] = [
        {"parameters": {**manifest.parameters, "input_scale": 3}},
        {"output_scale": Scale(shift=manifest.output_scale.shift + 1)},
        {"output_scale": Scale(shift=manifest.output_scale.shift, multiplier=3)},
        {"output": replace(manifest.output, shape=(1, count + 1))},
        {"output": replace(manifest.output, shape=(1, count - 1))},
        {"input_mode": other_mode},
        *(
            {"weights_mode": mode, "parameters": {**manifest.parameters, "weights_points": points}}
            for mode in EzklEngine.weights_modes
            for points in (0, 1)
            if mode is not weights_mode
        ),
    ]
    if input_mode is InputMode.PUBLIC:
        lies.append({"inputs": (replace(given, shape=(1, given.size + 1)),)})
    for lie in lies:
        theirs = replace(public_of(bundle), manifest=identified(replace(manifest, **lie)))
        claim = replace(prediction.claim, circuit_id=theirs.manifest.circuit_id)
        for look in (
            lambda: ezkl_engine.check_verifier(theirs),  # noqa: B023 (called here)
            lambda: ezkl_engine.verify(theirs, claim, b""),  # noqa: B023
            lambda: ezkl_engine.check_opening(theirs, claim, prediction.opening),  # noqa: B023
        ):
            with pytest.raises(BundleMismatch, match=r"by its settings|points of a proof"):
                look()


def test_a_manifest_cannot_count_other_points_than_the_settings_do(
    ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray
):
    """The claims of such a circuit would cover none of the weights, or other bytes than theirs."""
    bundle, _ = publish(InputMode.PUBLIC, weights_mode=WeightsMode.POLYCOMMIT)
    prediction = ezkl_engine.predict(bundle, samples[0])
    proof = ezkl_engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS).data
    manifest = bundle.manifest
    assert manifest.parameters["weights_points"] == 1
    for points in (0, -1, 2, len(proof) // POINT_BYTES + 1, None):
        parameters = {k: v for k, v in manifest.parameters.items() if k != "weights_points"}
        if points is not None:
            parameters["weights_points"] = points
        digest = to_hex(keccak(POLYCOMMIT_TAG + proof[: POINT_BYTES * max(points or 0, 0)]))
        lying = identified(replace(manifest, parameters=parameters, weights=digest))
        theirs = replace(public_of(bundle), manifest=lying)
        claim = replace(prediction.claim, circuit_id=lying.circuit_id, weights=digest)
        with pytest.raises(BundleMismatch, match="points of a proof"):
            ezkl_engine.verify(theirs, claim, proof)
        with pytest.raises(BundleMismatch, match="points of a proof"):
            ezkl_engine.check_verifier(theirs)


@pytest.mark.parametrize("look", ["verify", "check_verifier"])
def test_fixed_weights_that_are_not_the_keys_are_refused(
    ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray, look: str
):
    bundle, _ = publish(InputMode.PUBLIC, weights_mode=WeightsMode.FIXED)
    lying = identified(replace(bundle.manifest, weights="0x" + "11" * 32))
    theirs = replace(public_of(bundle), manifest=lying)
    claim = replace(
        ezkl_engine.predict(bundle, samples[0]).claim,
        circuit_id=lying.circuit_id,
        weights=lying.weights,
    )
    looks = {
        "verify": lambda: ezkl_engine.verify(theirs, claim, b""),
        "check_verifier": lambda: ezkl_engine.check_verifier(theirs),
    }
    with pytest.raises(BundleMismatch, match="not those of its verifying key"):
        looks[look]()


@pytest.mark.parametrize("weights_mode", [WeightsMode.HASHED, WeightsMode.FIXED])
def test_other_modes_count_no_points(
    ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray, weights_mode: WeightsMode
):
    bundle, _ = publish(InputMode.PUBLIC, weights_mode=weights_mode)
    assert "weights_points" not in bundle.manifest.parameters
    parameters = dict(bundle.manifest.parameters) | {"weights_points": 1}
    lying = replace(bundle, manifest=identified(replace(bundle.manifest, parameters=parameters)))
    with pytest.raises(BundleMismatch, match="points of a proof"):
        ezkl_engine.predict(lying, samples[0])


def test_weights_of_several_columns_are_committed_to_by_as_many_points(
    ezkl_engine: EzklEngine, development_srs: Srs, samples: FloatArray, tmp_path: Path
):
    """Weights that differ in the last column only are other weights."""
    sizes, found = (INPUTS, 64, 8), {}
    for seed in (0, 1):
        model = tiny_onnx(tmp_path / f"{seed}.onnx", *sizes)
        loaded = onnx.load(model)
        (last,) = (tensor for tensor in loaded.graph.initializer if tensor.name == "w2")
        altered = numpy_helper.to_array(last).copy()
        altered[-1, -1] += seed
        last.CopyFrom(numpy_helper.from_array(altered, "w2"))
        onnx.save(loaded, model)
        plan = CircuitPlan(
            input_mode=InputMode.PUBLIC,
            weights_mode=WeightsMode.POLYCOMMIT,
            options=OPTIONS | {"logrows": 9},
        )
        ezkl_engine.compile(model, plan, samples, tmp_path / f"{seed}", limits=LIMITS)
        found[seed] = ezkl_engine.setup(tmp_path / f"{seed}", development_srs, limits=LIMITS)
    assert found[0].manifest.parameters["weights_points"] == 2
    assert found[0].manifest.weights != found[1].manifest.weights
    prediction = ezkl_engine.predict(found[0], samples[0])
    proof = ezkl_engine.prove(found[0], prediction.claim, prediction.opening, limits=LIMITS).data
    ezkl_engine.verify(public_of(found[0]), prediction.claim, proof)
    assert found[0].manifest.leak is not None
    assert found[0].manifest.leak.bits_per_proof == 2 * FIELD_BITS

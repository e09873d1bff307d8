"""Real native proofs: what is true verifies, what is not does not, from public files alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.models import save, tiny_onnx
from zkserve.encoding import circuit_id, context, identified, sha256_file
from zkserve.engines import sandbox
from zkserve.engines.agreement import join_samples, measure_agreement
from zkserve.engines.base import (
    NO_CONTEXT,
    Bundle,
    CircuitPlan,
    FloatArray,
    Limits,
    Prediction,
    Proof,
    Srs,
)
from zkserve.engines.native import core
from zkserve.engines.native.engine import NativeEngine
from zkserve.engines.native.folder import SECRET
from zkserve.errors import (
    BundleMismatch,
    ChildKilled,
    EngineFailed,
    InputOutOfRange,
    InvalidInput,
    JobCancelled,
    ProofInvalid,
    RecipeInvalid,
)
from zkserve.types import CircuitManifest, Claim, InputMode, WeightsMode

pytestmark = [
    pytest.mark.prover,
    pytest.mark.skipif(not core.available(), reason="the compiled core is not installed"),
]

INPUTS = 3
LIMITS = Limits(time_s=300, memory_bytes=4 << 30)
CONTEXT = context(31337, "0x" + "12" * 20, 7)


@dataclass(frozen=True, kw_only=True)
class Proven:
    """A circuit, its model and one proven prediction, for a registered version."""

    bundle: Bundle
    model: Path
    sample: FloatArray
    prediction: Prediction
    proof: Proof

    @property
    def public(self) -> Bundle:
        """What a third party has."""
        manifest = self.bundle.manifest
        files = {name: self.bundle.files[name] for name in manifest.public}
        return Bundle(manifest=manifest, files=files)


@pytest.fixture(scope="module")
def engine() -> Iterator[NativeEngine]:
    engine = NativeEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def samples() -> FloatArray:
    return np.random.default_rng(7).normal(size=(40, INPUTS)).astype(np.float32)


@pytest.fixture(scope="module")
def srs(engine: NativeEngine, tmp_path_factory: pytest.TempPathFactory) -> Srs:
    return engine.development_srs(12, tmp_path_factory.mktemp("srs") / "native.srs")


Publish = Callable[..., tuple[Bundle, Path]]


@pytest.fixture(scope="module")
def publish(
    engine: NativeEngine,
    srs: Srs,
    samples: FloatArray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Publish:
    """Compile and set up a tiny model: ``publish(input_mode, seed=0)``."""

    def publish(input_mode: InputMode, seed: int = 0) -> tuple[Bundle, Path]:
        folder = tmp_path_factory.mktemp(f"{input_mode}-{seed}")
        model = tiny_onnx(folder / "tiny.onnx", inputs=INPUTS, hidden=2, outputs=2, seed=seed)
        plan = CircuitPlan(input_mode=input_mode, weights_mode=WeightsMode.COMMITTED)
        k = engine.compile(model, plan, samples, folder / "circuit", limits=LIMITS)
        assert k <= 12
        return engine.setup(folder / "circuit", srs, limits=LIMITS), model

    return publish


def _prove(engine: NativeEngine, publish: Publish, sample: FloatArray, mode: InputMode) -> Proven:
    bundle, model = publish(mode)
    prediction = engine.predict(bundle, sample)
    proof = engine.prove(
        bundle, prediction.claim, prediction.opening, context=CONTEXT, limits=LIMITS
    )
    return Proven(bundle=bundle, model=model, sample=sample, prediction=prediction, proof=proof)


@pytest.fixture(scope="module")
def committed(engine: NativeEngine, publish: Publish, samples: FloatArray) -> Proven:
    return _prove(engine, publish, samples[0], InputMode.COMMITTED)


@pytest.fixture(scope="module")
def public(engine: NativeEngine, publish: Publish, samples: FloatArray) -> Proven:
    return _prove(engine, publish, samples[0], InputMode.PUBLIC)


@pytest.fixture(scope="module", params=list(InputMode))
def proven(request: pytest.FixtureRequest) -> Proven:
    """The proven prediction of each input mode in turn."""
    return request.getfixturevalue(request.param.value)


def refused(call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except ProofInvalid:
        return True
    return False


def test_a_third_party_verifies_from_public_files_alone(engine: NativeEngine, proven: Proven):
    engine.verify(proven.public, proven.prediction.claim, proven.proof.data)
    assert proven.proof.prove_cpu_s > 0
    assert proven.proof.peak_rss_bytes > 10 << 20
    assert len(proven.proof.data) == proven.bundle.manifest.parameters["proof_bytes"]
    assert not SECRET & proven.public.files.keys()
    assert all(proven.bundle.files[name].stat().st_mode & 0o077 == 0 for name in SECRET)


def test_the_proving_process_stays_small(proven: Proven):
    assert proven.proof.peak_rss_bytes < 80 << 20


def test_the_manifest_says_what_was_made(proven: Proven):
    manifest = proven.bundle.manifest
    assert circuit_id(manifest) == manifest.circuit_id
    assert (manifest.engine, manifest.weights_mode) == ("native", WeightsMode.COMMITTED)
    assert manifest.development_srs
    assert manifest.rows >= 2 + 2
    assert manifest.pins.keys() == proven.bundle.files.keys()
    assert manifest.inputs[0].shape == (1, INPUTS)
    assert manifest.output.shape == (1, 2)


def test_commitments_are_drawn_anew_and_the_rest_is_reproduced(
    engine: NativeEngine, publish: Publish, committed: Proven
):
    again, _ = publish(InputMode.COMMITTED)
    ours = committed.bundle.manifest
    assert again.manifest.weights != ours.weights
    assert again.manifest.circuit_id != ours.circuit_id
    assert engine.reproducible(again.manifest) == engine.reproducible(ours)


def test_the_input_is_shown_or_committed_to(engine: NativeEngine, proven: Proven):
    manifest, claim = proven.bundle.manifest, proven.prediction.claim
    opened = engine.check_opening(proven.public, claim, proven.prediction.opening)
    np.testing.assert_allclose(opened, proven.sample, atol=1e-3)
    again = engine.predict(proven.bundle, proven.sample).claim
    assert again.outputs == claim.outputs
    if manifest.input_mode is InputMode.PUBLIC:
        assert again == claim
        unpacked = engine.unpack_input(proven.public, claim.input)
        np.testing.assert_array_equal(unpacked, np.array(opened, np.float32))
        assert engine.predict(proven.bundle, unpacked).claim == claim
        with pytest.raises(InvalidInput):
            engine.unpack_input(proven.public, claim.input + b"\0")
    else:
        assert again.input != claim.input, "the blind is fresh"
        with pytest.raises(InvalidInput):
            engine.unpack_input(proven.public, claim.input)


def test_an_opening_gives_its_prediction_again(engine: NativeEngine, proven: Proven):
    assert engine.reopen(proven.bundle, proven.prediction.opening) == proven.prediction


def test_the_salt_decides_the_commitment(engine: NativeEngine, committed: Proven):
    def claim(salt: bytes) -> Claim:
        return engine.predict(committed.bundle, committed.sample, salt=salt).claim

    assert claim(b"a" * 32) == claim(b"a" * 32)
    assert claim(b"a" * 32).input != claim(b"b" * 32).input


def mutations(claim: Claim) -> dict[str, Claim]:
    flipped = bytes([*claim.input[:-1], claim.input[-1] ^ 1])
    first, *rest = claim.outputs
    return {
        "circuit": replace(claim, circuit_id="0x" + "11" * 32),
        "weights": replace(claim, weights="0x" + "22" * 32),
        "input": replace(claim, input=flipped),
        "input longer": replace(claim, input=claim.input + b"\0"),
        "input shorter": replace(claim, input=claim.input[:-1]),
        "no input": replace(claim, input=b""),
        "output": replace(claim, outputs=(first + 1, *rest)),
        "outputs swapped": replace(claim, outputs=(*rest, first)),
        "output + 2**62": replace(claim, outputs=(first + (1 << 62), *rest)),
        "output more": replace(claim, outputs=(*claim.outputs, 0)),
        "output less": replace(claim, outputs=claim.outputs[:-1]),
        "no output": replace(claim, outputs=()),
    }


def test_no_field_of_the_claim_can_be_changed(engine: NativeEngine, proven: Proven):
    for what, claim in mutations(proven.prediction.claim).items():
        assert refused(engine.verify, proven.public, claim, proven.proof.data), what
        assert refused(engine.prove, proven.bundle, claim, proven.prediction.opening), what


def test_no_word_of_the_proof_can_be_changed(engine: NativeEngine, proven: Proven):
    claim, proof = proven.prediction.claim, proven.proof.data
    for start in range(0, len(proof), 32):
        changed = bytearray(proof)
        changed[min(start + 31, len(proof) - 1)] ^= 1
        assert refused(engine.verify, proven.public, claim, bytes(changed)), start
    for other in (b"", proof[:-1], proof + b"\0", bytes(len(proof)), b"\xff" * len(proof)):
        assert refused(engine.verify, proven.public, claim, other)


def test_a_proof_is_for_the_context_it_was_made_for(engine: NativeEngine, proven: Proven):
    claim, proof = proven.prediction.claim, proven.proof.data
    assert engine.context_of(proof) == CONTEXT
    assert refused(engine.verify, proven.public, claim, NO_CONTEXT + proof[32:])
    unbound = engine.prove(proven.bundle, claim, proven.prediction.opening, limits=LIMITS)
    assert engine.context_of(unbound.data) == NO_CONTEXT
    engine.verify(proven.public, claim, unbound.data)
    assert unbound.data != proof, "the randomness is fresh"


def test_other_weights_prove_nothing_of_these(
    engine: NativeEngine, publish: Publish, committed: Proven, samples: FloatArray
):
    other, _ = publish(InputMode.COMMITTED, 1)
    theirs = engine.predict(other, samples[0])
    proof = engine.prove(other, theirs.claim, theirs.opening, limits=LIMITS)
    ours = committed.bundle.manifest
    claim = replace(theirs.claim, circuit_id=ours.circuit_id, weights=ours.weights)
    if len(proof.data) == len(committed.proof.data):
        with pytest.raises(ProofInvalid, match="does not prove"):
            engine.verify(committed.public, claim, proof.data)
    grafted = proof.data[:32] + committed.proof.data[32:96] + proof.data[96:]
    assert refused(engine.verify, committed.public, claim, grafted)


def test_an_opening_of_something_else_is_refused(engine: NativeEngine, committed: Proven):
    claim, opening = committed.prediction.claim, committed.prediction.opening
    other = engine.predict(committed.bundle, committed.sample).opening
    with pytest.raises(ProofInvalid, match="not that of"):
        engine.check_opening(committed.public, claim, other)
    with pytest.raises(ProofInvalid, match="does not give"):
        engine.prove(committed.bundle, claim, other, limits=LIMITS)
    for bad in (b"", b"{}", opening + b" ", opening.replace(b"0x", b"0X"), b"[" * 100_000):
        assert refused(engine.check_opening, committed.public, claim, bad)
        assert refused(engine.prove, committed.bundle, claim, bad)


def test_an_input_out_of_range_is_refused_before_anything_is_promised(
    engine: NativeEngine, proven: Proven
):
    with pytest.raises(InputOutOfRange):
        engine.predict(proven.bundle, np.array([1e6, 0, 0], np.float32))
    for bad in (np.zeros(2, np.float32), np.array([np.nan, 0, 0], np.float32)):
        with pytest.raises(InvalidInput):
            engine.predict(proven.bundle, bad)


def repinned(bundle: Bundle, **files: Path) -> Bundle:
    """Return the bundle of an owner who swaps files and pins what he swapped in."""
    pins = dict(bundle.manifest.pins) | {name: sha256_file(path) for name, path in files.items()}
    manifest: CircuitManifest = identified(replace(bundle.manifest, pins=pins))
    return Bundle(manifest=manifest, files=dict(bundle.files) | files)


def test_every_file_is_compared_with_its_pin(
    engine: NativeEngine, committed: Proven, tmp_path: Path
):
    claim, proof = committed.prediction.claim, committed.proof.data
    for name, call in (
        ("description", lambda b: engine.verify(b, claim, proof)),
        ("verifier_srs", lambda b: engine.verify(b, claim, proof)),
        ("interface", lambda b: engine.predict(b, committed.sample)),
        ("weights", lambda b: engine.predict(b, committed.sample)),
        ("srs", lambda b: engine.predict(b, committed.sample)),
        ("input_key", lambda b: engine.check_opening(b, claim, committed.prediction.opening)),
        ("verifier_source", engine.export_verifier),
    ):
        altered = tmp_path / name
        data = bytearray(committed.bundle.files[name].read_bytes())
        data[-1] ^= 1
        altered.write_bytes(data)
        bundle = replace(committed.bundle, files={**committed.bundle.files, name: altered})
        with pytest.raises(BundleMismatch):
            call(bundle)


def test_swapped_weights_or_blinds_do_not_prove_for_the_commitment(
    engine: NativeEngine, committed: Proven, publish: Publish, tmp_path: Path
):
    with np.load(committed.bundle.files["weights"]) as archive:
        ours = dict(archive)
    reblinded = tmp_path / "reblinded.npz"
    np.savez(reblinded, **ours | {"blinds": np.roll(ours["blinds"], 1) & 0x1F})
    other, _ = publish(InputMode.COMMITTED, 1)
    for weights in (other.files["weights"], reblinded):
        bundle = repinned(committed.bundle, weights=weights)
        with pytest.raises(BundleMismatch, match="commitment"):
            engine.predict(bundle, committed.sample)


def test_no_digest_in_the_manifest_confirms_a_guess_of_the_weights(
    publish: Publish, committed: Proven
):
    """The same model set up twice: what is hashed of its weights differs each time."""
    again, _ = publish(InputMode.COMMITTED)
    for name in SECRET | {"commitment"}:
        assert again.manifest.pins[name] != committed.bundle.manifest.pins[name], name
    assert sha256_file(committed.model) not in again.manifest.pins.values()


def test_a_forged_input_key_is_refused(engine: NativeEngine, committed: Proven, tmp_path: Path):
    data = committed.bundle.files["input_key"].read_bytes()
    swapped = tmp_path / "swapped"
    for forged in (
        data[:64] + data[128:192] + data[64:128] + data[192:],  # two powers swapped
        data[:-128] + data[64:128] + data[-64:],  # another point for the blind
    ):
        swapped.write_bytes(forged)
        bundle = repinned(committed.bundle, input_key=swapped)
        claim = replace(committed.prediction.claim, circuit_id=bundle.manifest.circuit_id)
        with pytest.raises(BundleMismatch, match="input key"):
            engine.check_opening(bundle, claim, committed.prediction.opening)


def test_the_pinned_verifier_is_what_the_description_gives(
    engine: NativeEngine, committed: Proven, tmp_path: Path
):
    engine.check_verifier(committed.public)
    altered = tmp_path / "Verifier.sol"
    altered.write_text(engine.export_verifier(committed.public) + "\n")
    with pytest.raises(BundleMismatch, match="description gives"):
        engine.check_verifier(repinned(committed.public, verifier_source=altered))


def test_agreement_with_the_float_model(
    engine: NativeEngine, committed: Proven, samples: FloatArray
):
    found = measure_agreement(engine, committed.bundle, committed.model, samples[:10])
    assert found.samples == 10
    assert 0 < found.max_abs < 0.1


def test_a_proof_can_be_cancelled_and_bounded(engine: NativeEngine, committed: Proven):
    claim, opening = committed.prediction.claim, committed.prediction.opening
    proving = threading.Event()
    with pytest.raises(JobCancelled):
        engine.prove(
            committed.bundle,
            claim,
            opening,
            progress=lambda _: proving.set(),
            cancelled=lambda: True,
        )
    with pytest.raises(ChildKilled):
        engine.prove(committed.bundle, claim, opening, limits=Limits(memory_bytes=20 << 20))
    engine.prove(committed.bundle, claim, opening, limits=LIMITS)


def test_hashed_weights_are_not_offered(engine: NativeEngine, samples: FloatArray, tmp_path: Path):
    model = tiny_onnx(tmp_path / "tiny.onnx", inputs=INPUTS, hidden=2, outputs=2)
    plan = CircuitPlan(input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.HASHED)
    with pytest.raises(RecipeInvalid, match="hashed"):
        engine.compile(model, plan, samples, tmp_path / "circuit")


def test_weights_not_shown_to_be_in_range_are_refused(
    engine: NativeEngine, committed: Proven, publish: Publish, tmp_path: Path
):
    other, _ = publish(InputMode.COMMITTED, 1)
    claim, proof = committed.prediction.claim, committed.proof.data
    data = committed.bundle.files["range_proof"].read_bytes()
    altered = tmp_path / "altered"
    altered.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    for path in (other.files["range_proof"], altered):
        bundle = repinned(committed.public, range_proof=path)
        posing = replace(claim, circuit_id=bundle.manifest.circuit_id)
        with pytest.raises(BundleMismatch, match="range proof"):
            engine.verify(bundle, posing, proof)
        with pytest.raises(BundleMismatch, match="range proof"):
            engine.check_verifier(bundle)
        with pytest.raises(BundleMismatch, match="range proof"):
            engine.export_verifier(bundle)
    manifest = committed.bundle.manifest
    narrower = identified(
        replace(manifest, parameters=dict(manifest.parameters) | {"weight_bytes": 1})
    )
    bundle = replace(committed.public, manifest=narrower)
    posing = replace(claim, circuit_id=narrower.circuit_id)
    with pytest.raises(BundleMismatch, match="range proof"):
        engine.verify(bundle, posing, proof)


def test_a_development_srs_does_not_pass_for_a_ceremonys(engine: NativeEngine, public: Proven):
    """An owner marks the manifest as they like; what verifying uses is marked too."""
    pins = dict(public.bundle.manifest.pins) | {"srs": "ab" * 32}
    manifest = identified(replace(public.bundle.manifest, pins=pins, development_srs=False))
    bundle = replace(public.public, manifest=manifest)
    claim = replace(public.prediction.claim, circuit_id=manifest.circuit_id)
    with pytest.raises(BundleMismatch, match="development SRS"):
        engine.verify(bundle, claim, public.proof.data)
    with pytest.raises(BundleMismatch, match="development SRS"):
        engine.check_verifier(bundle)


def test_several_predictions_have_one_proof(
    engine: NativeEngine, srs: Srs, samples: FloatArray, tmp_path: Path
):
    """Two inputs and a batch of three: one claim, one proof, nine outputs."""
    model = two_inputs(tmp_path / "two.onnx")
    plan = CircuitPlan(
        input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.COMMITTED, options={"batch": 3}
    )
    engine.compile(model, plan, samples, tmp_path / "circuit", limits=LIMITS)
    bundle = engine.setup(tmp_path / "circuit", srs, limits=LIMITS)
    manifest = bundle.manifest
    assert manifest.batch == 3
    assert [spec.shape for spec in manifest.inputs] == [(3, 1), (3, 2)]
    assert manifest.output.shape == (3, 2)

    batch = join_samples(manifest.inputs, samples[:3])
    np.testing.assert_array_equal(batch[:3], samples[:3, 0])
    prediction = engine.predict(bundle, batch)
    assert len(prediction.claim.outputs) == 6
    opened = engine.check_opening(bundle, prediction.claim, prediction.opening)
    np.testing.assert_allclose(opened, batch, atol=1e-3)
    unpacked = engine.unpack_input(bundle, prediction.claim.input)
    assert engine.predict(bundle, unpacked).claim == prediction.claim

    proof = engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
    engine.verify(bundle, prediction.claim, proof.data)
    outputs = prediction.claim.outputs
    swapped = replace(prediction.claim, outputs=(*outputs[2:], *outputs[:2]))
    assert swapped != prediction.claim
    assert refused(engine.verify, bundle, swapped, proof.data)

    alone = [
        engine.predict(bundle, join_samples(manifest.inputs, samples[[i] * 3])) for i in range(3)
    ]
    assert outputs == tuple(one for i in range(3) for one in alone[i].claim.outputs[:2])
    found = measure_agreement(engine, bundle, model, samples[:10])
    assert 0 < found.max_abs < 0.1


def two_inputs(path: Path) -> Path:
    """Write a model of the inputs a (1, 1) and b (1, 2)."""
    rng = np.random.default_rng(3)
    graph = helper.make_graph(
        [
            helper.make_node("Concat", ["a", "b"], ["x"], axis=1),
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], transB=1),
        ],
        "two",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 1]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 2, name)
            for name, shape in {"w1": (4, 3), "b1": (4,), "w2": (2, 4), "b2": (2,)}.items()
        ],
    )
    return save(graph, path)


def test_what_predicts_for_a_circuit_opens_no_other_file(
    engine: NativeEngine, committed: Proven, public: Proven
):
    """It may have been taken over by the circuit, and is asked about no other."""
    if not (sandbox.walls().bubblewrap or sandbox.walls().landlock):
        pytest.skip("nothing holds files on this machine")
    for children, call in (
        (engine._others, lambda: engine.predict(committed.bundle, committed.sample)),
        (engine._provers, lambda: _proof_again(engine, committed)),
    ):
        call()
        child = list(children._idle)[-1]
        with pytest.raises(EngineFailed, match="TypeError"):  # opened: a file is no answer
            child.call("builtins:open", file=str(committed.bundle.files["weights"].resolve()))
        for other in (committed.bundle.files["model"], public.bundle.files["weights"]):
            with pytest.raises(EngineFailed, match=r"PermissionError|FileNotFoundError"):
                child.call("builtins:open", file=str(other.resolve()))


def _proof_again(engine: NativeEngine, proven: Proven) -> Proof:
    prediction = proven.prediction
    return engine.prove(
        proven.bundle, prediction.claim, prediction.opening, context=CONTEXT, limits=LIMITS
    )

"""Real proofs: what is true verifies, what is not does not, and nothing hangs or leaks out."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.models import tiny_onnx
from tests.prover.conftest import INPUTS, LIMITS, OPTIONS, Proven, Publish
from zkserve import runtime
from zkserve.encoding import FIELD_MODULUS, circuit_id, identified, sha256_file
from zkserve.engines import child as child_module
from zkserve.engines import sandbox
from zkserve.engines.agreement import measure_agreement
from zkserve.engines.base import Bundle, CircuitPlan, FloatArray, Limits, Srs
from zkserve.engines.child import Child, run_child
from zkserve.engines.ezkl import EzklEngine
from zkserve.engines.ezkl.children import STEPS
from zkserve.engines.ezkl.claims import to_instances
from zkserve.engines.srs import load_srs
from zkserve.errors import (
    BundleMismatch,
    ChildKilled,
    ChildTimeout,
    EngineFailed,
    InputOutOfRange,
    InvalidInput,
    JobCancelled,
    ModelRejected,
    ProofInvalid,
)
from zkserve.types import CircuitManifest, Claim, InputMode, Scale, WeightsMode

pytestmark = pytest.mark.prover


def repinned(bundle: Bundle, **files: Path) -> Bundle:
    """Return the bundle of an owner who swaps files and pins what he swapped in."""
    pins = dict(bundle.manifest.pins) | {name: sha256_file(path) for name, path in files.items()}
    manifest = replace(bundle.manifest, pins=pins)
    manifest = identified(manifest)
    return Bundle(manifest=manifest, files=dict(bundle.files) | files)


def refused(call: Callable[..., object], *arguments: object) -> bool:
    try:
        call(*arguments)
    except ProofInvalid:
        return True
    return False


def test_a_third_party_verifies_from_public_files_alone(ezkl_engine: EzklEngine, proven: Proven):
    ezkl_engine.verify(proven.public, proven.prediction.claim, proven.proof.data)
    assert proven.proof.prove_cpu_s > 0
    assert proven.proof.peak_rss_bytes > 10 << 20
    assert len(proven.proof.data) == proven.bundle.manifest.parameters["proof_bytes"]
    secret = {"compiled", "proving_key", "model"}
    assert not secret & proven.public.files.keys()
    assert all(proven.bundle.files[name].stat().st_mode & 0o077 == 0 for name in secret)


def test_the_manifest_says_what_was_made(proven: Proven):
    manifest = proven.bundle.manifest
    assert circuit_id(manifest) == manifest.circuit_id
    assert manifest.development_srs
    assert manifest.rows > 100
    assert manifest.pins.keys() == proven.bundle.files.keys()
    assert manifest.inputs[0].shape == (1, INPUTS)
    assert manifest.output.shape == (1, 2)


def test_the_input_is_shown_or_committed_to(ezkl_engine: EzklEngine, proven: Proven):
    manifest, claim = proven.bundle.manifest, proven.prediction.claim
    opened = ezkl_engine.check_opening(proven.public, claim, proven.prediction.opening)
    np.testing.assert_allclose(opened, proven.sample, atol=2**-9)
    again = ezkl_engine.predict(proven.bundle, proven.sample).claim
    assert again.outputs == claim.outputs
    if manifest.input_mode is InputMode.PUBLIC:
        assert again == claim
        np.testing.assert_array_equal(ezkl_engine.unpack_input(proven.bundle, claim.input), opened)
    else:
        assert again.input != claim.input, "the salt is fresh"
        assert claim.input.hex() not in proven.prediction.opening.decode()
        with pytest.raises(InvalidInput):
            ezkl_engine.unpack_input(proven.bundle, claim.input)


def test_the_salt_decides_the_commitment(ezkl_engine: EzklEngine, committed: Proven):
    def claim(salt: bytes) -> Claim:
        return ezkl_engine.predict(committed.bundle, committed.sample, salt=salt).claim

    assert claim(b"a" * 32) == claim(b"a" * 32)
    assert claim(b"a" * 32).input != claim(b"b" * 32).input


def test_predicting_from_an_unpacked_input_gives_the_same_claim(
    ezkl_engine: EzklEngine, public: Proven
):
    claim = public.prediction.claim
    values = ezkl_engine.unpack_input(public.bundle, claim.input)
    assert ezkl_engine.predict(public.bundle, values).claim == claim
    with pytest.raises(InvalidInput):
        ezkl_engine.unpack_input(public.bundle, claim.input[:-1])
    fine = ((1 << 40) + 1).to_bytes(8, "big") * INPUTS
    with pytest.raises(InvalidInput, match="finer"):
        ezkl_engine.unpack_input(public.bundle, fine)


def mutations(claim: Claim, mode: InputMode) -> dict[str, Claim]:
    flipped = bytes([*claim.input[:-1], claim.input[-1] ^ 1])
    first, *rest = claim.outputs
    found = {
        "circuit": replace(claim, circuit_id="0x" + "11" * 32),
        "weights": replace(claim, weights="0x" + "22" * 32),
        "input": replace(claim, input=flipped),
        "input longer": replace(claim, input=claim.input + b"\0"),
        "input shorter": replace(claim, input=claim.input[:-1]),
        "no input": replace(claim, input=b""),
        "output": replace(claim, outputs=(first + 1, *rest)),
        "outputs swapped": replace(claim, outputs=(*rest, first)),
        "output + r": replace(claim, outputs=(first + FIELD_MODULUS, *rest)),
        "output - r": replace(claim, outputs=(first - FIELD_MODULUS, *rest)),
        "output more": replace(claim, outputs=(*claim.outputs, 0)),
        "output less": replace(claim, outputs=claim.outputs[:-1]),
        "no output": replace(claim, outputs=()),
    }
    if mode is InputMode.COMMITTED:
        aliased = int.from_bytes(claim.input, "big") + FIELD_MODULUS
        found["input + r"] = replace(claim, input=aliased.to_bytes(32, "big"))
    weights = int(claim.weights, 16) + FIELD_MODULUS
    found["weights + r"] = replace(claim, weights=f"0x{weights:064x}")
    return found


def test_no_field_of_the_claim_can_be_changed(ezkl_engine: EzklEngine, proven: Proven):
    mode = proven.bundle.manifest.input_mode
    for what, claim in mutations(proven.prediction.claim, mode).items():
        assert refused(ezkl_engine.verify, proven.public, claim, proven.proof.data), what
        assert refused(ezkl_engine.prove, proven.bundle, claim, proven.prediction.opening), what


def test_weights_at_or_above_r_are_refused_even_if_the_manifest_has_them(
    ezkl_engine: EzklEngine, committed: Proven
):
    aliased = f"0x{int(committed.bundle.manifest.weights, 16) + FIELD_MODULUS:064x}"
    manifest = replace(committed.bundle.manifest, weights=aliased)
    manifest = identified(manifest)
    claim = replace(committed.prediction.claim, weights=aliased, circuit_id=manifest.circuit_id)
    with pytest.raises(ProofInvalid, match="below the field"):
        ezkl_engine.verify(
            Bundle(manifest=manifest, files=committed.bundle.files), claim, committed.proof.data
        )


@pytest.mark.parametrize(
    "change",
    [
        lambda proof: b"",
        lambda proof: proof[:-1],
        lambda proof: proof[:-32],
        lambda proof: proof + b"\0",
        lambda proof: proof + proof,
        lambda proof: bytes(len(proof)),
        lambda proof: b"\xff" * len(proof),
        lambda proof: proof[32:] + proof[:32],
    ],
)
def test_proofs_of_another_length_or_order_are_refused(
    ezkl_engine: EzklEngine, committed: Proven, change: Callable[[bytes], bytes]
):
    with pytest.raises(ProofInvalid):
        ezkl_engine.verify(
            committed.public, committed.prediction.claim, change(committed.proof.data)
        )


def test_no_word_of_the_proof_can_be_changed(proven: Proven):
    """Every 32-byte word is a coordinate or a scalar: flip a bit, zero it, alias it by r."""
    bundle = proven.bundle
    instances = to_instances(bundle.manifest, proven.prediction.claim)
    files = {
        name: str(bundle.files[name]) for name in ("settings", "verifying_key", "verifier_srs")
    }
    child = Child(limits=LIMITS)

    def verify(data: bytes) -> None:
        child.call(STEPS + "verify", **files, instances=instances, proof=data.hex())

    proof = proven.proof.data
    verify(proof)
    tried = 0
    for start in range(0, len(proof), 32):
        word = int.from_bytes(proof[start : start + 32], "big")
        for other in (word ^ 1, word ^ 1 << 200, 0, word + FIELD_MODULUS):
            if other == word or other >> 256:
                continue
            tried += 1
            changed = proof[:start] + other.to_bytes(32, "big") + proof[start + 32 :]
            assert refused(verify, changed), f"word {start // 32} made {other:#x}"
    assert tried > 3 * len(proof) // 32
    verify(proof)
    child.close()


def test_other_weights_do_not_verify(
    ezkl_engine: EzklEngine, committed: Proven, publish: Publish, samples: FloatArray
):
    """Same architecture, other weights: a proof of one is no proof of the other."""
    bundle, _ = publish(InputMode.COMMITTED, seed=1)
    ours, theirs = committed.bundle.manifest, bundle.manifest
    assert ours.weights != theirs.weights
    prediction = ezkl_engine.predict(bundle, samples[0])
    proof = ezkl_engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
    ezkl_engine.verify(bundle, prediction.claim, proof.data)
    assert len(proof.data) == ours.parameters["proof_bytes"]
    for claim in (
        prediction.claim,
        replace(prediction.claim, circuit_id=ours.circuit_id),
        replace(prediction.claim, circuit_id=ours.circuit_id, weights=ours.weights),
    ):
        with pytest.raises(ProofInvalid):
            ezkl_engine.verify(committed.public, claim, proof.data)
    # The owner of ours cannot pass off another compiled model either, even pinned anew.
    mixed = repinned(committed.bundle, compiled=bundle.files["compiled"])
    with pytest.raises(BundleMismatch, match="other weights"):
        ezkl_engine.predict(mixed, samples[0])


def test_a_wrong_opening_proves_nothing(ezkl_engine: EzklEngine, proven: Proven):
    opening = json.loads(proven.prediction.opening)
    opening["input"][0] += 1
    wrong = json.dumps(opening, sort_keys=True, separators=(",", ":")).encode()
    claim = proven.prediction.claim
    for bad in (wrong, b"", b"{}", proven.prediction.opening + b"\n"):
        with pytest.raises(ProofInvalid):
            ezkl_engine.prove(proven.bundle, claim, bad, limits=LIMITS)
        with pytest.raises(ProofInvalid):
            ezkl_engine.check_opening(proven.public, claim, bad)


def test_a_wrong_salt_opens_nothing(ezkl_engine: EzklEngine, committed: Proven):
    other = ezkl_engine.predict(committed.bundle, committed.sample).opening
    with pytest.raises(ProofInvalid):
        ezkl_engine.check_opening(committed.public, committed.prediction.claim, other)
    with pytest.raises(ProofInvalid, match="another input commitment"):
        ezkl_engine.prove(committed.bundle, committed.prediction.claim, other, limits=LIMITS)


def test_bad_inputs_get_clear_errors(ezkl_engine: EzklEngine, proven: Proven):
    def predict(*values: float) -> None:
        ezkl_engine.predict(proven.bundle, np.array(values, dtype=np.float32))

    with pytest.raises(InvalidInput, match="shape"):
        predict(1.0)
    with pytest.raises(InvalidInput, match="finite"):
        predict(1.0, float("nan"), 1.0)
    with pytest.raises(InputOutOfRange, match="Element 2"):
        predict(0.0, 0.0, 1e9)
    predict(1.0, 1.0, 1.0)


def test_sums_past_what_the_circuit_decomposes_are_refused(proven: Proven):
    settings, compiled = (str(proven.bundle.files[name]) for name in ("settings", "compiled"))
    salt = proven.bundle.manifest.parameters["salt_count"]
    with pytest.raises(InputOutOfRange, match="cannot compute"):
        run_child(
            STEPS + "witness",
            limits=LIMITS,
            settings=settings,
            compiled=compiled,
            elements=[1 << 60, 0, 0] + [0] * salt,
        )


def test_an_input_past_the_lookup_table_is_refused_and_does_not_hang(
    ezkl_engine: EzklEngine, tmp_path: Path, samples: FloatArray
):
    model = tiny_onnx(tmp_path / "m.onnx", inputs=INPUTS, hidden=2, activation="Sigmoid")
    plan = CircuitPlan(
        input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.HASHED, options=OPTIONS
    )
    ezkl_engine.compile(model, plan, samples, tmp_path / "c", limits=LIMITS)
    files = {
        "settings": str(tmp_path / "c/settings.json"),
        "compiled": str(tmp_path / "c/model.compiled"),
    }
    run_child(STEPS + "witness", limits=LIMITS, **files, elements=[100, -100, 0])
    with pytest.raises(InputOutOfRange, match="lookup"):
        run_child(STEPS + "witness", limits=LIMITS, **files, elements=[100_000, -100, 0])


def test_a_proof_under_a_wrong_srs_is_never_released(
    ezkl_engine: EzklEngine, committed: Proven, tmp_path: Path
):
    other = ezkl_engine.development_srs(13, tmp_path / "other.srs")
    assert other.development
    wrong = repinned(committed.bundle, srs=other.path)
    claim = replace(committed.prediction.claim, circuit_id=wrong.manifest.circuit_id)
    with pytest.raises(ProofInvalid):
        ezkl_engine.prove(wrong, claim, committed.prediction.opening, limits=LIMITS)


@pytest.mark.parametrize(
    "name",
    ["settings", "compiled", "verifying_key", "proving_key", "srs", "verifier_srs"],
)
def test_a_swapped_file_is_refused(
    ezkl_engine: EzklEngine, committed: Proven, tmp_path: Path, name: str
):
    data = bytearray(committed.bundle.files[name].read_bytes())
    data[len(data) // 2] ^= 1
    swapped = tmp_path / "swapped"
    swapped.write_bytes(data)
    claim, opening = committed.prediction.claim, committed.prediction.opening
    for files in ({name: swapped}, {name: tmp_path / "missing"}):
        bundle = Bundle(
            manifest=committed.bundle.manifest, files=dict(committed.bundle.files) | files
        )
        with pytest.raises(BundleMismatch, match=name):
            ezkl_engine.prove(bundle, claim, opening, limits=LIMITS)
        if name in bundle.manifest.public:
            with pytest.raises(BundleMismatch, match=name):
                ezkl_engine.verify(bundle, claim, committed.proof.data)
        if name in {"settings", "compiled"}:
            with pytest.raises(BundleMismatch, match=name):
                ezkl_engine.predict(bundle, committed.sample)


@pytest.mark.parametrize(
    "change",
    [
        {"engine_version": "23.0.4"},
        {"engine": "native"},
        {"output_scale": Scale(shift=7)},
        {"input_mode": InputMode.PUBLIC},
        {"weights": "0x" + "00" * 32},
        {"pins": {}},
    ],
)
def test_a_changed_manifest_is_refused(
    ezkl_engine: EzklEngine, committed: Proven, change: dict[str, object]
):
    """With its old id, and with the id that its own fields have."""
    manifest: CircuitManifest = replace(committed.bundle.manifest, **change)
    own = identified(manifest)
    for changed in (manifest, own):
        bundle = Bundle(manifest=changed, files=committed.bundle.files)
        claim = replace(committed.prediction.claim, circuit_id=changed.circuit_id)
        with pytest.raises((BundleMismatch, ProofInvalid)):
            ezkl_engine.verify(bundle, claim, committed.proof.data)
    with pytest.raises(BundleMismatch):
        ezkl_engine.predict(
            Bundle(manifest=manifest, files=committed.bundle.files), committed.sample
        )


def test_proving_ends_when_asked_and_leaves_nothing(
    ezkl_engine: EzklEngine,
    committed: Proven,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path))
    claim, opening = committed.prediction.claim, committed.prediction.opening
    proving = threading.Event()

    def note(phrase: str) -> None:
        if phrase == "proving":
            proving.set()

    with pytest.raises(JobCancelled):
        ezkl_engine.prove(committed.bundle, claim, opening, progress=note, cancelled=proving.is_set)
    with pytest.raises(ChildTimeout):
        ezkl_engine.prove(committed.bundle, claim, opening, limits=Limits(time_s=0.2))
    with pytest.raises(ChildKilled, match="memory"):
        ezkl_engine.prove(committed.bundle, claim, opening, limits=Limits(memory_bytes=40 << 20))
    assert not list(tmp_path.iterdir())


def test_a_dead_warm_child_is_replaced(ezkl_engine: EzklEngine, committed: Proven):
    ezkl_engine.predict(committed.bundle, committed.sample)
    dead = list(ezkl_engine._warm._idle)[-1]
    child_module.os.kill(dead.pid, child_module.signal.SIGKILL)
    while dead.alive:
        pass
    ezkl_engine.predict(committed.bundle, committed.sample)
    assert dead not in ezkl_engine._warm._idle


def test_what_predicts_for_a_circuit_opens_no_other_file(
    ezkl_engine: EzklEngine, committed: Proven, public: Proven
):
    """It may have been taken over by the circuit, and is asked about no other."""
    if not (sandbox.walls().bubblewrap or sandbox.walls().landlock):
        pytest.skip("nothing holds files on this machine")
    ezkl_engine.predict(committed.bundle, committed.sample)
    child = list(ezkl_engine._warm._idle)[-1]
    with pytest.raises(EngineFailed, match="TypeError"):  # opened: a file is no answer
        child.call("builtins:open", file=str(committed.bundle.files["compiled"].resolve()))
    for other in (committed.bundle.files["proving_key"], public.bundle.files["compiled"]):
        with pytest.raises(EngineFailed, match=r"PermissionError|FileNotFoundError"):
            child.call("builtins:open", file=str(other.resolve()))


def test_predictions_from_many_threads_do_not_mix(
    ezkl_engine: EzklEngine, public: Proven, samples: FloatArray
):
    expected = [ezkl_engine.predict(public.bundle, sample).claim for sample in samples[:8]]
    found: dict[int, Claim] = {}

    def predict(number: int) -> None:
        found[number] = ezkl_engine.predict(public.bundle, samples[number]).claim

    threads = [threading.Thread(target=predict, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(8)] == expected


def test_the_exported_verifier_is_the_pinned_and_patched_one(
    ezkl_engine: EzklEngine, proven: Proven
):
    source = ezkl_engine.export_verifier(proven.public)
    assert source.count("eq(proof.offset, 0x64)") == 1


def test_agreement_is_measured_on_held_out_samples(
    ezkl_engine: EzklEngine, public: Proven, samples: FloatArray
):
    labels = np.zeros(10, dtype=np.int64)
    found = measure_agreement(ezkl_engine, public.bundle, public.model, samples[:10], labels)
    assert found.samples == 10
    assert 0 < found.mean_abs <= found.max_abs < 0.1
    assert found.top1 >= 0.9
    other = tiny_onnx(public.model.with_name("other.onnx"), inputs=INPUTS, outputs=2, seed=9)
    assert measure_agreement(ezkl_engine, public.bundle, other, samples[:10]).max_abs > 0.1


def test_a_model_that_ezkl_cannot_compile_is_rejected(
    ezkl_engine: EzklEngine, tmp_path: Path, samples: FloatArray
):
    (tmp_path / "m.onnx").write_bytes(b"junk")
    plan = CircuitPlan(input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.HASHED)
    with pytest.raises(ModelRejected):
        ezkl_engine.compile(tmp_path / "m.onnx", plan, samples, tmp_path / "c", limits=LIMITS)


def test_an_srs_with_another_digest_is_refused(
    ezkl_engine: EzklEngine, committed: Proven, development_srs: Srs
):
    folder = committed.bundle.files["settings"].parent
    with pytest.raises(BundleMismatch):
        ezkl_engine.setup(folder, replace(development_srs, sha256="00" * 32))


@pytest.mark.parametrize("size", [8, 1000])
def test_an_srs_that_is_too_small_or_broken_is_refused(
    ezkl_engine: EzklEngine, committed: Proven, tmp_path: Path, size: int
):
    if size == 8:
        srs = ezkl_engine.development_srs(size, tmp_path / "small.srs")
    else:
        (tmp_path / "cut.srs").write_bytes(committed.bundle.files["srs"].read_bytes()[:size])
        srs = load_srs(tmp_path / "cut.srs", sha256=None, production=False)
    folder = tmp_path / "circuit"
    shutil.copytree(committed.bundle.files["settings"].parent, folder)
    with pytest.raises(InvalidInput, match="too small"):
        ezkl_engine.setup(folder, srs, limits=LIMITS)


def test_an_opening_runs_again_to_the_same_claim(ezkl_engine: EzklEngine, proven: Proven):
    assert ezkl_engine.reopen(proven.bundle, proven.prediction.opening) == proven.prediction


def test_a_manifest_without_its_parameters_is_refused(ezkl_engine: EzklEngine, proven: Proven):
    stripped = replace(proven.bundle.manifest, parameters={})
    claim = proven.prediction.claim
    with pytest.raises(BundleMismatch, match="circuit id"):
        ezkl_engine.verify(replace(proven.bundle, manifest=stripped), claim, proven.proof.data)
    bare = replace(proven.bundle, manifest=identified(stripped))
    claim = replace(claim, circuit_id=bare.manifest.circuit_id)
    with pytest.raises(BundleMismatch, match="parameter"):
        ezkl_engine.verify(bare, claim, proven.proof.data)
    with pytest.raises(BundleMismatch, match="parameter"):
        ezkl_engine.reopen(bare, proven.prediction.opening)

"""Traps of ezkl 23.0.5 that need a real circuit, each sprung; docs/security.md lists them all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import tiny_onnx
from tests.prover.conftest import INPUTS, LIMITS, OPTIONS, Proven, Publish
from zkserve import runtime
from zkserve.chain.evm import CODE_LIMIT_BYTES, verifier_bytes
from zkserve.encoding import identified, sha256_file
from zkserve.engines.base import Bundle, CircuitPlan, FloatArray, Limits, Srs
from zkserve.engines.child import run_child
from zkserve.engines.ezkl import EzklEngine, children
from zkserve.engines.ezkl.claims import decode_opening, from_instances, to_instances
from zkserve.errors import BundleMismatch, ChildKilled, EngineFailed, InputOutOfRange, ProofInvalid
from zkserve.settings import Settings
from zkserve.types import InputMode, WeightsMode

pytestmark = pytest.mark.prover

OURS = "tests.ezkl_steps:"


def paths(bundle: Bundle, *names: str) -> dict[str, str]:
    return {name: str(bundle.files[name].resolve()) for name in names}


def elements(proven: Proven) -> list[int]:
    return decode_opening(proven.bundle.manifest, proven.prediction.opening).elements


def instances(proven: Proven) -> list[int]:
    return to_instances(proven.bundle.manifest, proven.prediction.claim)


def compiled(
    engine: EzklEngine,
    samples: FloatArray,
    out: Path,
    activation: str = "Relu",
    **options: int | bool,
) -> Path:
    """Compile a tiny model of public inputs; return the folder."""
    model = tiny_onnx(out.with_suffix(".onnx"), inputs=INPUTS, hidden=2, activation=activation)
    plan = CircuitPlan(
        input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.HASHED, options=OPTIONS | options
    )
    engine.compile(model, plan, samples, out, limits=LIMITS)
    return out


def test_private_weights_labelled_fixed_verify_and_are_found_by_who_has_the_model(
    ezkl_engine: EzklEngine, development_srs: Srs, samples: FloatArray, tmp_path: Path
):
    """Trap 5: the key of such a circuit holds no weights, so any weights make valid proofs."""
    settings, folders = tmp_path / "private.json", {}
    for name, seed in (("honest", 0), ("free", 0), ("other", 1)):
        model = tiny_onnx(tmp_path / f"{name}.onnx", INPUTS, 2, 2, seed=seed)
        plan = CircuitPlan(
            input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.FIXED, options=OPTIONS
        )
        folders[name] = tmp_path / name
        ezkl_engine.compile(model, plan, samples, folders[name], limits=LIMITS)
    shown = (folders["free"] / "settings.json").read_text()
    settings.write_text(shown.replace('"param_visibility":"Fixed"', '"param_visibility":"Private"'))
    assert settings.read_text() != shown
    for name in ("free", "other"):
        run_child(
            "tests.child_steps:compile_under",
            limits=LIMITS,
            model=str(tmp_path / f"{name}.onnx"),
            settings=str(settings),
            out=str(folders[name] / "model.compiled"),
        )
    honest, free = (
        ezkl_engine.setup(folders[name], development_srs, limits=LIMITS)
        for name in ("honest", "free")
    )
    assert free.manifest.weights_mode is WeightsMode.FIXED
    # Other weights, under the key and the claims of these: a valid proof.
    theirs = free.files | {"compiled": folders["other"] / "model.compiled"}
    prediction = ezkl_engine.predict(free, samples[0])
    opening = decode_opening(free.manifest, prediction.opening)
    made = children.prove(
        theirs,
        opening.elements,
        None,
        limits=LIMITS,
        progress=lambda _: None,
        cancelled=lambda: False,
    ).value
    claim = from_instances(free.manifest, opening, made["instances"])
    assert claim.outputs != prediction.claim.outputs
    public = Bundle(
        manifest=free.manifest, files={name: free.files[name] for name in free.manifest.public}
    )
    ezkl_engine.verify(public, claim, bytes.fromhex(made["proof"]))
    ezkl_engine.check_verifier(public)
    # Public files do not show it, and that is said; the private model does.
    assert any("leave them free" in caveat for caveat in ezkl_engine.caveats(public))
    assert ezkl_engine.check_model(public) is False
    with pytest.raises(BundleMismatch, match="compiled again"):
        ezkl_engine.check_model(free)
    assert ezkl_engine.check_model(honest) is True


@pytest.mark.parametrize("weights_mode", [WeightsMode.POLYCOMMIT, WeightsMode.HASHED])
def test_a_circuit_of_committed_inputs_is_made_again_from_its_model_and_from_no_other(
    ezkl_engine: EzklEngine, publish: Publish, weights_mode: WeightsMode, tmp_path: Path
):
    bundle, _ = publish(InputMode.COMMITTED, weights_mode=weights_mode)
    assert ezkl_engine.check_model(bundle)
    other = tiny_onnx(tmp_path / "other.onnx", INPUTS, 2, 2, activation="Sigmoid")
    pins = dict(bundle.manifest.pins) | {"model": sha256_file(other)}
    lying = Bundle(
        manifest=identified(replace(bundle.manifest, pins=pins)),
        files={**bundle.files, "model": other},
    )
    with pytest.raises(BundleMismatch, match="compiled again"):
        ezkl_engine.check_model(lying)


@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_a_stale_witness_gives_a_proof_of_ezkl_but_none_of_ours(committed: Proven, part: str):
    """Trap 3: ``prove`` never checks its own proof."""
    files = paths(
        committed.bundle,
        *("settings", "compiled", "proving_key", "verifying_key", "srs", "verifier_srs"),
    )
    seen: dict[str, Any] = run_child(
        OURS + "prove_altered",
        limits=LIMITS,
        part=part,
        elements=elements(committed),
        instances=instances(committed),
        **files,
    ).value
    assert seen == {"proof": True, "step": "ProofInvalid"}


def test_files_of_two_builds_of_one_model_are_never_mixed(
    ezkl_engine: EzklEngine, committed: Proven, publish: Publish
):
    """Trap 6: settings and keys come out otherwise each time."""
    again, _ = publish(InputMode.COMMITTED)
    ours, theirs = committed.bundle, again
    assert ours.manifest.weights == theirs.manifest.weights
    claim, opening = committed.prediction.claim, committed.prediction.opening
    differing = [
        name
        for name in ("settings", "compiled", "verifying_key", "proving_key")
        if theirs.manifest.pins[name] != ours.manifest.pins[name]
    ]
    assert differing, "the trap is there"
    for name in differing:
        mixed = Bundle(manifest=ours.manifest, files={**ours.files, name: theirs.files[name]})
        with pytest.raises(BundleMismatch, match=name):
            ezkl_engine.prove(mixed, claim, opening, limits=LIMITS)
    other = replace(ours.manifest, pins={**ours.manifest.pins, "verifying_key": "ab" * 32})
    with pytest.raises(BundleMismatch, match="circuit id"):
        ezkl_engine.prove(Bundle(manifest=other, files=ours.files), claim, opening, limits=LIMITS)


def test_a_poisoned_cache_changes_keys_of_ezkl_but_none_of_ours(
    ezkl_engine: EzklEngine,
    development_srs: Srs,
    samples: FloatArray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Trap 7: ezkl trusts whatever lies in its cache."""
    folder = compiled(ezkl_engine, samples, tmp_path / "circuit", activation="Sigmoid")
    caches = {name: tmp_path / name for name in ("clean", "poisoned")}
    for path in caches.values():
        path.mkdir()

    def key_with(cache: Path) -> str:
        return run_child(
            OURS + "set_up_with_cache",
            limits=LIMITS,
            folder=str(folder),
            srs=str(development_srs.path),
            cache=str(cache),
        ).value

    clean = key_with(caches["clean"])
    assert key_with(caches["clean"]) == clean, "one compiled circuit, one key"
    shutil.copytree(caches["clean"] / "cache", caches["poisoned"] / "cache")
    (table,) = (caches["poisoned"] / "cache").glob("sigmoid_*/outputs")
    content = bytearray(table.read_bytes())
    content[: len(content) // 2] = content[len(content) // 2 : 2 * (len(content) // 2)]
    table.write_bytes(content)
    assert key_with(caches["poisoned"]) != clean, "the trap is there"

    monkeypatch.setenv("EZKL_REPO_PATH", str(caches["poisoned"]))
    monkeypatch.setenv("HOME", str(caches["poisoned"]))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cache/**/*")}
    bundle = ezkl_engine.setup(folder, development_srs, limits=LIMITS)
    assert bundle.manifest.pins["verifying_key"] == clean
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("cache/**/*")} == before


def test_a_panic_of_ezkl_is_an_error_and_the_child_goes_on(public: Proven):
    """Trap 8: panics do not derive from Exception."""
    assert run_child(OURS + "is_an_exception", limits=LIMITS).value is False
    with pytest.raises(EngineFailed, match="PanicException"):
        run_child(OURS + "panic", limits=LIMITS)
    with pytest.raises(InputOutOfRange, match="cannot compute on this input"):
        run_child(
            OURS + "panic_in_a_step",
            limits=LIMITS,
            elements=elements(public),
            **paths(public.bundle, "settings", "compiled"),
        )


def test_a_model_of_a_few_bytes_that_aborts_ezkl_ends_its_child_only(tmp_path: Path):
    """Trap 8: 65536² elements from 142 bytes; the checker lets them in, our loader does not."""
    from tests.unit.test_ezkl_model import bomb

    model = bomb(tmp_path / "bomb.onnx")
    with pytest.raises((ChildKilled, EngineFailed)):
        run_child(
            OURS + "lay_out",
            limits=Limits(time_s=60, memory_bytes=1 << 30),
            model=str(model.resolve()),
        )


def test_every_calibration_sample_can_be_proved_not_only_the_first(
    ezkl_engine: EzklEngine, tmp_path: Path
):
    """Trap 10: calibrated on one sample, lookup tables end where it ended."""
    near = np.full((1, INPUTS), 0.1, dtype=np.float32)
    far = np.full((1, INPUTS), 40.0, dtype=np.float32)
    settings = {}
    for name, samples in (("one", near), ("both", np.vstack([near, far]))):
        folder = compiled(ezkl_engine, samples, tmp_path / name, activation="Sigmoid")
        settings[name] = {
            "settings": str(folder / "settings.json"),
            "compiled": str(folder / "model.compiled"),
        }
    quantised = [round(float(value) * (1 << 8)) for value in far[0]]
    step = "zkserve.engines.ezkl.steps:witness"
    with pytest.raises(InputOutOfRange, match="lookup"):
        run_child(step, limits=LIMITS, elements=quantised, **settings["one"])
    run_child(step, limits=LIMITS, elements=quantised, **settings["both"])


def test_no_witness_outlives_its_proof(
    ezkl_engine: EzklEngine,
    committed: Proven,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Trap 11: a witness holds the input in clear; ezkl leaves it where it was written."""
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path))
    folder = committed.bundle.files["settings"].parent
    before = {path.name for path in folder.iterdir()}
    during: set[str] = set()

    def note(_: str) -> None:
        during.update(path.name for path in tmp_path.rglob("*"))

    claim, opening = committed.prediction.claim, committed.prediction.opening
    ezkl_engine.prove(committed.bundle, claim, opening, limits=LIMITS, progress=note)
    assert "witness.json" in during, "it lies in the private folder while it is needed"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in folder.iterdir()} == before


def test_trailing_bytes_that_ezkl_ignores_are_refused(ezkl_engine: EzklEngine, committed: Proven):
    """Trap 12: so that proof bytes identify nothing."""
    longer = committed.proof.data + bytes(32)
    assert run_child(
        OURS + "verify_alone",
        limits=LIMITS,
        instances=instances(committed),
        proof=longer.hex(),
        **paths(committed.bundle, "settings", "verifying_key", "verifier_srs"),
    ).value
    with pytest.raises(ProofInvalid, match="bytes"):
        ezkl_engine.verify(committed.public, committed.prediction.claim, longer)


def test_matrices_are_not_checked_by_freivalds_unless_asked_for(
    ezkl_engine: EzklEngine, development_srs: Srs, samples: FloatArray, tmp_path: Path
):
    """Trap 15: it came after ezkl's audit and makes verifiers that no chain takes."""
    solc = Settings(solc="").solc_command
    sizes = {}
    for freivalds in (False, True):
        folder = compiled(
            ezkl_engine, samples, tmp_path / f"{freivalds}", batch=4, freivalds=freivalds
        )
        bundle = ezkl_engine.setup(folder, development_srs, limits=LIMITS)
        sizes[freivalds] = verifier_bytes(ezkl_engine.export_verifier(bundle), solc)
    assert sizes[False] < CODE_LIMIT_BYTES * 0.8
    assert sizes[True] > sizes[False] * 1.3


def test_the_srs_is_the_same_after_it_was_used(
    ezkl_engine: EzklEngine, committed: Proven, development_srs: Srs
):
    """Trap 13: ezkl deletes an SRS that it takes for a wrong one."""
    assert sha256_file(development_srs.path) == development_srs.sha256
    with pytest.raises(BundleMismatch):
        ezkl_engine.setup(
            committed.bundle.files["settings"].parent,
            replace(development_srs, sha256="00" * 32),
            limits=LIMITS,
        )
    assert sha256_file(development_srs.path) == development_srs.sha256

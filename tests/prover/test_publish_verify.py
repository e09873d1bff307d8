"""An owner publishes a real circuit; a stranger checks its receipts from public files alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import func, select

from tests.models import tiny_onnx
from zkserve import publish, recipe
from zkserve.encoding import identified
from zkserve.engines import ENGINES, engine
from zkserve.errors import (
    BundleMismatch,
    DevelopmentSrsRefused,
    ModelRejected,
    NotFound,
    ProofInvalid,
    RecipeInvalid,
    ZkserveError,
)
from zkserve.lock import LOCK_NAME
from zkserve.node import Node, secret_names
from zkserve.receipt import manifest_bytes, manifest_to_dict, receipt_to_dict
from zkserve.store.tables import VersionRow
from zkserve.types import CircuitManifest, Claim, Receipt, Scale, Settlement, TensorSpec
from zkserve.verify import Verification, read_receipt, verify_offline

pytestmark = pytest.mark.prover

INPUTS = 3
PRIVATE = {
    "native": {"weights", "model"},
    "ezkl": {"compiled", "proving_key", "model"},
}
"""Artifacts that hold what an owner hides, by engine."""
NEEDED = {
    "native": ("description", "interface", "verifier_srs"),
    "ezkl": ("settings", "verifying_key", "verifier_srs"),
}
"""Artifacts that verifying reads."""
OPTIONS = {"native": "{}", "ezkl": "{ decomp_base = 128, decomp_legs = 4 }"}
BUILDING = {"compiling and calibrating the circuit", "making keys"}
LOCKED = {"native": "description", "ezkl": "weights"}
"""What a lock holds of the circuit that a rebuild gives again."""
RECIPE = """
name = "{name}"
description = "A tiny model."
[[inputs]]
name = "x"
shape = [1, 3]
[output]
name = "y"
shape = [1, 2]
tolerance = {tolerance}
[engine]
name = "{engine}"
options = {options}
[limits]
memory_mb = 4096
"""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """An owner's machine; ``engine`` is the one its recipes name."""

    engine: str
    node: Node
    folder: Path
    srs: publish.SrsSource
    phases: list[str]

    def publish(self, what: recipe.Recipe, *, update_lock: bool = False) -> publish.Published:
        self.phases.clear()
        return publish.publish(
            self.node, what, self.srs, progress=self.phases.append, update_lock=update_lock
        )

    def versions(self) -> int:
        with self.node.database.session() as session:
            return session.scalar(select(func.count()).select_from(VersionRow)) or 0

    def artifacts(self) -> set[str]:
        return {str(path) for path in self.node.artifacts.folder.rglob("*")}

    def recipe(self, name: str, *, tolerance: float = 0.1, seed: int = 0) -> recipe.Recipe:
        folder = self.folder / name
        (folder / "samples").mkdir(parents=True)
        (folder / "recipe.toml").write_text(
            RECIPE.format(
                name=name, tolerance=tolerance, engine=self.engine, options=OPTIONS[self.engine]
            )
        )
        tiny_onnx(folder / "model.onnx", inputs=INPUTS, hidden=2, outputs=2, seed=seed)
        shutil.copy(self.folder / "samples.npz", folder / "samples")
        return recipe.load(folder)


@pytest.fixture(scope="module", params=ENGINES)
def desk(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    rows = np.random.default_rng(7).normal(size=(40, INPUTS)).astype(np.float32)
    np.savez(folder / "samples.npz", calibration=rows[:30], held_out=rows[30:])
    node = Node.open(data_dir=folder / "data", database_url=f"sqlite:///{folder / 'zkserve.db'}")
    node.database.upgrade()
    srs = publish.SrsSource(development_folder=folder / "srs")
    yield Desk(engine=request.param, node=node, folder=folder, srs=srs, phases=[])
    node.database.close()


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A published model and a receipt of it."""

    source: recipe.Recipe
    published: publish.Published
    receipt: Receipt
    opening: bytes
    sample: list[float]

    @property
    def manifest(self) -> CircuitManifest:
        return self.published.manifest


@pytest.fixture(scope="module")
def bare(desk: Desk) -> Issued:
    """A bare ONNX file with its samples, and nothing else of the owner's.

    The native engine is chosen for it; any other has to be asked for.
    """
    model = tiny_onnx(desk.folder / "tiny.onnx", inputs=INPUTS, hidden=2, outputs=2)
    source = recipe.load(model, samples=desk.folder / "samples.npz")
    if desk.engine != "native":
        source = replace(source, engine=desk.engine)
    published = desk.publish(source)
    manifest = published.manifest
    bundle, proof_system = desk.node.bundle(manifest), desk.node.engine(manifest)
    sample = recipe.samples(source).held_out[0]
    prediction = proof_system.predict(bundle, sample)
    proof = proof_system.prove(bundle, prediction.claim, prediction.opening)
    receipt = Receipt(
        claim=prediction.claim,
        proof=proof.data,
        engine=manifest.engine,
        engine_version=manifest.engine_version,
        model=published.model,
        version=published.number,
        output_scale=manifest.output_scale,
        development_srs=manifest.development_srs,
    )
    return Issued(
        source=source,
        published=published,
        receipt=receipt,
        opening=prediction.opening,
        sample=sample.tolist(),
    )


@pytest.fixture(scope="module")
def locked(desk: Desk) -> tuple[recipe.Recipe, publish.Published]:
    """A recipe folder of another model, published once."""
    source = desk.recipe("folder", seed=1)
    return source, desk.publish(source)


def lay_out(desk: Desk, manifest: CircuitManifest, folder: Path) -> Path:
    """Lay out what a stranger downloads: the manifest and the public files, by name."""
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    for name in manifest.public:
        shutil.copy(desk.node.artifacts.path(manifest.pins[name]), folder / name)
    return folder


@pytest.fixture
def public(desk: Desk, bare: Issued, tmp_path: Path) -> Path:
    return lay_out(desk, bare.manifest, tmp_path / "public")


# publishing


def test_a_bare_onnx_file_is_published_with_its_agreement_measured(desk: Desk, bare: Issued):
    assert (bare.published.model, bare.published.number, bare.published.repeated) == (
        "tiny",
        1,
        False,
    )
    assert bare.manifest.engine == desk.engine
    assert bare.manifest.weights_mode is engine(desk.engine).weights_mode
    agreement = bare.manifest.agreement
    assert agreement is not None
    assert agreement.samples == 10
    assert 0 < agreement.max_abs <= bare.source.tolerance
    assert bare.manifest.development_srs
    assert bare.manifest == identified(bare.manifest)
    for name, digest in bare.manifest.pins.items():
        desk.node.artifacts.check(digest)
        sealed = name in secret_names(bare.manifest)
        assert sealed == (name not in bare.manifest.public and name != "srs")
        assert (desk.node.artifacts.folder / digest[:2] / digest).exists() != sealed


def test_the_same_again_changes_nothing_and_builds_nothing(desk: Desk, bare: Issued):
    versions, artifacts = desk.versions(), desk.artifacts()
    again = desk.publish(bare.source)
    assert again == replace(bare.published, repeated=True)
    assert (desk.versions(), desk.artifacts()) == (versions, artifacts)
    assert not BUILDING & {*desk.phases}


def test_the_same_circuit_under_a_tolerance_it_misses_is_refused(desk: Desk, bare: Issued):
    with pytest.raises(ModelRejected, match="tolerates 1e-12") as refused:
        desk.publish(replace(bare.source, tolerance=1e-12))
    assert refused.value.remedy
    assert not BUILDING & {*desk.phases}


def test_a_model_outside_its_tolerance_leaves_nothing_behind(desk: Desk):
    versions, artifacts = desk.versions(), desk.artifacts()
    source = desk.recipe("intolerant", tolerance=1e-12, seed=2)
    with pytest.raises(ModelRejected, match="10 held-out samples"):
        desk.publish(source)
    assert "measuring agreement with the float model" in desk.phases
    assert (desk.versions(), desk.artifacts()) == (versions, artifacts)
    assert not (source.folder / LOCK_NAME).exists()


def test_a_lock_pins_the_circuit_but_not_its_keys(
    desk: Desk, locked: tuple[recipe.Recipe, publish.Published]
):
    source, published = locked
    lock = json.loads((source.folder / LOCK_NAME).read_text())
    reproducible = engine(desk.engine).reproducible(published.manifest)
    assert LOCKED[desk.engine] in reproducible
    assert reproducible.items() <= lock.items()
    assert lock["rows"] == published.manifest.rows
    assert not {"pins", "circuit_id"} & lock.keys()
    assert desk.publish(source).repeated


@pytest.mark.parametrize(
    ("field", "value"),
    [(None, "0x" + "00" * 32), ("rows", 1), ("input_mode", "public"), ("options", {"x": 1})],
)
def test_a_lock_of_another_circuit_is_refused_until_renewed(
    desk: Desk, locked: tuple[recipe.Recipe, publish.Published], field: str | None, value: object
):
    source, _ = locked
    field = field or LOCKED[desk.engine]
    path = source.folder / LOCK_NAME
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {field: value}))
    with pytest.raises(RecipeInvalid, match=field) as refused:
        desk.publish(source)
    assert "--update-lock" in str(refused.value.remedy)
    desk.publish(source, update_lock=True)
    assert path.read_text() == good


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"weights": 1'])
def test_a_damaged_lock_is_refused(
    desk: Desk, locked: tuple[recipe.Recipe, publish.Published], text: str
):
    source, _ = locked
    path = source.folder / LOCK_NAME
    good = path.read_text()
    path.write_text(text)
    with pytest.raises(RecipeInvalid, match="damaged"):
        desk.publish(source)
    path.write_text(good)


def test_a_lock_is_checked_before_a_new_circuit_is_recorded(
    desk: Desk, locked: tuple[recipe.Recipe, publish.Published]
):
    other, _ = locked
    source = desk.recipe("changed", seed=3)
    shutil.copy(other.folder / LOCK_NAME, source.folder)
    versions, artifacts = desk.versions(), desk.artifacts()
    with pytest.raises(RecipeInvalid, match="pins other values"):
        desk.publish(source)
    assert (desk.versions(), desk.artifacts()) == (versions, artifacts)


@pytest.mark.parametrize(
    "stated",
    [
        {"inputs": (TensorSpec(name="x", shape=(3,)),)},
        {"output": TensorSpec(name="y", shape=(1, 3))},
    ],
)
def test_shapes_stated_otherwise_are_refused(
    desk: Desk, locked: tuple[recipe.Recipe, publish.Published], stated: dict[str, object]
):
    with pytest.raises(RecipeInvalid, match="states"):
        desk.publish(replace(locked[0], **stated))


def test_production_refuses_to_publish_without_a_ceremony(desk: Desk, bare: Issued):
    versions = desk.versions()
    with pytest.raises(DevelopmentSrsRefused) as refused:
        publish.publish(
            replace(desk.node, production=True), bare.source, desk.srs, progress=lambda _: None
        )
    assert "ZKSERVE_SRS_PATH" in str(refused.value.remedy)
    assert desk.versions() == versions


def test_production_refuses_to_serve_a_circuit_of_a_development_srs(desk: Desk, bare: Issued):
    with pytest.raises(DevelopmentSrsRefused):
        replace(desk.node, production=True).engine(bare.manifest)


# verifying


def test_a_stranger_verifies_from_public_files_alone(public: Path, bare: Issued, tmp_path: Path):
    path = tmp_path / "receipt.json"
    path.write_text(json.dumps(receipt_to_dict(bare.receipt)))
    found = verify_offline(
        read_receipt(path),
        public,
        expected_circuit=bare.manifest.circuit_id,
        opening=bare.opening,
    )
    scale = bare.manifest.output_scale
    assert found.values == tuple(scale.to_real(output) for output in bare.receipt.claim.outputs)
    assert found.opened_input == pytest.approx(bare.sample, abs=2**-8)
    assert not any("--expect-circuit" in caveat for caveat in found.caveats)
    assert any("Development SRS" in caveat for caveat in found.caveats)


def test_what_was_not_established_is_said(public: Path, bare: Issued):
    found = verify_offline(bare.receipt, public)
    assert found.opened_input is None
    assert any("--expect-circuit" in caveat for caveat in found.caveats)
    assert any("--opening" in caveat for caveat in found.caveats)


def test_no_public_file_holds_the_weights(desk: Desk, public: Path, bare: Issued):
    names = {path.name for path in public.iterdir()}
    assert names == set(bare.manifest.public) | {"manifest.json"}
    private = PRIVATE[desk.engine]
    assert not names & private
    assert private <= bare.manifest.pins.keys() - bare.manifest.public
    weights = (np.random.default_rng(0).normal(size=(2, INPUTS)).astype(np.float32) / 2).tobytes()
    assert weights in bare.source.source.read_bytes()
    for path in public.iterdir():
        assert weights not in path.read_bytes()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def word(value: str) -> str:
    return value[:-1] + ("0" if value[-1] != "0" else "1")


CLAIM: dict[str, Callable[[Claim], list[Claim]]] = {
    "circuit_id": lambda c: [replace(c, circuit_id=word(c.circuit_id))],
    "weights": lambda c: [replace(c, weights=word(c.weights))],
    "input": lambda c: [
        replace(c, input=value)
        for value in (flipped(c.input, 31), c.input[1:], c.input + b"\0", b"\xff" * 32, b"")
    ],
    "outputs": lambda c: [
        replace(c, outputs=value)
        for value in (
            (c.outputs[0] + 1, c.outputs[1]),
            (c.outputs[0], c.outputs[1] - 1),
            c.outputs[::-1],
            c.outputs[:1],
            (*c.outputs, 0),
            (),
        )
    ],
}
RECEIPT: dict[str, Callable[[Receipt], list[Receipt]]] = {
    "proof": lambda r: [
        replace(r, proof=value)
        for value in (
            flipped(r.proof, 0),
            flipped(r.proof, len(r.proof) // 2),
            flipped(r.proof, len(r.proof) - 1),
            r.proof[:-1],
            r.proof + b"\0",
            bytes(len(r.proof)),
            b"",
        )
    ],
    "engine": lambda r: [replace(r, engine="other")],
    "engine_version": lambda r: [replace(r, engine_version="23.0.4")],
    "output_scale": lambda r: [
        replace(r, output_scale=Scale(multiplier=2, shift=r.output_scale.shift)),
        replace(r, output_scale=Scale(multiplier=1, shift=r.output_scale.shift + 1)),
    ],
    "development_srs": lambda r: [replace(r, development_srs=not r.development_srs)],
}
POINTERS = {"model", "version", "settlement"}
"""Receipt fields that say where it came from, about which verifying offline says nothing."""


def test_every_field_of_a_claim_is_bound(public: Path, bare: Issued):
    assert CLAIM.keys() == {field.name for field in fields(Claim)}
    for change in CLAIM.values():
        for claim in change(bare.receipt.claim):
            assert claim != bare.receipt.claim
            with pytest.raises(ProofInvalid):
                verify_offline(replace(bare.receipt, claim=claim), public)


def test_every_field_of_a_receipt_is_bound_or_only_a_pointer(public: Path, bare: Issued):
    assert RECEIPT.keys() | POINTERS | {"claim"} == {field.name for field in fields(Receipt)}
    for change in RECEIPT.values():
        for receipt in change(bare.receipt):
            assert receipt != bare.receipt
            with pytest.raises(ProofInvalid):
                verify_offline(receipt, public)


def test_a_pointer_is_never_said_to_be_established(public: Path, bare: Issued):
    settlement = Settlement(
        chain_id=7777,
        registry="0x" + "11" * 20,
        market="0x" + "33" * 20,
        verifier="0x" + "55" * 20,
        version_id=1,
        request_id=4242,
        transaction="0x" + "44" * 32,
        block=5,
        gas=6,
        callback_ok=True,
    )
    honest = verify_offline(bare.receipt, public)
    renamed = replace(bare.receipt, model="somebody_elses", version=9, settlement=settlement)
    assert verify_offline(renamed, public) == honest
    assert isinstance(honest, Verification)


MANIFEST: dict[str, object] = {
    "format": "zkserve/manifest/v2",
    "circuit_id": "0x" + "00" * 32,
    "engine": {"name": "ezkl", "version": "0"},
    "input_mode": "public",
    "weights_mode": "private",
    "weights": "0x" + "00" * 32,
    "inputs": [{"name": "x", "shape": [3], "dtype": "FP32"}],
    "output": {"name": "y", "shape": [2, 1], "dtype": "FP32"},
    "output_scale": {"multiplier": 1, "shift": 1},
    "pins": {},
    "development_srs": False,
    "parameters": {},
    "public": [],
}
SAID_ONLY = {"rows", "facts", "agreement"}
"""Manifest fields about the circuit that decide nothing of what is proved."""


def test_every_field_of_a_manifest_is_bound_or_declared_otherwise(public: Path, bare: Issued):
    good = manifest_to_dict(bare.manifest)
    assert MANIFEST.keys() | SAID_ONLY == good.keys()
    path = public / "manifest.json"
    for name, value in MANIFEST.items():
        assert good[name] != value, name
        path.write_text(json.dumps(good | {name: value}))
        with pytest.raises(ZkserveError):
            verify_offline(bare.receipt, public)
        path.write_text(json.dumps({key: good[key] for key in good if key != name}))
        with pytest.raises(ZkserveError):
            verify_offline(bare.receipt, public)
    said = {"rows": 1, "facts": {}, "agreement": None}
    path.write_text(json.dumps(good | said))
    verify_offline(bare.receipt, public)


def test_what_verifying_needs_must_be_public_and_nothing_else_can_be_made_so(
    desk: Desk, public: Path, bare: Issued
):
    good = manifest_to_dict(bare.manifest)
    path = public / "manifest.json"
    for name in NEEDED[desk.engine]:
        path.write_text(json.dumps(good | {"public": sorted({*good["public"]} - {name})}))
        with pytest.raises((BundleMismatch, NotFound)):
            verify_offline(bare.receipt, public)
    for name in PRIVATE[desk.engine]:
        path.write_text(json.dumps(good | {"public": [*good["public"], name]}))
        with pytest.raises(NotFound, match=name):
            verify_offline(bare.receipt, public)
    path.write_text(json.dumps(good | {"public": [*good["public"], "unheard_of"]}))
    with pytest.raises(BundleMismatch):
        verify_offline(bare.receipt, public)


def test_a_manifest_rewritten_as_a_whole_is_told_by_the_circuit_id(public: Path, bare: Issued):
    """Whoever rewrites manifest and receipt together makes another circuit, and says so."""
    scale = Scale(multiplier=1, shift=bare.manifest.output_scale.shift - 4)
    manifest = identified(replace(bare.manifest, output_scale=scale))
    claim = replace(bare.receipt.claim, circuit_id=manifest.circuit_id)
    receipt = replace(bare.receipt, claim=claim, output_scale=scale)
    (public / "manifest.json").write_bytes(manifest_bytes(manifest))
    with pytest.raises(ProofInvalid, match="circuit id"):
        verify_offline(bare.receipt, public)
    with pytest.raises(ProofInvalid, match="circuit id"):
        verify_offline(receipt, public, expected_circuit=bare.manifest.circuit_id)


def test_each_altered_or_missing_file_is_noticed(public: Path, bare: Issued):
    assert bare.manifest.public
    for name in bare.manifest.public:
        good = (public / name).read_bytes()
        for bad in (flipped(good, len(good) // 2), good[:-1], good + b"\0", b""):
            (public / name).write_bytes(bad)
            with pytest.raises(BundleMismatch):
                verify_offline(bare.receipt, public)
        (public / name).unlink()
        with pytest.raises(NotFound, match=name):
            verify_offline(bare.receipt, public)
        (public / name).write_bytes(good)
    verify_offline(bare.receipt, public)


def test_artifacts_of_another_model_verify_nothing(
    desk: Desk,
    bare: Issued,
    locked: tuple[recipe.Recipe, publish.Published],
    public: Path,
    tmp_path: Path,
):
    other = locked[1].manifest
    folder = lay_out(desk, other, tmp_path / "other")
    with pytest.raises(ProofInvalid, match="circuit id"):
        verify_offline(bare.receipt, folder)
    claim = replace(bare.receipt.claim, circuit_id=other.circuit_id, weights=other.weights)
    posing = replace(bare.receipt, claim=claim, output_scale=other.output_scale)
    with pytest.raises(ProofInvalid):
        verify_offline(posing, folder)
    shutil.copy(folder / NEEDED[desk.engine][1], public)
    with pytest.raises(BundleMismatch):
        verify_offline(bare.receipt, public)


@pytest.mark.parametrize("expected", ["", "0x" + "00" * 32])
def test_another_circuit_than_expected_is_refused(public: Path, bare: Issued, expected: str):
    with pytest.raises(ProofInvalid, match="circuit id"):
        verify_offline(bare.receipt, public, expected_circuit=expected)


def test_only_the_opening_of_this_input_opens_it(desk: Desk, public: Path, bare: Issued):
    sample = np.array(bare.sample, np.float32)
    bundle = desk.node.bundle(bare.manifest)
    proof_system = engine(desk.engine)
    resalted = proof_system.predict(bundle, sample).opening
    shifted = proof_system.predict(bundle, sample + 0.5).opening
    for opening in (resalted, shifted, b"", b"{}", b"[]", b"\xff", bare.opening[:-1]):
        with pytest.raises(ProofInvalid):
            verify_offline(bare.receipt, public, opening=opening)

"""The tuner against ezkl itself: cheaper circuits that keep the tolerance, on tiny models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.models import tiny_onnx
from zkserve import publish, recipe
from zkserve.engines.agreement import measure_agreement
from zkserve.engines.base import Bundle, CircuitPlan, FloatArray, Limits
from zkserve.engines.ezkl import EzklEngine, building, tuning
from zkserve.engines.ezkl.options import Options
from zkserve.errors import JobCancelled, ModelRejected, ProofInvalid, RecipeInvalid
from zkserve.lock import LOCK_NAME
from zkserve.node import Node
from zkserve.types import Agreement, InputMode, WeightsMode

pytestmark = pytest.mark.prover

LIMITS = Limits(time_s=300, memory_bytes=4 << 30)
INPUTS, HIDDEN, OUTPUTS = 3, 8, 2
FIXED = CircuitPlan(input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.FIXED)
HASHED = CircuitPlan(input_mode=InputMode.COMMITTED, weights_mode=WeightsMode.HASHED)


@pytest.fixture(scope="module")
def data() -> tuple[FloatArray, FloatArray]:
    """Return calibration and held-out samples."""
    drawn = np.random.default_rng(3).normal(size=(60, INPUTS)).astype(np.float32)
    return drawn[:40], drawn[40:]


def _model(folder: Path, activation: str = "Relu") -> Path:
    return tiny_onnx(folder / "tiny.onnx", inputs=INPUTS, outputs=OUTPUTS, activation=activation)


def _tune(
    model: Path, plan: CircuitPlan, samples: FloatArray, folder: Path, **more
) -> tuning.Tuned:
    tolerance = more.pop("tolerance", 0.05)
    version = EzklEngine().version
    return tuning.tune(version, model, plan, samples, tolerance, folder, limits=LIMITS, **more)


def _build(
    engine: EzklEngine, model: Path, plan: CircuitPlan, samples: FloatArray, folder: Path
) -> Bundle:
    log_size = engine.compile(model, plan, samples, folder / "circuit", limits=LIMITS)
    srs = engine.development_srs(log_size, folder / f"{log_size}.srs")
    return engine.setup(folder / "circuit", srs, limits=LIMITS)


@pytest.mark.parametrize(
    ("plan", "activation"),
    [(FIXED, "Relu"), (HASHED, "Relu"), (FIXED, "Sigmoid")],
    ids=["fixed", "hashed", "lookups"],
)
def test_a_tuned_circuit_is_cheaper_keeps_the_tolerance_and_proves(
    plan: CircuitPlan,
    activation: str,
    ezkl_engine: EzklEngine,
    data: tuple[FloatArray, FloatArray],
    tmp_path: Path,
) -> None:
    calibration, held_out = data
    model, told = _model(tmp_path, activation), []

    def build(name: str, options: dict[str, int]) -> tuple[Bundle, Agreement]:
        of = CircuitPlan(
            input_mode=plan.input_mode, weights_mode=plan.weights_mode, options=options
        )
        folder = tmp_path / name
        folder.mkdir()
        bundle = _build(ezkl_engine, model, of, calibration, folder)
        return bundle, measure_agreement(ezkl_engine, bundle, model, held_out)

    default, differs = build("default", {})
    found = _tune(model, plan, calibration, tmp_path / "cache", progress=told.append)
    best, agrees = build("tuned", dict(found.options))

    assert found.max_abs <= 0.05 * tuning.KEPT_SHARE
    assert agrees.max_abs <= 0.05
    assert agrees.samples == len(held_out)  # every sample could be computed
    assert any("trying scales" in phrase for phrase in told)
    if activation == "Relu":
        assert best.manifest.facts["pk_bytes"] < default.manifest.facts["pk_bytes"]
        assert found.max_abs <= max(differs.max_abs, 0.025)
    else:
        assert found.options["lookup_low"] < 0 < found.options["lookup_high"]
    prediction = ezkl_engine.predict(best, held_out[0])
    proof = ezkl_engine.prove(best, prediction.claim, prediction.opening, limits=LIMITS)
    ezkl_engine.verify(best, prediction.claim, proof.data)


def test_a_tuned_circuit_has_room_for_the_salt_that_its_own_digits_need(
    ezkl_engine: EzklEngine, tmp_path: Path
) -> None:
    """Two digits of base 504 would need a longer salt, and more rows to hash it than there are."""
    plan = replace(FIXED, input_mode=InputMode.COMMITTED)
    samples = np.random.default_rng(0).normal(size=(20, 4))
    model = tiny_onnx(tmp_path / "tiny.onnx", hidden=16, seed=1)
    found = _tune(model, plan, samples, tmp_path / "cache", tolerance=0.1)
    assert found.options["logrows"] == 9
    bundle = _build(ezkl_engine, model, replace(plan, options=found.options), samples, tmp_path)
    prediction = ezkl_engine.predict(bundle, samples[0])
    proof = ezkl_engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
    ezkl_engine.verify(bundle, prediction.claim, proof.data)


@pytest.mark.parametrize(
    ("mode", "inputs", "logrows"), [(InputMode.COMMITTED, 6, 9), (InputMode.PUBLIC, 247, 8)]
)
def test_rows_hold_as_much_as_is_said_and_no_more(
    mode: InputMode, inputs: int, logrows: int, ezkl_engine: EzklEngine, tmp_path: Path
) -> None:
    """With six elements of salt 12 are hashed; with three outputs 250 are shown."""
    options = {"decomp_base": 100, "decomp_legs": 4, "logrows": logrows, "scale": 5}
    plan = replace(FIXED, input_mode=mode, options=options)
    for more in (0, 1):
        folder = tmp_path / f"{more}"
        folder.mkdir()
        model = tiny_onnx(folder / "tiny.onnx", inputs=inputs + more, hidden=3)
        drawn = np.random.default_rng(0).normal(size=(3, inputs + more)).astype(np.float32)
        np.save(folder / "samples.npy", drawn)
        if more:
            with pytest.raises(ModelRejected, match=rf"of 2\^{logrows} rows"):
                ezkl_engine.estimate(model, plan, folder / "samples.npy", limits=LIMITS)
            with pytest.raises(ModelRejected, match=rf"of 2\^{logrows} rows"):
                ezkl_engine.compile(model, plan, drawn, folder / "circuit", limits=LIMITS)
        else:
            found = ezkl_engine.estimate(model, plan, folder / "samples.npy", limits=LIMITS)
            assert found.k == logrows
            _build(ezkl_engine, model, plan, drawn, folder)


@pytest.mark.parametrize("scale", [5, 8, 9])
def test_foretold_rows_hold_the_lookup_tables(
    scale: int, ezkl_engine: EzklEngine, data: tuple[FloatArray, FloatArray], tmp_path: Path
) -> None:
    model, samples = _model(tmp_path, "Sigmoid"), tmp_path / "samples.npy"
    np.save(samples, data[0][:16])
    plan = replace(FIXED, options={"scale": scale})
    foretold = ezkl_engine.estimate(model, plan, samples, limits=LIMITS)
    made = ezkl_engine.compile(model, plan, data[0][:16], tmp_path / "circuit", limits=LIMITS)
    assert foretold.k == made


def test_relus_of_halves_take_fewer_rows_and_bind_what_is_answered(
    ezkl_engine: EzklEngine, data: tuple[FloatArray, FloatArray], tmp_path: Path
) -> None:
    calibration, held_out = data
    model, bundles = _model(tmp_path), {}
    layout = {"decomp_base": 1016, "decomp_legs": 3, "inner_cols": 1, "logrows": 10, "scale": 10}
    for halved in (False, True):
        plan = replace(FIXED, options=layout | {"halved_relus": halved})
        (tmp_path / f"{halved}").mkdir()
        bundles[halved] = _build(ezkl_engine, model, plan, calibration, tmp_path / f"{halved}")
    plain, bundle = bundles[False].manifest, bundles[True].manifest
    assert bundle.rows <= plain.rows - 4 * HIDDEN
    assert measure_agreement(ezkl_engine, bundles[True], model, held_out).max_abs <= 0.05

    prediction = ezkl_engine.predict(bundles[True], held_out[0])
    claim, other = prediction.claim, ezkl_engine.predict(bundles[True], held_out[1]).claim
    proof = ezkl_engine.prove(bundles[True], claim, prediction.opening, limits=LIMITS).data
    ezkl_engine.verify(bundles[True], claim, proof)
    first, *rest = claim.outputs
    for wrong in (
        replace(claim, outputs=(first + 1, *rest)),
        replace(claim, outputs=(-first, *rest)),
        replace(claim, input=other.input),
        other,
    ):
        with pytest.raises(ProofInvalid):
            ezkl_engine.verify(bundles[True], wrong, proof)


def test_the_secret_of_halved_weights_is_counted_as_they_are_halved(
    ezkl_engine: EzklEngine, data: tuple[FloatArray, FloatArray], tmp_path: Path
) -> None:
    model, secrets = _model(tmp_path), {}
    samples = tmp_path / "samples.npy"
    np.save(samples, data[0])
    for halved in (False, True):
        options = {"scale": 3, "logrows": 10, "halved_relus": halved}
        plan = replace(FIXED, options=options)
        ezkl_engine.compile(model, plan, data[0], tmp_path / f"{halved}", limits=LIMITS)
        compiled = json.loads((tmp_path / f"{halved}" / building.PLAN).read_text())
        foretold = ezkl_engine.estimate(model, plan, samples, limits=LIMITS).leak
        assert foretold is not None
        assert compiled["secret_bits"] == foretold.secret_bits
        secrets[halved] = foretold.secret_bits
    # Most weights lose one of their few bits.
    assert secrets[True] < secrets[False]


def test_the_tuner_halves_where_that_is_cheaper(
    data: tuple[FloatArray, FloatArray], tmp_path: Path
) -> None:
    found = _tune(_model(tmp_path), FIXED, data[0], tmp_path / "cache")
    assert found.options["halved_relus"] is True
    smooth = _tune(_model(tmp_path, "Sigmoid"), FIXED, data[0], tmp_path / "cache")
    assert "halved_relus" not in smooth.options


def test_a_search_repeats_itself(data: tuple[FloatArray, FloatArray], tmp_path: Path) -> None:
    model = _model(tmp_path)
    first = _tune(model, FIXED, data[0], tmp_path / "one")
    assert _tune(model, FIXED, data[0], tmp_path / "two") == first
    Options.of(CircuitPlan(**{**vars(FIXED), "options": first.options}))


def test_a_tolerance_that_none_keeps_is_refused_with_the_closest(
    data: tuple[FloatArray, FloatArray], tmp_path: Path
) -> None:
    with pytest.raises(ModelRejected, match=r"the closest differs by \d.*weights at \d+"):
        _tune(_model(tmp_path), FIXED, data[0], tmp_path / "cache", tolerance=1e-9)
    assert not (tmp_path / "cache").exists()


def test_too_few_rows_are_said(data: tuple[FloatArray, FloatArray], tmp_path: Path) -> None:
    plan = CircuitPlan(
        input_mode=InputMode.COMMITTED, weights_mode=WeightsMode.HASHED, options={"max_logrows": 7}
    )
    with pytest.raises(ModelRejected, match=r"at most 2\^7 rows"):
        _tune(_model(tmp_path), plan, data[0], tmp_path / "cache")


def test_a_cancelled_search_stops_and_leaves_nothing(
    data: tuple[FloatArray, FloatArray], tmp_path: Path
) -> None:
    told: list[str] = []
    with pytest.raises(JobCancelled):
        _tune(
            _model(tmp_path),
            FIXED,
            data[0],
            tmp_path / "cache",
            progress=told.append,
            cancelled=lambda: any("trying" in phrase for phrase in told),
        )
    assert not (tmp_path / "cache").exists()


RECIPE = """
name = "tiny"
description = "A tiny model."
[[inputs]]
name = "x"
shape = [1, 3]
[output]
name = "y"
shape = [1, 2]
tolerance = 0.05
[visibility]
weights = "hashed"
[engine]
name = "ezkl"
tune = true
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Node]:
    """Yield nodes that share nothing."""

    def fresh() -> Iterator[Node]:
        for number in range(10):
            folder = tmp_path / f"node-{number}"
            folder.mkdir()
            node = Node.open(data_dir=folder, database_url=f"sqlite:///{folder}/zkserve.sqlite")
            node.database.upgrade()
            yield node

    return fresh()


def test_a_lock_keeps_the_options_so_that_another_node_does_not_search(
    nodes: Iterator[Node],
    data: tuple[FloatArray, FloatArray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "tiny"
    (folder / "samples").mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE)
    tiny_onnx(folder / "model.onnx", inputs=INPUTS, outputs=OUTPUTS)
    np.savez(folder / "samples/samples.npz", calibration=data[0], held_out=data[1])
    source = publish.SrsSource(development_folder=tmp_path / "srs")

    def published(**more) -> publish.Published:
        return publish.publish(
            next(nodes), recipe.load(folder), source, progress=lambda _: None, **more
        )

    first = published()
    lock = (folder / LOCK_NAME).read_text()
    assert '"logrows"' in lock
    assert '"tuned_for"' in lock

    def searched(*_: object, **__: object) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(tuning, "tune", searched)
    second = published()
    assert second.manifest.rows == first.manifest.rows
    assert (folder / LOCK_NAME).read_text() == lock
    with pytest.raises(AssertionError, match="searched again"):
        published(update_lock=True)
    monkeypatch.undo()
    np.savez(folder / "samples/samples.npz", calibration=data[0][:30], held_out=data[1])
    with pytest.raises(RecipeInvalid, match="holds no options tuned for this model"):
        published()

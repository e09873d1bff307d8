"""What a dry run says before anything is spent, and that it leaves nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from typer.testing import CliRunner

from tests.models import save, tiny_onnx
from zkserve import recipe
from zkserve.cli import app
from zkserve.encoding import canonical_json
from zkserve.engines.base import Limits
from zkserve.engines.native import core
from zkserve.errors import ChildTimeout, ModelRejected, RecipeInvalid
from zkserve.preflight import Report, Way, preflight
from zkserve.recipe import Recipe
from zkserve.types import WeightsMode

pytestmark = pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")

many_children = pytest.mark.prover
"""Slow for its number of children, though no proof is made."""


def look(asked: Recipe, **arguments: object) -> Report:
    return preflight(asked, progress=lambda _: None, **arguments)  # type: ignore[arg-type]


def way(report: Report, engine: str, mode: WeightsMode) -> Way:
    (found,) = (w for w in report.ways if (w.engine, w.weights_mode) == (engine, mode))
    return found


def write_samples(path: Path, elements: int = 4) -> Path:
    rng = np.random.default_rng(5)
    arrays = {name: rng.normal(size=(12, elements)) for name in ("calibration", "held_out")}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_onnx(folder / "tiny.onnx", hidden=64)
    return look(recipe.load(model, samples=write_samples(folder / "samples.npz")))


def test_each_operator_is_named_with_its_place_and_what_every_engine_makes_of_it(tiny: Report):
    named = {operator.name: operator for operator in tiny.operators}
    assert named.keys() == {"Gemm", "Relu"}
    assert named["Gemm"].count == 2
    assert named["Gemm"].engines == {"native": "supported", "ezkl": "supported"}
    assert named["Relu"].nodes == ("h",)


def test_every_way_to_prove_is_priced_and_one_is_chosen(tiny: Report):
    assert (tiny.engine, tiny.fits) == ("native", True)
    assert [(w.engine, w.weights_mode.value, w.chosen) for w in tiny.ways] == [
        ("native", "committed", True),
        ("ezkl", "hashed", False),
        ("ezkl", "fixed", False),
        ("ezkl", "polycommit", False),
    ]
    for found in tiny.ways:
        estimate = found.estimate
        assert estimate is not None
        assert (
            min(
                *(
                    estimate.rows,
                    estimate.prove_cpu_s,
                    estimate.prove_s,
                    estimate.prove_memory_bytes,
                ),
                *(estimate.setup_cpu_s, estimate.proving_key_bytes, estimate.verifying_key_bytes),
                *(estimate.gas, estimate.verifier_bytes, estimate.proof_bytes),
            )
            > 0
        )
        assert estimate.prove_s <= estimate.prove_cpu_s
        # A budget is stated where weights leak, and nowhere else.
        assert (estimate.leak is not None) == found.weights_mode.leaks


def test_a_further_prediction_in_a_proof_costs_less(tiny: Report):
    for found in (
        way(tiny, "native", WeightsMode.COMMITTED),
        way(tiny, "ezkl", WeightsMode.HASHED),
    ):
        assert found.batch is not None
        assert found.estimate is not None
        assert found.batch.prove_cpu_s_per_prediction is not None
        assert found.batch.prove_cpu_s_per_prediction < 0.5 * found.estimate.prove_cpu_s


def test_the_report_is_canonical_json_of_all_it_says(tiny: Report):
    data = json.loads(tiny.to_json())
    assert tiny.to_json() == canonical_json(data)
    assert data["fits"] is True
    assert data["calibration_samples"] == data["held_out_samples"] == 12
    assert data["ways"][2]["estimate"]["leak"].keys() == {"bits_per_proof", "secret_bits", "proofs"}
    assert data["machine"]["cores"] >= 1


@many_children
def test_a_leak_budget_of_no_proof_is_a_problem(tmp_path: Path):
    model = tiny_onnx(tmp_path / "tiny.onnx", hidden=2)
    found = way(look(recipe.load(model, need_samples=False)), "ezkl", WeightsMode.FIXED)
    assert not found.fits
    assert "the leak budget allows none" in " ".join(found.problems)


def test_without_samples_it_says_what_is_unknown(tmp_path: Path):
    report = look(recipe.load(tiny_onnx(tmp_path / "tiny.onnx"), need_samples=False))
    assert (report.calibration_samples, report.held_out_samples) == (0, 0)
    assert "There are no samples" in report.unknown[0]
    assert report.fits


def test_publishing_still_needs_samples(tmp_path: Path):
    with pytest.raises(RecipeInvalid, match="without samples"):
        recipe.load(tiny_onnx(tmp_path / "tiny.onnx"))


def test_what_no_engine_supports_is_named_with_its_node_and_a_remedy(tmp_path: Path):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("x", "y")]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Softmax", ["a"], ["y"], name="last", axis=1),
    ]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:])
    report = look(recipe.load(save(graph, tmp_path / "soft.onnx"), need_samples=False))
    (refused,) = (operator for operator in report.operators if operator.name == "Softmax")
    assert refused.nodes == ("last",)
    assert set(refused.engines.values()) == {"refused"}
    assert "logits" in refused.remedy
    assert (report.engine, report.fits) == ("", False)
    assert "No engine can prove this model" in report.engine_why
    assert all(found.problems and found.estimate is None for found in report.ways)


@many_children
def test_what_ezkl_gets_wrong_in_silence_is_called_so(tmp_path: Path):
    shape = {"x": [1, 1, 4, 4], "y": [1, 1, 8, 8]}
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 2, 2])
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "scales"], ["y"], name="up", mode="linear")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape["x"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape["y"])],
        [scales],
    )
    report = look(recipe.load(save(graph, tmp_path / "up.onnx"), need_samples=False))
    (found,) = report.operators
    assert found.engines["ezkl"] == "silently wrong"
    assert "bilinear" in found.why
    assert not report.fits


def lenet_sized(path: Path) -> Path:
    """Write dense layers of as many weights as LeNet-5 has."""
    return tiny_onnx(path, inputs=400, hidden=150, outputs=10)


@many_children
def test_hashes_of_many_weights_are_said_not_to_fit_instead_of_aborting(tmp_path: Path):
    asked = recipe.load(lenet_sized(tmp_path / "large.onnx"), need_samples=False)
    report = look(replace(asked, engine="ezkl"))
    found = way(report, "ezkl", WeightsMode.HASHED)
    assert found.chosen
    assert not found.fits
    assert found.estimate is not None
    assert found.estimate.k == 22
    assert "2^22 rows" in found.problems[0]
    assert any("GiB of memory" in problem for problem in found.problems)
    assert not report.fits
    assert way(report, "native", WeightsMode.COMMITTED).fits


@many_children
def test_a_verifier_that_no_chain_takes_matters_where_it_is_for_one(tmp_path: Path):
    asked = recipe.load(tiny_onnx(tmp_path / "tiny.onnx", hidden=64), need_samples=False)
    asked = replace(asked, engine="ezkl", options={"inner_cols": 6, "decomp_base": 64})
    for on_chain in (False, True):
        found = way(look(asked, on_chain=on_chain), "ezkl", WeightsMode.HASHED)
        said = found.problems if on_chain else found.warnings
        assert any("EIP-170" in line for line in said)
        assert found.fits is not on_chain


@many_children
def test_what_is_no_model_and_what_asks_for_too_much_are_refused(tmp_path: Path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(ModelRejected):
        look(recipe.load(broken, need_samples=False))
    samples = write_samples(tmp_path / "samples.npz", elements=7)
    model = tiny_onnx(tmp_path / "tiny.onnx")
    report = look(recipe.load(model, samples=samples))
    assert not report.fits
    assert all("(samples, 4)" in found.problems[0] for found in report.ways)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("ZKSERVE_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("ZKSERVE_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.chdir(folder)
    return folder


def test_a_dry_run_leaves_nothing_behind(home: Path, tmp_path: Path):
    model = tiny_onnx(tmp_path / "tiny.onnx")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = CliRunner().invoke(app, ["publish", str(model), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["engine"] == "native"
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@many_children
def test_a_dry_run_shows_people_a_table_and_fails_where_publishing_would(
    home: Path, tmp_path: Path
):
    del home
    good = CliRunner().invoke(app, ["publish", str(tiny_onnx(tmp_path / "a.onnx")), "--dry-run"])
    assert good.exit_code == 0
    for word in ("would publish", "Gemm", "gas to verify", "polycommit", "EIP-170"):
        assert word in good.stdout
    model = onnx.load(tmp_path / "a.onnx")
    model.graph.node[1].op_type = "Softplus"
    onnx.save(model, tmp_path / "b.onnx")
    bad = CliRunner().invoke(app, ["publish", str(tmp_path / "b.onnx"), "--dry-run"])
    assert bad.exit_code == 1
    assert "Softplus" in bad.stdout
    assert "would not publish" in bad.stdout


def test_limits_bound_each_child(tmp_path: Path):
    asked = recipe.load(tiny_onnx(tmp_path / "tiny.onnx"), need_samples=False)
    with pytest.raises(ChildTimeout):
        look(asked, limits=Limits(time_s=0.01))

"""What preflight says before anything is spent, and that it leaves nothing behind."""

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
from zkserve import lock, recipe
from zkserve import preflight as preflights
from zkserve.cli import app
from zkserve.cli.preflight import show
from zkserve.encoding import canonical_json
from zkserve.engines.base import Limits
from zkserve.engines.child import Child
from zkserve.engines.choice import choose
from zkserve.engines.cost import Estimate
from zkserve.engines.native import core
from zkserve.errors import ChildTimeout, JobCancelled, ModelRejected, RecipeInvalid
from zkserve.preflight import preflight
from zkserve.recipe import Recipe
from zkserve.report import Report, Way
from zkserve.samples import read
from zkserve.types import WeightsMode

pytestmark = pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")

PUBLISH = "zkserve publish folder"
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
    assert not any(found.warnings for found in report.ways)  # what cannot be leaks nothing


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


def test_it_leaves_nothing_behind(home: Path, tmp_path: Path):
    model = tiny_onnx(tmp_path / "tiny.onnx")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = CliRunner().invoke(app, ["publish", str(model), "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["engine"] == "native"
    assert list(home.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@many_children
def test_people_are_shown_a_table_and_it_fails_where_publishing_would(home: Path, tmp_path: Path):
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


TUNED = """
name = "tiny"
description = "A tiny model."
samples = "samples.npz"
[[inputs]]
name = "x"
shape = [1, 4]
[output]
name = "y"
shape = [1, 2]
tolerance = 0.1
[visibility]
weights = "hashed"
[engine]
name = "ezkl"
"""


def tuned_recipe(folder: Path, more: str = "tune = true") -> Recipe:
    (folder / "recipe.toml").write_text(TUNED + more)
    tiny_onnx(folder / "model.onnx", inputs=4, hidden=4, outputs=2)
    write_samples(folder / "samples.npz")
    return recipe.load(folder)


def write_lock(asked: Recipe, options: dict[str, int], **changed: object) -> None:
    assert asked.samples_path is not None
    samples = read(asked.samples_path, elements=4, classes=None)
    digest = lock.tuning_digest(asked, asked.source, samples.calibration)
    fields = lock.foretold(replace(asked, options=options)) | {"tuned_for": digest, "rows": 1}
    (asked.folder / lock.LOCK_NAME).write_text(json.dumps(fields | changed))


def chosen(report: Report) -> Way:
    (found,) = (w for w in report.ways if w.chosen)
    return found


FOUND = {"scale": 9, "input_scale": 9, "decomp_base": 256, "decomp_legs": 4}


def pinned(asked: Recipe, *, update_lock: bool = False) -> preflights._Pinned:
    """Return what preflight makes of a lock, without its children."""
    assert asked.samples_path is not None
    rows = asked.folder / "rows.npy"
    np.save(rows, read(asked.samples_path, elements=4, classes=None).calibration)
    return preflights._pinned(asked, asked.engine or "native", asked.source, rows, update_lock)


def test_a_lock_of_another_model_is_a_problem_of_the_chosen_way_alone(tmp_path: Path):
    asked = tuned_recipe(tmp_path)
    write_lock(asked, FOUND, tuned_for="0" * 64)
    report = look(asked)
    assert not report.fits
    (problem,) = chosen(report).problems
    assert "holds no options tuned for this model" in problem
    assert "--update-lock" in problem
    assert way(report, "native", WeightsMode.COMMITTED).fits
    assert not any("tuned" in line for w in report.ways if not w.chosen for line in w.problems)


def test_the_options_of_a_lock_that_fits_are_those_that_are_priced(tmp_path: Path):
    asked = tuned_recipe(tmp_path)
    write_lock(asked, FOUND)
    assert pinned(asked) == preflights._Pinned(options=FOUND)
    # An option that tuning does not decide is never taken from a lock: it pins another circuit.
    write_lock(asked, FOUND | {"batch": 2})
    (problem,) = pinned(asked).problems
    assert "pins other values of options" in problem


def test_tuning_is_refused_where_publishing_refuses_it(tmp_path: Path):
    asked = tuned_recipe(tmp_path)
    (problem,) = pinned(replace(asked, engine="native", weights_mode=None)).problems
    assert "the engine native needs none of" in problem
    (problem,) = pinned(replace(asked, options={"scale": 7})).problems
    assert "states scale, which tuning decides" in problem


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"options": 3}'])
@pytest.mark.parametrize("more", ["", "tune = true"])
def test_a_damaged_lock_is_a_problem(tmp_path: Path, text: str, more: str):
    asked = tuned_recipe(tmp_path, more)
    (tmp_path / lock.LOCK_NAME).write_text(text)
    (problem,) = pinned(asked).problems
    assert "is damaged" in problem
    assert pinned(asked, update_lock=True).problems == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine", "native"),
        ("engine_version", "0"),
        ("options", {"scale": 3}),
        ("input_mode", "public"),
        ("weights_mode", "fixed"),
    ],
)
def test_a_lock_that_pins_another_circuit_is_a_problem_unless_written_anew(
    tmp_path: Path, name: str, value: object
):
    asked = tuned_recipe(tmp_path, "")
    fields = lock.foretold(asked)
    (tmp_path / lock.LOCK_NAME).write_text(json.dumps(fields))
    assert pinned(asked) == preflights._Pinned()
    (tmp_path / lock.LOCK_NAME).write_text(json.dumps(fields | {name: value}))
    (problem,) = pinned(asked).problems
    assert f"pins other values of {name} than" in problem
    assert pinned(asked, update_lock=True).problems == ()


def test_without_a_lock_a_search_is_announced(tmp_path: Path):
    asked = tuned_recipe(tmp_path)
    assert "will search" in pinned(asked).warnings[0]
    write_lock(asked, FOUND)
    assert "will search" in pinned(asked, update_lock=True).warnings[0]


def test_every_way_of_ezkl_says_that_counts_of_digits_leak(tiny: Report):
    for found in tiny.ways:
        said = any("how often digits occur" in line for line in found.warnings)
        assert said == (found.engine == "ezkl")


def test_people_are_told_once_what_several_ways_share(
    tiny: Report, capsys: pytest.CaptureFixture[str]
):
    show(tiny, PUBLISH)
    text = capsys.readouterr().out
    assert text.count("how often digits occur") == 1
    assert "! ezkl, every mode:" in text
    assert "no limit" not in text
    assert "not counted" in text


def test_a_model_that_no_engine_takes_has_no_figures(
    tiny: Report, capsys: pytest.CaptureFixture[str]
):
    ways = tuple(
        replace(w, estimate=None, batch=None, fits=False, problems=("Not so.",), warnings=())
        for w in tiny.ways
    )
    show(replace(tiny, ways=ways, fits=False), PUBLISH)
    text = capsys.readouterr().out
    assert "✗ every engine: Not so." in text
    assert text.count("Not so.") == 1
    for word in ("EIP-170", "gas to verify"):
        assert word not in text


@pytest.mark.parametrize(("content", "said"), [("empty", "is empty"), ("no nodes", "no nodes")])
def test_a_file_that_computes_nothing_is_refused_in_one_sentence(
    tmp_path: Path, content: str, said: str
):
    path = tmp_path / "nothing.onnx"
    model = onnx.load(tiny_onnx(path))
    model.graph.ClearField("node")
    path.write_bytes(b"" if content == "empty" else model.SerializeToString())
    with pytest.raises(ModelRejected, match=said) as refused:
        look(recipe.load(path, need_samples=False))
    assert "xport it again" in str(refused.value.remedy)


def test_what_all_engines_refuse_alike_is_said_once():
    with pytest.raises(ModelRejected) as refused:
        choose([("native", ("No nodes.",)), ("ezkl", ("No nodes.", "And no inputs."))])
    assert refused.value.message == "No engine can prove this model: No nodes."
    with pytest.raises(ModelRejected, match=r"native: No nodes\. ezkl: No inputs\."):
        choose([("native", ("No nodes.",)), ("ezkl", ("No inputs.",))])


def test_help_names_the_folder_of_a_recipe():
    for command in ("publish", "rekey"):
        text = CliRunner().invoke(app, [command, "--help"]).output
        assert "circuits/NAME" in text
        assert "circuits//" not in text


def test_time_is_bounded(tmp_path: Path):
    asked = recipe.load(tiny_onnx(tmp_path / "tiny.onnx"), need_samples=False)
    with pytest.raises(ChildTimeout, match=r"all of the 0\.01 s"):
        look(asked, limits=Limits(time_s=0.01))


class Clock:
    """Stands in for the module of that name: each child that is asked for takes ten seconds."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        self.now_s += 10.0
        return self.now_s


@pytest.fixture
def asked(tmp_path: Path) -> Recipe:
    return recipe.load(tiny_onnx(tmp_path / "tiny.onnx"), need_samples=False)


def test_the_time_is_that_of_all_children_together(asked: Recipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflights, "time", Clock())
    # The survey, two checks and one way; the clock was asked once before.
    report = look(asked, limits=Limits(time_s=45.0))
    assert report.engine == "native"
    first, *others = report.ways
    assert first.fits
    assert first.batch is not None
    assert "Preflight took all of the 45 s" in first.batch.reason
    assert len(others) == 3
    for other in others:
        assert not other.fits
        assert other.estimate is None
        assert "Preflight took all of the 45 s" in other.problems[0]


def test_a_recipe_with_little_time_for_proofs_is_still_looked_at(
    asked: Recipe, monkeypatch: pytest.MonkeyPatch
):
    given: list[float] = []

    def child(target: str, *, limits: Limits, **_: object) -> object:
        given.append(limits.time_s)
        raise ModelRejected("Seen enough.")

    monkeypatch.setattr(preflights, "run_child", child)
    with pytest.raises(ModelRejected, match="Seen enough"):
        look(replace(asked, time_s=0.01))
    assert given[0] > 60


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4])
def test_it_stops_at_once_when_told_to(
    asked: Recipe, home: Path, monkeypatch: pytest.MonkeyPatch, after: int
):
    """Whichever child is at work: the survey, the checks, an estimate, one of a batch."""
    begun: list[Child] = []
    start = Child.__init__

    def counted(self: Child, **arguments: object) -> None:
        begun.append(self)
        start(self, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Child, "__init__", counted)
    with pytest.raises(JobCancelled):
        look(asked, cancelled=lambda: len(begun) > after)
    assert len(begun) == after + 1
    assert not any(child.alive for child in begun)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine": "halo3"}, "no engine 'halo3'"),
        ({"engine": "native", "weights_mode": WeightsMode.HASHED}, "no weights mode 'hashed'"),
        ({"weights_mode": WeightsMode.HASHED}, "native has no weights mode 'hashed'"),
        ({"engine": "ezkl", "weights_mode": WeightsMode.COMMITTED}, "ezkl has no weights mode"),
    ],
)
def test_a_way_that_no_engine_has_is_refused_not_passed_over(
    asked: Recipe, changed: dict[str, object], said: str
):
    with pytest.raises(RecipeInvalid, match=said) as refused:
        look(replace(asked, **changed))  # type: ignore[arg-type]
    assert "Use one of: " in str(refused.value.remedy)


def shown(report: Report, capsys: pytest.CaptureFixture[str]) -> str:
    show(report, PUBLISH)
    return capsys.readouterr().out


def test_people_are_told_what_to_do_next(tiny: Report, capsys: pytest.CaptureFixture[str]):
    assert f"→ Publish it: {PUBLISH}\n" in shown(tiny, capsys)
    unsampled = replace(tiny, calibration_samples=0)
    assert f"→ Publishing needs samples: {PUBLISH} --samples FILE" in shown(unsampled, capsys)
    first, *others = tiny.ways
    one = replace(tiny, fits=False, ways=(replace(first, fits=False, problems=("No.",)), *others))
    text = shown(one, capsys)
    assert 'name = "ezkl" under [engine] and weights = "hashed"' in text
    assert 'name = "native"' not in text
    ways = tuple(replace(way, fits=False) for way in tiny.ways)
    text = shown(replace(tiny, fits=False, ways=ways), capsys)
    assert "→ Mend what ✗ names" in text
    assert f"look again: {PUBLISH} --dry-run\n" in text


def test_what_keeps_a_batch_from_being_made_is_shown_and_it_has_no_price(
    tiny: Report, capsys: pytest.CaptureFixture[str]
):
    first, *others = tiny.ways
    assert first.batch is not None
    price = f"{first.batch.gas_per_prediction:,}"
    assert price in shown(tiny, capsys)
    refused = replace(first, batch=replace(first.batch, reason="Too large."))
    text = shown(replace(tiny, ways=(refused, *others)), capsys)
    assert "native, committed, 8 predictions in one proof: Too large." in text
    assert price not in text


@pytest.mark.parametrize("on_chain", [False, True])
def test_a_batch_whose_verifier_no_chain_takes_is_said(
    asked: Recipe, tiny: Report, monkeypatch: pytest.MonkeyPatch, on_chain: bool
):
    one = tiny.ways[0].estimate
    assert one is not None

    def estimate(_: object, name: str, mode: object, more: dict[str, int]) -> Estimate:
        return replace(one, verifier_bytes=30_000) if more else one

    monkeypatch.setattr(preflights._Look, "_estimate", estimate)
    (found,) = (way for way in look(asked, on_chain=on_chain).ways if way.chosen)
    assert found.fits
    assert found.batch is not None
    said = (found.batch.reason,) if on_chain else found.warnings
    assert any("about 30,000 bytes of code" in line for line in said)
    assert bool(found.batch.reason) == on_chain


def test_sizes_have_units_and_the_verifier_its_share(
    tiny: Report, capsys: pytest.CaptureFixture[str]
):
    estimate = tiny.ways[0].estimate
    assert estimate is not None
    figures = replace(
        estimate, prove_memory_bytes=5 << 29, proof_bytes=900, verifier_bytes=30_720, prove_s=0.25
    )
    text = shown(replace(tiny, ways=(replace(tiny.ways[0], estimate=figures),)), capsys)
    for cell in ("2.5 GiB", " 900 B ", "30,720 B", " 125% ", "0.250 s"):
        assert cell in text


def test_no_name_is_cut_off(tiny: Report, capsys: pytest.CaptureFixture[str]):
    long = replace(tiny.operators[0], nodes=("n" * 120,), count=1)
    text = shown(replace(tiny, operators=(long,)), capsys)
    assert "…" not in text
    assert sum(line.count("n") for line in text.splitlines() if "nnnn" in line) >= 120

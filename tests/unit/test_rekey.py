"""Rekeying hides the same weights or takes other ones; a new key of the same weights is no use."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any

import numpy as np
import pytest

from tests import fakes
from tests.models import tiny_onnx
from zkserve import budgets, publish, register, rekey
from zkserve.encoding import identified, sha256_file, sha256_hex
from zkserve.engines.weights import digests
from zkserve.errors import ChainError, Conflict, ModelRejected, NotFound
from zkserve.node import Node
from zkserve.receipt import manifest_to_dict
from zkserve.recipe import Recipe
from zkserve.store import jobs, versions
from zkserve.types import LeakBudget, WeightsMode

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
BUDGET = LeakBudget(bits_per_proof=3302, secret_bits=16_000, proofs=1)


class Publisher:
    """Adds versions as publishing does, but builds nothing; refuses the engines it is told to."""

    def __init__(self, refused: set[str] | None = None) -> None:
        self.refused = refused or set()
        self.asked: list[tuple[Recipe, dict[str, Any]]] = []

    def __call__(self, node: Node, recipe: Recipe, *_: object, **options: Any) -> publish.Published:
        self.asked.append((recipe, options))
        if recipe.engine in self.refused:
            raise ModelRejected(f"{recipe.engine} cannot.")
        onnx = sha256_file(recipe.source)
        publication = sha256_hex(f"{onnx} {recipe.engine} {recipe.weights_mode}".encode())
        with node.database.session() as session:
            row = versions.by_publication(session, publication)
            if repeated := row is not None:
                manifest = publish.manifest_from_dict(row.manifest)
            else:
                mode = recipe.weights_mode or WeightsMode.HASHED
                manifest = identified(
                    replace(
                        fakes.manifest(node, publication, leak=BUDGET if mode.leaks else None),
                        engine=recipe.engine or "native",
                        weights_mode=mode,
                    )
                )
                row = versions.add(
                    session,
                    name=recipe.name,
                    description="",
                    circuit_id=manifest.circuit_id,
                    publication=publication,
                    onnx_sha256=onnx,
                    manifest=manifest_to_dict(manifest),
                    weights_digests=digests(str(recipe.source)) if mode.leaks else [],
                )
            return publish.Published(
                model=recipe.name,
                number=row.number,
                manifest=manifest,
                repeated=repeated,
                engine_why="asked",
                deprecated=row.deprecated_at is not None,
            )


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    model = tiny_onnx(tmp_path / "leaking.onnx", hidden=16)
    np.savez(tmp_path / "s.npz", calibration=np.zeros((1, 4)), held_out=np.zeros((1, 4)))
    return Recipe(
        name="leaking",
        description="leaks",
        source=model,
        samples_path=tmp_path / "s.npz",
        engine="ezkl",
        weights_mode=WeightsMode.FIXED,
        options=MappingProxyType({"decomp_base": 128, "decomp_legs": 4, "leak_fraction": 0.5}),
    )


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Publisher:
    made = Publisher()
    monkeypatch.setattr(publish, "publish", made)
    monkeypatch.setattr(budgets, "weights_digests", lambda onnx: digests(str(onnx)))
    return made


@pytest.fixture
def leaking(node: Node, recipe: Recipe, publisher: Publisher) -> publish.Published:
    """Version 1 of the model, whose weights leak."""
    made = publisher(node, recipe)
    publisher.asked.clear()
    return made


def run(node: Node, recipe: Recipe, **options: Any) -> rekey.Rekeyed:
    source = publish.SrsSource(development_folder=node.artifacts.folder)
    return rekey.rekey(node, recipe, source, progress=lambda _: None, **options)


def retrain(recipe: Recipe, seed: int = 1) -> Recipe:
    tiny_onnx(recipe.source, hidden=16, seed=seed)
    return recipe


def state(node: Node) -> list[tuple[str, int, str, bool, int | None]]:
    """Return all versions: model, number, weights mode, whether deprecated, what replaced it."""
    with node.database.snapshot() as session:
        return [
            (
                model.name,
                row.number,
                row.manifest["weights_mode"],
                row.deprecated_at is not None,
                row.replaced_by,
            )
            for model, row in reversed(versions.listing(session))
        ]


@pytest.mark.usefixtures("leaking")
def test_the_same_weights_are_hidden_by_the_native_engine(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    made = run(node, recipe)
    ((asked, options),) = publisher.asked
    assert (asked.engine, asked.weights_mode) == ("native", WeightsMode.COMMITTED)
    assert dict(asked.options) == {}
    assert options["locked"] is False, "the lock is of the circuit that leaks"
    assert made.replaced == (1,)
    assert "hides the weights" in made.why
    assert made.caveat is None
    assert state(node) == [
        ("leaking", 1, "fixed", True, 2),
        ("leaking", 2, "committed", False, None),
    ]


@pytest.mark.usefixtures("leaking")
def test_what_native_cannot_prove_is_hashed(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    publisher.refused = {"native"}
    run(node, recipe)
    asked, _ = publisher.asked[1]
    assert (asked.engine, asked.weights_mode) == ("ezkl", WeightsMode.HASHED)
    assert dict(asked.options) == {"decomp_base": 128, "decomp_legs": 4}


@pytest.mark.usefixtures("leaking")
def test_what_nothing_hides_needs_other_weights_and_stays_in_use(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    publisher.refused = {"native", "ezkl"}
    with pytest.raises(ModelRejected, match=r"native: native cannot\. ezkl: ezkl") as refused:
        run(node, recipe)
    assert "leaking version 1" in refused.value.message
    assert "Retrain" in str(refused.value.remedy)
    assert state(node) == [("leaking", 1, "fixed", False, None)]


@pytest.mark.usefixtures("leaking")
def test_retrained_weights_are_published_as_the_recipe_says(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    made = run(node, retrain(recipe))
    ((asked, options),) = publisher.asked
    assert asked == recipe
    assert options["renew_lock"] is True, "the lock is that of the weights before"
    assert "other ones" in made.why
    assert "fine-tuned" in str(made.caveat)
    assert state(node) == [("leaking", 1, "fixed", True, 2), ("leaking", 2, "fixed", False, None)]


def test_weights_that_cannot_be_told_apart_count_as_the_same(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    fakes.publish(node, "leaking", leak=BUDGET)
    run(node, retrain(recipe))
    assert publisher.asked[0][0].engine == "native"


@pytest.mark.parametrize("whose", ["its own, deprecated", "another model's", "both"])
def test_weights_that_leaked_anywhere_are_not_other_ones(
    node: Node, recipe: Recipe, publisher: Publisher, whose: str
) -> None:
    if whose != "another model's":
        publisher(node, recipe)
        register.deprecate(node, None, "leaking", 1)
    if whose != "its own, deprecated":
        publisher(node, replace(recipe, name="other", weights_mode=WeightsMode.POLYCOMMIT))
    retrained = replace(recipe, source=tiny_onnx(recipe.folder / "b.onnx", hidden=16, seed=1))
    number = publisher(node, retrained).number
    made = run(node, recipe)
    assert made.published.manifest.weights_mode is WeightsMode.COMMITTED
    assert made.replaced == (number,)


def test_there_is_nothing_to_rekey_where_nothing_leaks(
    node: Node, recipe: Recipe, leaking: publish.Published, publisher: Publisher
) -> None:
    register.deprecate(node, None, "leaking", leaking.number)
    with pytest.raises(Conflict, match="reveals"):
        run(node, recipe)
    assert publisher.asked == []


def test_a_model_that_was_never_published_is_not_said_to_hide_its_weights(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    fakes.publish(node, "other", leak=BUDGET)
    with pytest.raises(NotFound, match="No version of a model 'leaking' was published"):
        run(node, recipe)
    assert publisher.asked == []


@pytest.mark.parametrize("retrained", [False, True])
@pytest.mark.usefixtures("leaking")
def test_versions_are_kept_where_that_is_asked_for(
    node: Node, recipe: Recipe, retrained: bool
) -> None:
    asked = retrain(recipe) if retrained else recipe
    for _ in range(2):
        assert run(node, asked, keep=True).replaced == ()
        assert [row[1:] for row in state(node)] == [
            (1, "fixed", False, None),
            (2, "fixed" if retrained else "committed", False, None),
        ]
    assert run(node, asked).replaced == (1,)
    assert len(state(node)) == 2


@pytest.mark.usefixtures("leaking")
def test_a_spent_version_of_other_weights_is_hidden_in_turn(node: Node, recipe: Recipe) -> None:
    number = run(node, retrain(recipe)).published.number
    assert run(node, recipe).published.number == number, "its budget is whole"
    with node.database.session() as session:
        _, row = versions.find(session, "leaking", number)
        job = jobs.add(session, version_id=row.id, tenant="acme")
        job.proof = "ab" * 32
    made = run(node, recipe)
    assert made.published.manifest.weights_mode is WeightsMode.COMMITTED
    assert [row[1:] for row in state(node)] == [
        (1, "fixed", True, 2),
        (2, "fixed", True, 3),
        (3, "committed", False, None),
    ]


def test_weights_of_before_do_not_displace_those_after(
    node: Node, recipe: Recipe, leaking: publish.Published, publisher: Publisher
) -> None:
    after = replace(recipe, source=tiny_onnx(recipe.folder / "b.onnx", hidden=16, seed=1))
    publisher(node, after)
    made = run(node, recipe)
    assert made.published.manifest.weights_mode is WeightsMode.COMMITTED
    assert made.replaced == (leaking.number, 2)


def test_what_hides_them_and_was_deprecated_is_offered_again(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    publisher(node, replace(recipe, engine="native", weights_mode=WeightsMode.COMMITTED))
    register.deprecate(node, None, "leaking", 1)
    publisher(node, recipe)
    made = run(node, recipe)
    assert (made.published.number, made.published.deprecated, made.replaced) == (1, False, (2,))
    assert [row[1:] for row in state(node)] == [
        (1, "committed", False, None),
        (2, "fixed", True, 1),
    ]


def test_what_was_deprecated_on_chain_is_passed_over_and_a_version_stays_in_use(
    node: Node, recipe: Recipe, publisher: Publisher
) -> None:
    publisher(node, replace(recipe, engine="native", weights_mode=WeightsMode.COMMITTED))
    register.deprecate(node, None, "leaking", 1)
    with node.database.session() as session:
        _, row = versions.find(session, "leaking", 1)
        row.chain_id, row.chain_version_id = 1, "0x" + "01" * 32
    publisher(node, recipe)
    publisher.refused = {"ezkl"} - {recipe.engine or ""}
    made = run(node, recipe)
    assert made.published.manifest.weights_mode is WeightsMode.HASHED
    assert [row[3] for row in state(node)] == [True, True, False]


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.usefixtures("leaking")
def test_a_version_on_a_chain_that_is_not_given_is_named_before_anything_is_made(
    node: Node, recipe: Recipe, publisher: Publisher, keep: bool
) -> None:
    with node.database.session() as session:
        _, row = versions.find(session, "leaking", 1)
        row.chain_id, row.chain_version_id = 1, "0x" + "01" * 32
    if keep:
        run(node, recipe, keep=True)
        return
    with pytest.raises(ChainError, match="registered"):
        run(node, recipe)
    assert publisher.asked == []


WRITING = {
    called.__code__
    for called in (
        rekey.rekey,
        rekey._publish,
        rekey._in_use,
        Publisher.__call__,
        register.deprecate,
        register.restore,
    )
}


def steps(kill_at: int | None, call: Callable[[], object]) -> int:
    """Call in a process of its own that kills itself at a line; return the status it ended with.

    Lines are those of what writes, or calls what does, counted as they are run.
    """
    count = 0

    def line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        if frame.f_code in WRITING and event == "line":
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    child = os.fork()
    if not child:
        sys.settrace(line)
        status = 1
        try:
            call()
            status = 0
        finally:
            sys.settrace(None)
            os._exit(status)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("case", ["hidden", "retrained", "given back"])
def test_killed_at_any_line_and_run_again_it_ends_as_in_one_run(
    node: Node,
    recipe: Recipe,
    publisher: Publisher,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    case: str,
) -> None:
    hidden = replace(recipe, engine="native", weights_mode=WeightsMode.COMMITTED)
    if case == "given back":
        publisher(node, hidden)
        register.deprecate(node, None, "leaking", 1)
    publisher(node, recipe)
    publisher(node, replace(recipe, weights_mode=WeightsMode.POLYCOMMIT))
    if case == "retrained":
        retrain(recipe)
    known = digests(str(recipe.source))
    monkeypatch.setattr(budgets, "weights_digests", lambda _: known)  # forks need no parsing
    node.database.close()
    before = tmp_path / "before.db"
    shutil.copy(tmp_path / "zkserve.db", before)

    def fresh(name: str) -> Node:
        shutil.copy(before, tmp_path / f"{name}.db")
        url = f"sqlite:///{tmp_path / name}.db"
        return Node.open(data_dir=tmp_path / "data", database_url=url)

    def start(name: str) -> None:
        run(Node.open(data_dir=tmp_path / "data", database_url=f"sqlite:///{name}"), recipe)

    clean = fresh("clean")
    expected = run(clean, recipe)
    end = state(clean)
    clean.database.close()
    assert sum(not row[3] for row in end) == 1
    assert len(expected.replaced) == 2
    seen: set[str] = set()
    for kill_at in range(1, 2000):
        cut = fresh("cut")
        cut.database.close()
        ended = steps(kill_at, lambda: start(str(tmp_path / "cut.db")))
        assert ended in (0, signal.SIGKILL), kill_at
        again = Node.open(
            data_dir=tmp_path / "data", database_url=f"sqlite:///{tmp_path / 'cut.db'}"
        )
        if (left := str(state(again))) not in seen:  # what follows hangs on the tables alone
            seen.add(left)
            made = run(again, recipe)
            assert state(again) == end, left
            assert made.replaced == expected.replaced
            assert (made.why, made.caveat) == (expected.why, expected.caveat)
        again.database.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{tmp_path / 'cut.db'}{suffix}").unlink(missing_ok=True)
        if ended == 0:
            break
    else:
        pytest.fail("it never ended")
    assert len(seen) == 4, "nothing done; published or restored; one deprecated; both"

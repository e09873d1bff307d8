"""Weights are extracted from public proofs where their columns are unblinded, and only there.

The attacker's code is :mod:`tests.extraction`; the page about it is docs/weights-leak.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests import extraction
from tests.extraction import Inconsistent, Rehearsal, Seen, Verifier
from tests.extraction_proofs import Shape, in_child, prove, rehearse, set_up
from tests.prover.conftest import LIMITS, Proven, Publish
from zkserve.engines.base import FloatArray, Prediction
from zkserve.engines.ezkl import EzklEngine
from zkserve.engines.ezkl.claims import to_instances
from zkserve.types import InputMode, WeightsMode

pytestmark = pytest.mark.prover

SCORER = Shape(inputs=4, outputs=2)
WEIGHTS = [5, -7, 5, 0, 16, -30, -28, -7, 21, 5]
"""In sixteenths. Some are equal, one is zero, one is a constant of each such circuit."""
DISTINCT = [9, -7, 5, -12, 23, -30, -28, -3, 21, 2]
OWN = [-31, -29, -27, -25, -23, 22, 19, 17, 13, 11]
"""The attacker's, all different, in their circuit of the same architecture."""
UNIT = Shape(inputs=2, outputs=1, relu=True)
UNIT_WEIGHTS = [9, -14, -29]
UNIT_OWN = [3, 7, -23]
TINY = Shape(inputs=1, outputs=1)
"""Its circuits have 128 rows: few enough to suppose nothing of any cell."""
TINY_WEIGHTS = [9, -14]


def inputs(count: int, shape: Shape, seed: int = 5) -> list[list[float]]:
    return np.random.default_rng(seed).uniform(-1, 1, size=(count, shape.inputs)).tolist()


def source(folder: Path) -> Verifier:
    return Verifier.of((folder / "Verifier.sol").read_text())


def watch(folder: Path, values: list[list[float]]) -> list[Seen]:
    """Have the owner prove, and return what the public sees of it."""
    verifier = source(folder)
    return [verifier.see(proof, instances) for proof, instances in in_child(prove, folder, values)]


def rehearsed(folder: Path, owner: Path, shape: Shape, weights: list[int]) -> Rehearsal:
    in_child(rehearse, folder, owner, shape, weights)
    key = (folder / "pk.key").read_bytes()
    return Rehearsal.of(key, (folder / "vk.key").stat().st_size, weights)


def settings(folder: Path) -> dict[str, Any]:
    """Return a circuit's settings, which are public."""
    return json.loads((folder / "settings.json").read_text())


def test_fixed_weights_come_back_exactly(tmp_path: Path) -> None:
    """Linear algebra alone: as many proofs as a column has cells that may depend on the weights."""
    owner = tmp_path / "owner"
    in_child(set_up, owner, "fixed", SCORER, WEIGHTS)
    verifier = source(owner)
    rehearsal = rehearsed(tmp_path / "own", owner, SCORER, OWN)
    seen = watch(owner, inputs(extraction.proofs_needed(verifier, rehearsal), SCORER))

    assert extraction.fixed_weights(verifier, rehearsal, seen) == WEIGHTS

    with pytest.raises(Inconsistent):
        extraction.fixed_weights(verifier, rehearsal, seen[: len(seen) // 2])
    slot, _ = verifier.columns[verifier.constants[0]]
    values = list(seen[0].values)
    values[slot] += 1
    seen[0] = replace(seen[0], values=tuple(values))
    with pytest.raises(Inconsistent):
        extraction.fixed_weights(verifier, rehearsal, seen)


def test_one_proof_gives_a_tiny_models_fixed_weights(tmp_path: Path) -> None:
    """Small unknowns need fewer equations than there are of them: each is worth 254 bits.

    Here all weights differ, as the number of constants shows, so each has a cell of its own.
    """
    owner = tmp_path / "owner"
    in_child(set_up, owner, "fixed", SCORER, DISTINCT)
    rehearsal = rehearsed(tmp_path / "own", owner, SCORER, OWN)
    assert settings(owner)["total_const_size"] == len(rehearsal.used)
    (seen,) = watch(owner, inputs(1, SCORER))
    assert extraction.fixed_from_few(source(owner), rehearsal, [seen], size=32) == DISTINCT


def test_one_proof_gives_a_tiny_models_committed_weights(tmp_path: Path) -> None:
    in_child(set_up, tmp_path, "polycommit", SCORER, WEIGHTS)
    (seen,) = watch(tmp_path, inputs(1, SCORER))
    found = extraction.committed_from_few(source(tmp_path), [seen], SCORER.weights, size=32)
    assert found == WEIGHTS


def test_polycommit_weights_come_back_exactly(tmp_path: Path) -> None:
    in_child(set_up, tmp_path, "polycommit", SCORER, WEIGHTS)
    seen = watch(tmp_path, inputs(SCORER.weights + 2, SCORER))
    assert extraction.committed_weights(source(tmp_path), seen, SCORER.weights) == WEIGHTS


@pytest.mark.parametrize("mode", ["polycommit", "hashed"])
def test_the_attack_fails_on_what_is_blinded(tmp_path: Path, mode: str) -> None:
    """One input, over and over: all that differs between two proofs is what blinds them.

    An evaluation without blinding is of the same polynomial each time, and more of them than a
    circuit has rows still fit one. Blinded ones do not: the linear system has no solution, whatever
    the attacker supposes of any cell, and the lattice attack finds nothing that is small.

    In mode hashed all that is unblinded is the same whatever the weights: circuits of other weights
    have the same verifying key, byte by byte. The same in mode polycommit, but for the one column.
    """
    owner = tmp_path / "owner"
    in_child(set_up, owner, mode, TINY, TINY_WEIGHTS)
    in_child(rehearse, tmp_path / "own", owner, TINY, [12, -6])
    assert (owner / "vk.key").read_bytes() == (tmp_path / "own" / "vk.key").read_bytes()
    verifier = source(owner)
    proofs = in_child(prove, owner, inputs(1, TINY) * (verifier.rows + 3))
    assert len({tuple(instances) for _, instances in proofs}) == 1
    seen = [verifier.see(*proof) for proof in proofs]

    weights = {verifier.columns[column][0] for column in verifier.committed}
    assert bool(weights) == (mode == "polycommit")
    sigmas = {sigma for _, sigma in verifier.columns}
    same = extraction.unblinded(verifier, seen)
    assert {slot for slot, found in enumerate(same) if found} == (
        set(verifier.fixed) | sigmas | weights | set(verifier.multiplicities)
    )
    commitments = zip(*(verifier.commitments(proof) for proof, _ in proofs), strict=True)
    assert sum(len(set(column)) == 1 for column in commitments) == len(weights)

    for slot in (slot for slot, found in enumerate(same) if not found):
        for one in seen[:5]:
            guess = extraction.few_proofs(verifier, [one], slot, range(TINY.weights), {}, size=32)
            assert guess is None or max(map(abs, guess)) > 1 << 30, slot


def test_other_circuits_proofs_are_not_mistaken(tmp_path: Path) -> None:
    """The attack notices what it is not made for, so that its success means something."""
    in_child(set_up, tmp_path / "a", "polycommit", SCORER, WEIGHTS)
    in_child(rehearse, tmp_path / "b", tmp_path / "a", SCORER, DISTINCT)
    verifier = source(tmp_path / "a")
    seen = watch(tmp_path / "a", inputs(9, SCORER)) + watch(tmp_path / "b", inputs(3, SCORER))
    with pytest.raises(Inconsistent):
        extraction.committed_weights(verifier, seen, SCORER.weights)
    (other,) = watch(tmp_path / "b", inputs(1, SCORER))
    assert extraction.committed_from_few(verifier, [other], SCORER.weights, size=32) == DISTINCT


def digits(*values: int) -> Counter[int]:
    """Return how often each digit but 0 occurs in some numbers, to base 16."""
    return Counter(digit for value in values for digit in _digits(abs(value)) if digit)


def _digits(value: int) -> list[int]:
    return [*_digits(value // 16), value % 16] if value else []


def test_hashed_weights_show_in_the_digits_that_are_counted(tmp_path: Path) -> None:
    """Mode hashed hides the weights' cells, and yet ezkl's proofs are not zero-knowledge.

    The counts of looked-up digits are unblinded in every mode. Here all answers are 0, which says
    that no sum before the ReLU was positive and no more; five proofs, of inputs that the attacker
    knows, tell the weights.
    """
    owner, own = tmp_path / "owner", tmp_path / "own"
    in_child(set_up, owner, "hashed", UNIT, UNIT_WEIGHTS)
    in_child(rehearse, own, owner, UNIT, UNIT_OWN)
    verifier = source(owner)
    slot = verifier.multiplicities[settings(owner)["required_range_checks"].index([0, 15])]
    asked = [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]
    proofs = in_child(prove, owner, asked)
    assert {instances[-1] for _, instances in proofs} == {0}
    rehearsed = watch(own, asked)

    def numbers(weights: Sequence[int], query: list[int]) -> tuple[int, int]:
        """What depends on the weights and is split into digits: the product, and with the bias."""
        dot = weights[0] * query[0] + weights[1] * query[1]
        return dot, dot + weights[2]

    shown = []
    for query, (proof, instances), theirs in zip(asked, proofs, rehearsed, strict=True):
        counts = extraction.digit_counts(verifier, verifier.see(proof, instances), slot, base=16)
        at_rehearsal = extraction.digit_counts(verifier, theirs, slot, base=16)
        assert counts is not None
        assert at_rehearsal is not None
        # All other digits are those of the rehearsal.
        others = at_rehearsal - digits(*numbers(UNIT_OWN, query))
        assert others <= counts
        shown.append(counts - others)
    found = [
        weights
        for weights in product(range(-32, 32), repeat=3)
        if all(
            digits(*numbers(weights, query)) == counts and numbers(weights, query)[1] <= 0
            for query, counts in zip(asked, shown, strict=True)
        )
    ]
    assert found == [tuple(UNIT_WEIGHTS)]


def quantised(model: Path, scale: int) -> list[int]:
    """Return a model's weights as its circuit has them."""
    tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer]
    return [int(value) for t in tensors for value in np.rint(t * 2.0**scale).reshape(-1)]


def test_one_receipt_of_ours_gives_fixed_weights_away(
    ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray
) -> None:
    """What the leak budget is for: the engine itself, which does not count, proves one claim.

    The attacker takes the receipt and the public artifacts; the budget of so small a model is 0.
    """
    bundle, model = publish(InputMode.PUBLIC, seed=5, weights_mode=WeightsMode.FIXED)
    prediction = ezkl_engine.predict(bundle, samples[0])
    made = ezkl_engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
    assert bundle.manifest.leak is not None
    assert bundle.manifest.leak.proofs == 0
    said = f"here up to {bundle.manifest.facts['digit_bits_per_proof']} bits"
    assert any(said in caveat for caveat in ezkl_engine.caveats(bundle))

    verifier = Verifier.of(bundle.files["verifier_source"].read_text())
    seen = verifier.see(made.data, to_instances(bundle.manifest, prediction.claim))
    own, own_model = publish(InputMode.PUBLIC, seed=6, weights_mode=WeightsMode.FIXED)
    rehearsal = Rehearsal.of(
        own.files["proving_key"].read_bytes(),
        own.files["verifying_key"].stat().st_size,
        quantised(own_model, scale=8),
    )
    found = extraction.fixed_from_few(verifier, rehearsal, [seen], size=256)
    assert found == quantised(model, scale=8)


def test_counts_of_digits_are_unblinded_of_committed_inputs_too(
    ezkl_engine: EzklEngine, committed: Proven, samples: FloatArray
) -> None:
    """Both proofs of one opening commit to the same counts; another input has others."""
    verifier = Verifier.of(committed.bundle.files["verifier_source"].read_text())
    other = ezkl_engine.predict(committed.bundle, samples[1])

    def counts(prediction: Prediction) -> bytes:
        made = ezkl_engine.prove(
            committed.bundle, prediction.claim, prediction.opening, limits=LIMITS
        )
        return verifier.count_commitments(made.data)

    assert counts(committed.prediction) == verifier.count_commitments(committed.proof.data)
    assert counts(other) != verifier.count_commitments(committed.proof.data)

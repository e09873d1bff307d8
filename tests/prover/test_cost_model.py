"""Predictions of preflight beside real circuits that its coefficients were not fitted on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import cost_model, onchain
from benchmarks.cost_circuits import SUBJECTS, Network, Subject
from zkserve import recipe
from zkserve.engines import engine
from zkserve.engines.base import CircuitPlan, FloatArray
from zkserve.engines.cost import Estimate
from zkserve.engines.native import core
from zkserve.types import InputMode, WeightsMode

pytestmark = [pytest.mark.prover, pytest.mark.chain]

FACTOR = 1.5
"""No prediction may be off by more in each of ``ATTEMPTS`` measurements."""
ATTEMPTS = 3
"""Of seconds and memory, as what else the machine does comes and goes."""
CLOSE = 1.15
"""What follows from the circuit's form may be off by this at most."""
CLOSELY = ("proving_key_bytes", "verifying_key_bytes", "proof_bytes", "verifier_bytes", "gas")
ROUGHLY = ("prove_cpu_s", "setup_cpu_s", "prove_memory_bytes", "setup_memory_bytes")


@dataclass(frozen=True)
class Zoo:
    """A real model of ``circuits/``, in place of a drawn network."""

    name: str

    @cached_property
    def _recipe(self) -> recipe.Recipe:
        return recipe.load(Path("circuits") / self.name)

    def samples(self) -> FloatArray:
        return np.asarray(recipe.samples(self._recipe).calibration, np.float32)

    def write(self, path: Path) -> Path:
        return recipe.export_onnx(self._recipe, path)


def native(network: Any, *, public: bool = False, **options: Any) -> Subject:
    return Subject(
        name="native",
        engine="native",
        network=network,
        input_mode=InputMode.PUBLIC if public else InputMode.COMMITTED,
        weights_mode=WeightsMode.COMMITTED,
        options=options,
    )


def ezkl(network: Any, mode: WeightsMode, *, public: bool = False, **options: Any) -> Subject:
    return Subject(
        name="ezkl",
        engine="ezkl",
        network=network,
        input_mode=InputMode.PUBLIC if public else InputMode.COMMITTED,
        weights_mode=mode,
        options=options,
    )


HELD_OUT = {
    "native, breast_cancer": native(Zoo("breast_cancer"), activations=16),
    "native, digits_cnn": native(Zoo("digits_cnn"), public=True),
    "native, lenet_mnist": native(Zoo("lenet_mnist")),
    "native, dense": native(Network(sizes=(50, 130, 70, 7), seed=7)),
    "native, convolution": native(Network(sizes=(0, 9), side=18, channels=5, seed=8), public=True),
    "ezkl, breast_cancer": ezkl(Zoo("breast_cancer"), WeightsMode.HASHED, inner_cols=1),
    "ezkl, digits_cnn": ezkl(Zoo("digits_cnn"), WeightsMode.FIXED, public=True, scale=7),
    "ezkl, dense": ezkl(
        Network(sizes=(20, 40, 20, 3), seed=9),
        WeightsMode.FIXED,
        public=True,
        scale=7,
        inner_cols=3,
        decomp_base=256,
    ),
    "ezkl, convolution": ezkl(
        Network(sizes=(0, 4), side=9, channels=5, pool=True, seed=10),
        WeightsMode.POLYCOMMIT,
        scale=7,
        inner_cols=1,
        decomp_base=512,
    ),
    "ezkl, sigmoid": ezkl(
        Network(sizes=(7, 11, 4), activation="Sigmoid", seed=11), WeightsMode.HASHED, scale=7
    ),
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[onchain.LocalChain]:
    with onchain.running(tmp_path_factory.mktemp("anvil")) as found:
        yield found


def foretold(subject: Subject, folder: Path) -> Estimate:
    model = subject.network.write(folder / "model.onnx")
    np.save(folder / "calibration.npy", subject.network.samples())
    plan = CircuitPlan(
        input_mode=subject.input_mode,
        weights_mode=subject.weights_mode,
        options=subject.options,
    )
    return engine(subject.engine).estimate(model, plan, folder / "calibration.npy")


def off_by(foretold: float, measured: float) -> float:
    return max(foretold / measured, measured / foretold)


@pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")
@pytest.mark.parametrize("name", HELD_OUT)
def test_predictions_hold_on_circuits_that_they_were_not_fitted_on(
    name: str, chain: onchain.LocalChain, tmp_path: Path
):
    subject = HELD_OUT[name]
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        before = foretold(subject, folder)
        measured = cost_model.measure(subject, chain, folder)["measured"]
        after = foretold(subject, folder)
        for quantity in set(before.exact) & measured.keys():
            assert getattr(before, quantity) == measured[quantity], quantity
        for quantity in CLOSELY:
            said = getattr(before, quantity)
            assert off_by(said, measured[quantity]) <= CLOSE, (quantity, said, measured[quantity])
        # How fast the machine is just now is measured with each prediction.
        found = {
            quantity: (
                (getattr(before, quantity) * getattr(after, quantity)) ** 0.5,
                measured[quantity],
            )
            for quantity in ROUGHLY
        }
        far = {quantity: pair for quantity, pair in found.items() if off_by(*pair) > FACTOR}
        if not far:
            return
    pytest.fail(f"off by more than {FACTOR} each time: {far}")


def test_no_held_out_network_was_fitted_on():
    fitted = {subject.network for subject in SUBJECTS.values()}
    assert not fitted & {subject.network for subject in HELD_OUT.values()}
    assert sum(name.startswith("ezkl") for name in HELD_OUT) >= 4
    assert sum(name.startswith("native") for name in HELD_OUT) >= 4

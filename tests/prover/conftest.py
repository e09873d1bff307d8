"""Real circuits, made once a session from tiny models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.models import tiny_onnx
from zkserve.engines.base import Bundle, CircuitPlan, FloatArray, Limits, Prediction, Proof, Srs
from zkserve.engines.ezkl import EzklEngine
from zkserve.types import InputMode, WeightsMode

LIMITS = Limits(time_s=300, memory_bytes=4 << 30)
INPUTS = 3
OPTIONS = {"decomp_base": 128, "decomp_legs": 4}


@dataclass(frozen=True, kw_only=True)
class Proven:
    """A circuit, its model and one proven prediction."""

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


Publish = Callable[..., tuple[Bundle, Path]]


@pytest.fixture(scope="session")
def ezkl_engine():
    engine = EzklEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def development_srs(ezkl_engine: EzklEngine, tmp_path_factory: pytest.TempPathFactory) -> Srs:
    return ezkl_engine.development_srs(13, tmp_path_factory.mktemp("srs") / "kzg.srs")


@pytest.fixture(scope="session")
def samples() -> FloatArray:
    return np.random.default_rng(7).normal(size=(40, INPUTS)).astype(np.float32)


@pytest.fixture(scope="session")
def publish(
    ezkl_engine: EzklEngine,
    development_srs: Srs,
    samples: FloatArray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Publish:
    """Compile and set up a tiny model: ``publish(input_mode, seed=0, outputs=2)``."""

    def publish(
        input_mode: InputMode,
        seed: int = 0,
        outputs: int = 2,
        hidden: int = 2,
        weights_mode: WeightsMode = WeightsMode.HASHED,
    ) -> tuple[Bundle, Path]:
        folder = tmp_path_factory.mktemp(f"{input_mode}-{seed}")
        model = tiny_onnx(
            folder / "tiny.onnx", inputs=INPUTS, hidden=hidden, outputs=outputs, seed=seed
        )
        plan = CircuitPlan(input_mode=input_mode, weights_mode=weights_mode, options=OPTIONS)
        ezkl_engine.compile(model, plan, samples, folder / "circuit", limits=LIMITS)
        bundle = ezkl_engine.setup(folder / "circuit", development_srs, limits=LIMITS)
        return bundle, model

    return publish


def _prove(engine: EzklEngine, publish: Publish, sample: FloatArray, mode: InputMode) -> Proven:
    bundle, model = publish(mode)
    prediction = engine.predict(bundle, sample)
    proof = engine.prove(bundle, prediction.claim, prediction.opening, limits=LIMITS)
    return Proven(bundle=bundle, model=model, sample=sample, prediction=prediction, proof=proof)


@pytest.fixture(scope="session")
def committed(ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray) -> Proven:
    return _prove(ezkl_engine, publish, samples[0], InputMode.COMMITTED)


@pytest.fixture(scope="session")
def public(ezkl_engine: EzklEngine, publish: Publish, samples: FloatArray) -> Proven:
    return _prove(ezkl_engine, publish, samples[0], InputMode.PUBLIC)


@pytest.fixture(scope="session", params=list(InputMode))
def proven(request: pytest.FixtureRequest) -> Proven:
    """The proven prediction of each input mode in turn."""
    return request.getfixturevalue(request.param.value)

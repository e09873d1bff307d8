"""A native circuit whose files contradict each other is refused, whoever pinned them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.native_circuits import convolutions
from zkserve.encoding import identified, sha256_file, to_hex
from zkserve.engines.base import Bundle
from zkserve.engines.native.circuit import NAME, VERSION, Circuit
from zkserve.engines.native.engine import NativeEngine
from zkserve.engines.native.inputs import input_shape
from zkserve.engines.native.interface import Interface
from zkserve.engines.native.verifier_srs import VerifierSrs
from zkserve.errors import BundleMismatch
from zkserve.types import CircuitManifest, InputMode, Scale, TensorSpec, WeightsMode

D = convolutions()
BATCH, *SHAPE = input_shape(D)
INTERFACE = Interface(
    inputs=(TensorSpec(name="x", shape=(1, *SHAPE)),),
    output=TensorSpec(name="y", shape=(1, D.outputs // BATCH)),
    output_scale=Scale(multiplier=3, shift=4),
    rows=1,
    shape=(SHAPE[0], SHAPE[1], SHAPE[2]),
    input_bytes=D.header.input_bytes,
    scales=(0.5,),
    zeros=(0.0,),
)
SRS = VerifierSrs(g1_s=b"\1" * 64, g2_s=b"\2" * 128, development=False)

Make = Callable[..., Bundle]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Pin an interface and an SRS: ``make(interface=…, srs=…, **changes of the manifest)``."""

    def make(interface: Interface = INTERFACE, srs: VerifierSrs = SRS, **changes: object) -> Bundle:
        contents = {
            "description": D.encode(),
            "interface": interface.to_json().encode(),
            "verifier_srs": srs.encode(),
        }
        files = {name: tmp_path / name for name in contents}
        for name, path in files.items():
            path.write_bytes(contents[name])
        manifest = CircuitManifest(
            circuit_id="",
            engine=NAME,
            engine_version=VERSION,
            input_mode=InputMode.PUBLIC,
            weights_mode=WeightsMode.COMMITTED,
            weights="0x" + "22" * 32,
            inputs=tuple(spec.batched(BATCH) for spec in INTERFACE.inputs),
            output=INTERFACE.output.batched(BATCH),
            output_scale=INTERFACE.output_scale,
            pins={name: sha256_file(path) for name, path in files.items()} | {"srs": "ab" * 32},
            public=frozenset(files),
            development_srs=False,
            rows=1,
            parameters={"batch": BATCH},
        )
        return Bundle(manifest=identified(replace(manifest, **changes)), files=files)

    return make


def test_a_circuit_without_contradictions_is_read(make: Make) -> None:
    assert Circuit.of(make()).interface == INTERFACE
    assert Circuit.of(make(development_srs=True)).verifier_srs == SRS


def test_a_development_srs_cannot_pass_for_a_ceremonys(make: Make) -> None:
    development = replace(SRS, development=True)
    Circuit.of(make(srs=development, development_srs=True))
    with pytest.raises(BundleMismatch, match="development SRS"):
        Circuit.of(make(srs=development, development_srs=False))


def test_the_caveat_names_the_srs_that_verifying_uses(make: Make) -> None:
    engine = NativeEngine()
    said = " ".join(engine.caveats(make()))
    assert to_hex(SRS.digest) in said
    assert "verifier_srs" in said
    marked = " ".join(engine.caveats(make(development_srs=True)))
    assert "verifier_srs" not in marked, "whoever asks says that it is a development SRS"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"shape": (SHAPE[0], SHAPE[2] + 1, SHAPE[1])}, "input shape"),
        ({"input_bytes": 3 - D.header.input_bytes}, "bytes of an input"),
        ({"inputs": (TensorSpec(name="x", shape=(1, 2)),)}, "number of inputs"),
        ({"output": TensorSpec(name="y", shape=(1, D.outputs // BATCH + 1))}, "number of outputs"),
        ({"output_scale": Scale(multiplier=5, shift=4)}, "output scale"),
        ({"scales": (0.5, 0.5)}, "one scale"),
        ({"zeros": ()}, "one scale"),
    ],
)
def test_an_interface_of_another_circuit_is_refused(
    make: Make, changes: dict[str, object], what: str
) -> None:
    with pytest.raises(BundleMismatch, match=what):
        Circuit.of(make(interface=replace(INTERFACE, **changes)))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"inputs": (TensorSpec(name="x", shape=(BATCH, *SHAPE[::-1])),)}, "manifest's inputs"),
        ({"inputs": (TensorSpec(name="z", shape=(BATCH, *SHAPE)),)}, "manifest's inputs"),
        ({"output": TensorSpec(name="y", shape=(D.outputs + 1,))}, "manifest's output"),
        ({"output_scale": Scale(multiplier=3, shift=5)}, "output scale"),
        ({"parameters": {"batch": BATCH + 1}}, "batch"),
    ],
)
def test_a_manifest_that_states_another_interface_is_refused(
    make: Make, changes: dict[str, object], what: str
) -> None:
    with pytest.raises(BundleMismatch, match=what):
        Circuit.of(make(**changes))

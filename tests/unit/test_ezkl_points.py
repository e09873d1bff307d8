"""Claims in polycommit cover points that commit to weights: as many as there are, never none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_ezkl_leak import SETTINGS
from zkserve.engines.ezkl.claims import POINT_BYTES, check_points, polycommit_weights
from zkserve.errors import BundleMismatch, EngineFailed
from zkserve.types import CircuitManifest, InputMode, Scale, TensorSpec, WeightsMode

PROOF_BYTES = 3200


def manifest(mode: WeightsMode, **parameters: Any) -> CircuitManifest:
    return CircuitManifest(
        circuit_id="0x" + "00" * 32,
        engine="ezkl",
        engine_version="23.0.5",
        input_mode=InputMode.PUBLIC,
        weights_mode=mode,
        weights="0x" + "00" * 32,
        inputs=(TensorSpec(name="x", shape=(1, 3)),),
        output=TensorSpec(name="y", shape=(1, 2)),
        output_scale=Scale(shift=8),
        pins={},
        public=frozenset(),
        development_srs=True,
        rows=265,
        parameters={"proof_bytes": PROOF_BYTES} | parameters,
    )


@pytest.mark.parametrize("points", [1, 2, PROOF_BYTES // POINT_BYTES])
def test_as_many_points_as_the_settings_give_are_covered(points: int) -> None:
    settings = replace(SETTINGS, weights_mode=WeightsMode.POLYCOMMIT, weights_points=points)
    check_points(manifest(WeightsMode.POLYCOMMIT, weights_points=points), settings)
    for other in {1, 2, 3} - {points}:
        with pytest.raises(BundleMismatch, match="by the circuit's settings"):
            check_points(manifest(WeightsMode.POLYCOMMIT, weights_points=other), settings)


@pytest.mark.parametrize("points", [0, -1, PROOF_BYTES // POINT_BYTES + 1, True, 1.0, "1", None])
def test_no_points_and_more_than_a_proof_has_are_refused_without_the_settings(points: Any) -> None:
    with pytest.raises(BundleMismatch, match="points of a proof"):
        check_points(manifest(WeightsMode.POLYCOMMIT, weights_points=points))


def test_a_manifest_that_counts_none_is_refused() -> None:
    with pytest.raises(BundleMismatch, match="points of a proof"):
        check_points(manifest(WeightsMode.POLYCOMMIT))
    with pytest.raises(BundleMismatch, match="points of a proof"):
        check_points(manifest(WeightsMode.POLYCOMMIT, weights_points=0, proof_bytes=0))


@pytest.mark.parametrize("mode", [WeightsMode.HASHED, WeightsMode.FIXED])
def test_other_modes_cover_none(mode: WeightsMode) -> None:
    check_points(manifest(mode), replace(SETTINGS, weights_mode=mode))
    with pytest.raises(BundleMismatch, match="points of a proof"):
        check_points(manifest(mode, weights_points=1))


@pytest.mark.parametrize(("size", "points"), [(PROOF_BYTES, 0), (PROOF_BYTES, 51), (63, 1), (0, 0)])
def test_nothing_is_no_commitment(size: int, points: int) -> None:
    with pytest.raises(EngineFailed, match="does not begin with"):
        polycommit_weights(bytes(size), points)

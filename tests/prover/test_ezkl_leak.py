"""Which polynomials of a circuit depend on its weights: those that the leak budget counts."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.prover.conftest import INPUTS, Publish
from zkserve.engines.base import Bundle
from zkserve.engines.ezkl.leak import FIELD_BITS
from zkserve.engines.ezkl.settings import Settings, columns_of
from zkserve.types import InputMode, WeightsMode

pytestmark = pytest.mark.prover


def commitments(bundle: Bundle, kind: str) -> Counter[str]:
    """Return the points that the verifier holds of one kind: fixed or permutation."""
    source = bundle.files["verifier_source"].read_text()
    return Counter(re.findall(rf"(0x[0-9a-f]{{64}})\) // {kind}_comms\[\d+\]\.x", source))


def test_of_fixed_weights_only_constants_and_wiring_depend_on_them(publish: Publish) -> None:
    # Large enough for equal weights, in other places in each model: they are wired together.
    one, other = (
        publish(InputMode.PUBLIC, seed=seed, hidden=16, weights_mode=WeightsMode.FIXED)[0]
        for seed in (0, 1)
    )
    settings = Settings.read(one.files["settings"])
    columns = columns_of(settings.constants, settings.logrows)
    fixed, wiring = commitments(one, "fixed"), commitments(one, "permutation")
    assert (fixed - commitments(other, "fixed")).total() == columns == 1
    assert 0 < (wiring - commitments(other, "permutation")).total() <= wiring.total()
    leak = one.manifest.leak
    assert leak is not None
    assert leak.bits_per_proof == FIELD_BITS * (columns + wiring.total())
    weights = INPUTS * 16 + 16 + 2 * 16 + 2
    assert 0 < leak.secret_bits <= 10 * weights
    assert leak.proofs == 0, "one proof of so few weights reveals more than they hold"


@pytest.mark.parametrize("mode", [WeightsMode.POLYCOMMIT, WeightsMode.HASHED])
def test_of_other_modes_nothing_in_the_key_depends_on_weights(
    publish: Publish, mode: WeightsMode
) -> None:
    one, other = (publish(InputMode.PUBLIC, seed=seed, weights_mode=mode)[0] for seed in (0, 1))
    for kind in ("fixed", "permutation"):
        assert commitments(one, kind) == commitments(other, kind)
    leak = one.manifest.leak
    if mode is WeightsMode.HASHED:
        assert leak is None
    else:
        assert leak is not None
        assert leak.bits_per_proof == FIELD_BITS * one.manifest.parameters["weights_points"]

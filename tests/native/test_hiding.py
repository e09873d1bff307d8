"""What proofs show beside their claim, section 14 of the protocol: nothing that can be measured.

That layouts mask everything is algebra, checked by the certificate's tests. Here real proofs are
looked at from outside: fresh randomness in each, and the same distribution whatever the input.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import numpy as np
import pytest

from tests.native_circuits import CIRCUITS, dense
from tests.native_proofs import MULTIPLIERS, Version, development_srs
from tests.native_vectors import parts
from tests.unit.test_native_certificate import LOWER, with_empty_tiles
from zkserve.engines.native import core
from zkserve.engines.native.protocol.curve import FIELD, ORDER

pytestmark = pytest.mark.prover

PROOFS = 200
SIGMAS = 6
"""Thousands of means are compared, so a few sigmas are expected of honest ones."""


@pytest.fixture(scope="module")
def srs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return development_srs(tmp_path_factory.mktemp("srs"))


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("name", CIRCUITS)
def test_proofs_of_one_statement_share_no_randomness(srs: Any, name: str, mode: int) -> None:
    version = Version(srs, name, CIRCUITS[name](), mode)
    values = version.input()
    proofs = [version.prove(values).proof for _ in range(20)]
    seen: set[bytes] = set()
    for part in parts(CIRCUITS[name](), hidden=bool(mode)):
        found = {proof[part.at : part.at + part.size] for proof in proofs}
        if part.name.split(" ")[0] in {"context", "C_W", "M"}:
            assert len(found) == 1, part
        else:
            assert len(found) == len(proofs), part
            assert not found & seen, part
            seen |= found


@pytest.mark.parametrize("mode", [0, 1])
def test_proofs_look_alike_whatever_the_input(srs: Any, mode: int) -> None:
    """Every revealed value is uniform: high and low halves, odd and even, for two inputs.

    The inputs are all zero and all 255, whose activations, limbs and multiplicities differ most.
    """
    version = Version(srs, "dense", dense(), mode)
    fresh = [
        part
        for part in parts(dense(), hidden=bool(mode))
        if part.kind in {"scalar", "point"} and not part.name.startswith("C_W")
    ]
    limit = SIGMAS / 2 / sqrt(PROOFS)
    for value in (0, 255):
        values = np.full((1, 40, 1, 1), value, dtype=np.int32)
        proofs = [version.prove(values).proof for _ in range(PROOFS)]
        for part in fresh:
            numbers = [int.from_bytes(proof[part.at : part.at + 32], "big") for proof in proofs]
            modulus = ORDER if part.kind == "scalar" else FIELD
            for share in (
                sum(number > modulus // 2 for number in numbers),
                sum(number & 1 for number in numbers),
                sum(number >> 8 & 1 for number in numbers),
            ):
                assert abs(share / PROOFS - 0.5) < limit, (part, value, share)


def test_a_layout_that_leaks_is_never_proved_with(srs: Any) -> None:
    d = with_empty_tiles(dense(), LOWER, LOWER)
    d = replace(d, certificate=dense().certificate)
    cells = np.zeros(d.header.weight_tiles << d.header.k, dtype=np.int32)
    blinds = bytes(31) + b"\1"
    with pytest.raises(ValueError):
        core.load().Prover(
            srs, d.encode(), 0, cells, blinds * d.header.weight_tiles, MULTIPLIERS["dense"], 1
        )


def test_another_certificate_is_never_proved_with(srs: Any) -> None:
    d = replace(dense(), certificate=bytes(32))
    cells = np.zeros(d.header.weight_tiles << d.header.k, dtype=np.int32)
    blinds = bytes(31) + b"\1"
    with pytest.raises(ValueError, match="certificate"):
        core.load().Prover(
            srs, d.encode(), 0, cells, blinds * d.header.weight_tiles, MULTIPLIERS["dense"], 1
        )

"""Range proofs of registered weights: two verifiers that agree, and lies that neither accepts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.native_registrar import Registrar, inverse
from zkserve.engines.native import core
from zkserve.engines.native.protocol.curve import FIELD, ORDER
from zkserve.engines.native.protocol.description import View, decode
from zkserve.engines.native.protocol.range_bounds import bounds, largest_value
from zkserve.engines.native.protocol.range_layout import RangeLayout
from zkserve.engines.native.protocol.registration import verify_registration
from zkserve.engines.native.protocol.transcript import weights_digest
from zkserve.errors import ProofInvalid

NETWORKS = json.loads((Path(__file__).parents[1] / "vectors/native/networks.json").read_text())
NAMES = list(NETWORKS)
EXAMPLE, TILES = NAMES[0], NAMES[3]

pytestmark = pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What a range proof is about, and what it is verified with."""

    description: bytes
    weight_bytes: int
    srs_digest: bytes
    g2_s: bytes
    weights: bytes
    proof: bytes

    def accepted(self, **altered: Any) -> bool:
        """Ask the compiled verifier."""
        return bool(core.load().verify_range(**vars(replace(self, **altered))))

    def accepted_in_python(self, **altered: Any) -> bool:
        try:
            verify_registration(**vars(replace(self, **altered)))
        except ProofInvalid:
            return False
        return True

    def rejected(self, **altered: Any) -> bool:
        """Whether both verifiers reject."""
        return not self.accepted(**altered) and not self.accepted_in_python(**altered)

    def parts(self) -> Iterator[tuple[str, int, int]]:
        """Yield (name, first byte, end) of every part of the proof, in order."""
        layout = RangeLayout(d=decode(self.description), weight_bytes=self.weight_bytes)
        h, at = layout.d.header, 0
        sizes = {
            "C_W": 64 * h.weight_tiles,
            "M": 4 * layout.d.multipliers,
            "C_w": 64 * layout.row_tiles,
            "C_h": 64 * layout.helper_tiles,
            "V": 32,
            "rounds": 32 * sum(layout.degrees),
            "E": 32 * layout.evaluations,
            "s_M": 32,
            "folds": 64 * h.k,
            "opening points": 256,
            "opening values": 192,
            "witnesses": 128,
        }
        for name, size in sizes.items():
            yield name, at, at + size
            at += size
        assert at == len(self.proof)

    def flipped(self, at: int) -> bytes:
        return self.proof[:at] + bytes([self.proof[at] ^ 1]) + self.proof[at + 1 :]


def description_of(name: str) -> bytes:
    return bytes.fromhex(NETWORKS[name]["description"])


def weights_of(name: str, bound: int = 7) -> NDArray[np.int32]:
    """Random weights, in the padding of their blocks too: nothing reads it."""
    header = decode(description_of(name)).header
    random = np.random.default_rng(7)
    return random.integers(1 - bound, bound, header.weight_tiles << header.k, dtype=np.int32)


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return core.load()


@pytest.fixture(scope="module")
def srs(module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = str(tmp_path_factory.mktemp("srs") / "development.srs")
    module.srs_generate(path, 2**11 + 2**6)
    return module.Srs(path, 0)


def load(module: ModuleType, srs: Any, name: str, cells: NDArray[np.int32], **other: Any) -> Any:
    tiles = decode(description_of(name)).header.weight_tiles
    random = np.random.default_rng(11)
    blinds = b"".join(random.bytes(31).rjust(32, b"\0") for _ in range(tiles))
    multipliers = other.get("multipliers", NETWORKS[name]["multipliers"])
    return module.Prover(srs, description_of(name), 0, cells, blinds, multipliers)


@pytest.fixture(scope="module")
def register(module: ModuleType, srs: Any) -> Callable[..., Registered]:
    made: dict[tuple[str, int], Registered] = {}

    def register(name: str, weight_bytes: int) -> Registered:
        if (name, weight_bytes) not in made:
            prover = load(module, srs, name, weights_of(name))
            made[name, weight_bytes] = Registered(
                description=description_of(name),
                weight_bytes=weight_bytes,
                srs_digest=srs.digest,
                g2_s=srs.g2_s,
                weights=prover.weights,
                proof=prover.prove_range(weight_bytes, b"key"),
            )
        return made[name, weight_bytes]

    return register


@pytest.mark.parametrize("weight_bytes", [1, 2, 3, 4])
@pytest.mark.parametrize("name", NAMES)
def test_honest_proofs_are_accepted(
    register: Callable[..., Registered], name: str, weight_bytes: int
) -> None:
    registered = register(name, weight_bytes)
    assert registered.accepted()
    assert registered.accepted_in_python()


@pytest.mark.parametrize("name", [EXAMPLE, TILES])
def test_every_word_of_a_proof_counts(register: Callable[..., Registered], name: str) -> None:
    registered = register(name, 1)
    for part, start, end in registered.parts():
        step = 4 if part == "M" else 32
        for at in range(start + step - 1, end, step):
            assert not registered.accepted(proof=registered.flipped(at)), (part, at)
        for at in (start, end - 1):
            assert registered.rejected(proof=registered.flipped(at)), (part, at)


def test_the_bytes_of_a_proof_are_canonical(register: Callable[..., Registered]) -> None:
    """A residue plus the modulus is the same number, and must not be the same proof."""
    registered, altered = register(EXAMPLE, 1), 0
    parts = {name: (start, end) for name, start, end in registered.parts()}
    words = [*range(0, parts["M"][0], 32), *range(parts["M"][1], len(registered.proof), 32)]
    for at in words:
        word = int.from_bytes(registered.proof[at : at + 32])
        for modulus in (ORDER, FIELD):
            if word + modulus < 2**256:
                altered += 1
                shifted = (word + modulus).to_bytes(32)
                proof = registered.proof[:at] + shifted + registered.proof[at + 32 :]
                assert registered.rejected(proof=proof), at
    assert altered > 150


def test_lengths_are_exact(register: Callable[..., Registered]) -> None:
    registered = register(EXAMPLE, 1)
    proof = registered.proof
    for wrong in (b"", proof[:-1], proof[:-32], proof + b"\0", proof + bytes(32), proof[32:]):
        assert registered.rejected(proof=wrong)


def test_points_at_infinity_are_no_commitment(register: Callable[..., Registered]) -> None:
    registered = register(EXAMPLE, 1)
    for _, start, _ in registered.parts():
        blanked = registered.proof[:start] + bytes(64) + registered.proof[start + 64 :]
        assert registered.rejected(proof=blanked)


def test_a_proof_is_about_one_circuit_and_one_version(
    register: Callable[..., Registered],
) -> None:
    registered, wider, other = register(EXAMPLE, 1), register(EXAMPLE, 2), register(TILES, 1)
    g2 = registered.g2_s
    for altered in (
        {"weight_bytes": 2},
        {"weight_bytes": 0},
        {"weight_bytes": 5},
        {"weight_bytes": 2, "proof": registered.proof + wider.proof[len(registered.proof) :]},
        {"proof": wider.proof},
        {"proof": other.proof},
        {"description": other.description},
        {"description": registered.description[:-1] + b"\0"},
        {"description": b""},
        {"weights": other.weights},
        {"weights": bytes(32)},
        {"weights": registered.weights[:-1]},
        {"srs_digest": bytes(32)},
        {"g2_s": core.load().g2_multiply(g2, (2).to_bytes(32))},
        {"g2_s": bytes(128)},
        {"g2_s": g2[:-1]},
    ):
        assert registered.rejected(**altered), altered


def with_multipliers(registered: Registered, multipliers: list[int]) -> dict[str, Any]:
    """Return the proof with other multipliers, and the digest that fits them."""
    start, end = next((a, b) for name, a, b in registered.parts() if name == "M")
    points = [registered.proof[i : i + 64] for i in range(0, start, 64)]
    written = b"".join(value.to_bytes(4) for value in multipliers)
    return {
        "proof": registered.proof[:start] + written + registered.proof[end:],
        "weights": weights_digest(points, multipliers),
    }


def test_multipliers_are_in_range_and_the_proven_ones(
    register: Callable[..., Registered],
) -> None:
    registered = register(EXAMPLE, 1)
    for multiplier in (0, 1, 299, 301, 1 << 16, ORDER % (1 << 32)):
        assert registered.rejected(**with_multipliers(registered, [multiplier])), multiplier
    assert not registered.rejected(**with_multipliers(registered, [300]))


def test_bounds_that_no_weights_keep_are_rejected(register: Callable[..., Registered]) -> None:
    name = NAMES[1]  # it rescales a slice by a multiplier of its own
    registered, d = register(name, 2), decode(description_of(name))
    largest = [65535] * d.multipliers
    with pytest.raises(ProofInvalid, match="whatever the weights are"):
        bounds(d, tuple(largest))
    with pytest.raises(ProofInvalid, match="whatever the weights are"):
        verify_registration(**vars(replace(registered, **with_multipliers(registered, largest))))
    assert registered.rejected(**with_multipliers(registered, largest))


def test_values_too_large_for_the_argument_are_refused() -> None:
    d = decode(description_of(EXAMPLE))
    view = View(kh=255, kw=255, sh=1, sw=1, ph=0, pw=0, height=1, width=1)
    assert largest_value(d, 0, [view]) == 255**3
    with pytest.raises(ProofInvalid, match="too large"):
        largest_value(d, 0, [view, view])


def test_tiles_without_room_for_masks_have_no_proof() -> None:
    d = decode(description_of(EXAMPLE))
    crowded = replace(d, header=replace(d.header, weight_tiles=20))
    with pytest.raises(ProofInvalid, match="too small"):
        RangeLayout(d=crowded, weight_bytes=4).check()


# What an honest prover refuses


@pytest.mark.parametrize("weight_bytes", [1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_more_bytes_are_refused(
    module: ModuleType, srs: Any, weight_bytes: int, sign: int
) -> None:
    cells = weights_of(EXAMPLE)
    cells[40] = sign * (256**weight_bytes - 1)  # padding, which no equation reads
    load(module, srs, EXAMPLE, cells).prove_range(weight_bytes, b"key")
    cells[40] = sign * 256**weight_bytes
    prover = load(module, srs, EXAMPLE, cells)
    with pytest.raises(ValueError, match="more bytes than declared"):
        prover.prove_range(weight_bytes, b"key")
    prover.prove_range(weight_bytes + 1, b"key")


def test_biases_may_have_more_bytes_than_weights(module: ModuleType, srs: Any) -> None:
    cells = weights_of(EXAMPLE)
    cells[24], cells[29] = -(10**6), 2**31 - 1
    prover = load(module, srs, EXAMPLE, cells)
    registered = Registered(
        description=description_of(EXAMPLE),
        weight_bytes=1,
        srs_digest=srs.digest,
        g2_s=srs.g2_s,
        weights=prover.weights,
        proof=prover.prove_range(1, b"key"),
    )
    assert registered.accepted()
    assert registered.accepted_in_python()


@pytest.mark.parametrize("weight_bytes", [0, 5, 256])
def test_weights_have_one_to_four_bytes(module: ModuleType, srs: Any, weight_bytes: int) -> None:
    prover = load(module, srs, EXAMPLE, weights_of(EXAMPLE))
    with pytest.raises(ValueError, match="1 to 4 bytes"):
        prover.prove_range(weight_bytes, b"key")


def test_two_proofs_of_the_same_weights_share_nothing(module: ModuleType, srs: Any) -> None:
    """All that a proof reveals is masked anew, under the same key too."""
    prover = load(module, srs, EXAMPLE, weights_of(EXAMPLE))
    first, second = prover.prove_range(1, b"key"), prover.prove_range(1, b"key")
    prefix = 64 + 4
    assert first[:prefix] == second[:prefix]
    words = [
        {proof[i : i + 32] for i in range(prefix, len(proof), 32)} for proof in (first, second)
    ]
    assert len(words[0]) == len(words[1]) == (len(first) - prefix) // 32
    assert not words[0] & words[1]


def test_f8_weights_that_can_overflow_are_refused_before_anything_is_proved(
    module: ModuleType, srs: Any
) -> None:
    """Review F8: registration checked no bound, so that chosen inputs made provers fail."""
    cells = weights_of(EXAMPLE)
    room = ((1 << 31) - (1 << 15) - 1) // 300
    cells[:4], cells[24] = 0, room
    load(module, srs, EXAMPLE, cells).prove_range(1, b"key")
    cells[24] = room + 1
    with pytest.raises(ValueError, match="range"):
        load(module, srs, EXAMPLE, cells)
    with pytest.raises(ValueError, match="range"):
        load(module, srs, EXAMPLE, weights_of(EXAMPLE) * 10**6)
    cells[24] = room
    with pytest.raises(ValueError, match="range"):
        load(module, srs, EXAMPLE, cells, multipliers=[301])


# What a dishonest one cannot prove


WEIGHT, OTHER, BIAS, PADDING = 1, 17, 24, 300
"""Cells of the worked example: in the weights of both layers, a bias, and past every block."""


def dishonest(weight_bytes: int, cells: dict[int, int] | None = None) -> Registrar:
    """Return an owner of random weights of the worked example, with some of them as given."""
    values = [int(value) for value in weights_of(EXAMPLE)]
    values[WEIGHT], values[OTHER], values[PADDING] = 5, 3, 0
    for cell, value in (cells or {}).items():
        values[cell] = value
    multipliers = NETWORKS[EXAMPLE]["multipliers"]
    return Registrar(description_of(EXAMPLE), weight_bytes, multipliers, values)


def registered_by(owner: Registrar) -> Registered:
    return Registered(
        description=owner.description,
        weight_bytes=owner.layout.weight_bytes,
        srs_digest=owner.srs_digest,
        g2_s=owner.g2_s,
        weights=owner.weights,
        proof=owner.prove(),
    )


@pytest.mark.parametrize("weight_bytes", [1, 2])
def test_the_other_prover_is_accepted_where_it_tells_the_truth(weight_bytes: int) -> None:
    registered = registered_by(dishonest(weight_bytes))
    assert registered.accepted()
    assert registered.accepted_in_python()


def _fraction(owner: Registrar) -> None:
    owner.cells[WEIGHT] += inverse(7)


def _fraction_as_byte(owner: Registrar) -> None:
    owner.cells[WEIGHT] += inverse(7)
    owner.columns[0][WEIGHT] += inverse(7)


def _fraction_as_bytes(owner: Registrar) -> None:
    """The same, with what it takes of the bound put back into the slack."""
    _fraction_as_byte(owner)
    (low, *_), index = owner.slack(0, 0)
    tile, offset = divmod(low.address + index, owner.d.cells)
    owner.columns[tile][offset] -= 65535 * inverse(7)


def _byte_of_256(owner: Registrar) -> None:
    """768 is 2 and 256 as well as 3 and 0."""
    owner.columns[0][WEIGHT], owner.columns[1][WEIGHT] = 256, 2


def _negative_byte(owner: Registrar) -> None:
    owner.columns[0][WEIGHT], owner.columns[1][WEIGHT] = -256, 4


def _swapped(owner: Registrar) -> None:
    a, b = owner.cells[WEIGHT], owner.cells[OTHER]
    owner.cells[WEIGHT], owner.cells[OTHER] = b, a


def _padding(owner: Registrar) -> None:
    owner.cells[PADDING] = 1


def _padding_fraction(owner: Registrar) -> None:
    owner.cells[PADDING] = owner.columns[0][PADDING] = inverse(3)


def _signs(owner: Registrar) -> None:
    count = owner.layout.byte_columns // 2
    owner.columns[:count], owner.columns[count : 2 * count] = (
        owner.columns[count : 2 * count],
        owner.columns[:count],
    )


def _bias_fraction(owner: Registrar) -> None:
    owner.cells[BIAS] += inverse(2)


def _bias_past_its_bytes(owner: Registrar) -> None:
    top = max(owner.layout.biases(0)[0].auxiliary, key=lambda cell: (cell.sign, cell.byte))
    owner.cells[BIAS] += 256 << 8 * top.byte
    owner.put(top, 0, 256)


def _smaller_slack(owner: Registrar) -> None:
    (low, *_), index = owner.slack(1, 0)
    tile, offset = divmod(low.address + index, owner.d.cells)
    owner.columns[tile][offset] ^= 1


def _negative_slack(owner: Registrar) -> None:
    """The weights are too large, and the lowest byte of the slack is what is missing."""
    cells, index = owner.slack(0, 0)
    for cell in cells:
        owner.put(cell, index, 0)
    left = bounds(owner.d, owner.multipliers)[0][0] - owner.norm(0, 0)
    assert left < 0
    owner.put(cells[0], index, left)


TOO_LARGE = {BIAS: 1 << 30}
LIES: dict[str, tuple[Callable[[Registrar], None], int, dict[int, int]]] = {
    "a weight is no integer": (_fraction, 1, {}),
    "a byte is no integer": (_fraction_as_byte, 1, {}),
    "bytes are no integers, and add up": (_fraction_as_bytes, 1, {}),
    "a byte is 256": (_byte_of_256, 2, {WEIGHT: 768}),
    "a byte is negative": (_negative_byte, 2, {WEIGHT: 768}),
    "weights are swapped": (_swapped, 1, {}),
    "padding is not zero": (_padding, 1, {}),
    "padding is no integer": (_padding_fraction, 1, {}),
    "all signs are wrong": (_signs, 1, {}),
    "a bias is no integer": (_bias_fraction, 1, {}),
    "a bias has nine bytes": (_bias_past_its_bytes, 1, {}),
    "a slack is another": (_smaller_slack, 1, {}),
    "a slack is negative": (_negative_slack, 1, TOO_LARGE),
    "a slack has wrapped around": (lambda _: None, 1, TOO_LARGE),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_rejected(lie: str) -> None:
    tell, weight_bytes, cells = LIES[lie]
    owner = dishonest(weight_bytes, cells)
    tell(owner)
    assert registered_by(owner).rejected()


def _hidden_layer(cells: list[int], values: NDArray[np.int64]) -> list[int]:
    """Return the activations of the worked example's first layer."""
    zero_free = values.reshape(4)
    found = []
    for channel in range(3):
        row = np.array(cells[4 * channel : 4 * channel + 4])
        accumulator = int(row @ zero_free) + cells[24 + channel]
        found.append(min(max((300 * accumulator + (1 << 15)) >> 16, 0), 255))
    return found


def _solve(matrix: list[list[int]], targets: list[int]) -> list[int]:
    """Solve a square system mod ``p`` by elimination."""
    rows = [[*row, target] for row, target in zip(matrix, targets, strict=True)]
    for i in range(len(rows)):
        pivot = next(j for j in range(i, len(rows)) if rows[j][i] % ORDER)
        rows[i], rows[pivot] = rows[pivot], rows[i]
        scale = inverse(rows[i][i])
        rows[i] = [value * scale % ORDER for value in rows[i]]
        for j, row in enumerate(rows):
            if j != i:
                rows[j] = [(a - row[i] * b) % ORDER for a, b in zip(row, rows[i], strict=True)]
    return [row[-1] for row in rows]


def test_m1_weights_that_give_chosen_outputs_on_chosen_inputs_have_no_range_proof() -> None:
    """Review M1 (script t5): field elements as weights give any outputs on ``n + 1`` inputs.

    The equations of an inference hold for them mod ``p``; only the range proof tells them from a
    network.
    """
    owner = dishonest(1, {i: 37 * i * i % 101 - 20 for i in range(12)})
    random = np.random.default_rng(3)
    inputs = [random.integers(0, 200, 4) for _ in range(4)]
    hidden = [[*_hidden_layer(owner.cells, values), 1] for values in inputs]
    for output, targets in enumerate(([1000, 0, 0, 1000], [0, 1000, 1000, 0])):
        *row, bias = _solve(hidden, targets)
        reached = [sum(a * b for a, b in zip([*row, bias], h, strict=True)) for h in hidden]
        assert [value % ORDER for value in reached] == targets
        assert any(min(weight, ORDER - weight) > 1 << 64 for weight in row)
        start = 16 + 4 * output
        owner.cells[start : start + 3] = row
        owner.cells[28 + output] = bias
    assert registered_by(owner).rejected()

    # Bytes that are field elements instead, with nothing but the lookups against them.
    for cell in (*range(16, 24), 28, 29):
        owner.columns[0][cell] = owner.cells[cell]
        owner.columns[1][cell] = 0
        for block in owner.layout.biases(1):
            if cell >= 28:
                for byte in block.auxiliary:
                    owner.put(byte, cell - 28, 0)
    limits = bounds(owner.d, owner.multipliers)[1]
    for output in range(2):
        start = 16 + 4 * output
        total = 255 * sum(owner.columns[0][start : start + 4]) + owner.columns[0][28 + output]
        cells, index = owner.slack(1, output)
        for cell in cells:
            owner.put(cell, index, 0)
        owner.put(cells[0], index, (limits[output] - total) % ORDER)
    assert registered_by(owner).rejected()

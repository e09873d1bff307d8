"""Write the Solidity verifier of a description.

The contract is the universal part, :data:`_LIBRARY`, and straight-line code for the functionals of
this one description. It implements ``IProofVerifier`` directly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Final

from zkserve.engines.native.evm.claim import ClaimValue
from zkserve.engines.native.evm.equations import Equations
from zkserve.engines.native.evm.opening import opening
from zkserve.engines.native.evm.tiles import TileWeights
from zkserve.engines.native.evm.words import Words
from zkserve.engines.native.evm.yul import Graph, Root, Value
from zkserve.engines.native.protocol import certificate
from zkserve.engines.native.protocol.description import Description, digest
from zkserve.engines.native.protocol.wire import DescriptionInvalid

_SOURCES: Final = Path(__file__).parent / "contract"
_INTERFACE: Final = _SOURCES / "IProofVerifier.sol"
_LIBRARY: Final = _SOURCES / "NativeProof.sol"
_TEMPLATE: Final = _SOURCES / "verifier.txt"
_MESSAGE: Final = 0xC0
_PUBLIC_INPUT: Final = """\
    function _inputDigest(uint256 input, uint256) private pure returns (bytes32, bool) {
        return (calldataDigest(input, «inputLength», «scratch»), true);
    }
"""
_PUBLIC_SUM: Final = """\
        bytes calldata packed = claim.input;
        assembly ("memory-safe") {
            place := packed.offset
        }
        sum = inputSum(place, «words», «wordBytes», «c_chi_x»);
        assembly ("memory-safe") {
            mstore(«memInputSum», sum)
        }
"""
_HIDDEN_INPUT: Final = """\
    function _inputDigest(uint256 input, uint256 place)
        private
        pure
        returns (bytes32 digest, bool ok)
    {
        (digest, ok) = inputDigest(place + «atInputPoint», «scratch»);
        assembly ("memory-safe") {
            ok := and(ok, eq(digest, calldataload(input)))
        }
    }
"""


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """Where a verifier keeps its words."""

    multipliers: int
    outputs: int
    challenges: int
    factors: int
    powers: int
    openings: int
    scalars: int
    point: int
    scratch: int


def generate(description: bytes, *, srs_digest: bytes, g2_s: bytes, mode: int) -> str:
    """Return the source of the verifier of a description, SRS and input mode.

    ``mode`` is 0 for public, 1 for hidden inputs; ``g2_s`` is ``[s]_2`` in the 128 bytes of the
    pairing precompile. The source needs no other file and holds one contract, ``NativeVerifier``,
    whose constructor takes (circuit id, weights digest, registry, version id). The same arguments
    give the same text.

    Raises:
        DescriptionInvalid: the description is refused, or its layout would leak: the gate of the
            rank certificate is run here too.

    """
    if mode not in (0, 1) or len(srs_digest) != 32 or len(g2_s) != 128:
        raise ValueError("mode is 0 or 1, an SRS digest has 32 bytes, [s]_2 has 128")
    d = certificate.check(description)
    if mode == 1 and d.hidden_input_bits > d.header.k:
        raise DescriptionInvalid(
            f"A hidden input of this circuit takes 2^{d.hidden_input_bits} cells; a tile has "
            f"2^{d.header.k}.",
            remedy="Compile with a larger k, or make the input public.",
        )
    return _Writer(d, digest(description), srs_digest, g2_s, hidden=mode == 1).source()


class _Writer:
    def __init__(
        self, d: Description, identity: bytes, srs_digest: bytes, g2_s: bytes, *, hidden: bool
    ) -> None:
        self.d = d
        self.identity = identity
        self.srs_digest = srs_digest
        self.g2_s = g2_s
        self.hidden = hidden
        self.memory = self._lay_out()

    def _equation_challenges(self) -> int:
        return sum(sum(self.d.equation_challenges(e)) for e in self.d.equations)

    def _challenges(self) -> int:
        d = self.d
        drawn = 3 + d.rounds + self._equation_challenges() + sum(d.output_challenges)
        return drawn + d.rounds + 1 + d.header.k + 1 + d.header.k + 5

    def _lay_out(self) -> _Memory:
        d, h = self.d, self.d.header
        # Step 0 and the first points are one message.
        longest = max(
            *(7 * 32 + 64 * h.row_tiles, 64 * h.helper_tiles, 32 * d.evaluations),
            *(9 * 32, 6 * 32, 3 * 64),
        )
        at = _MESSAGE + longest + 32
        places = []
        tiles = h.weight_tiles + self.hidden + h.row_tiles + h.helper_tiles
        sizes = (
            d.multipliers,
            d.outputs,
            self._challenges(),
            d.evaluations + 6,
            d.evaluations + 1,
            6,
            tiles + 8,
            10,
        )
        for size in sizes:
            places.append(at)
            at += 32 * size
        return _Memory(
            multipliers=places[0],
            outputs=places[1],
            challenges=places[2],
            factors=places[3],
            powers=places[4],
            openings=places[5],
            scalars=places[6],
            point=places[7],
            scratch=at,
        )

    def source(self) -> str:
        d, h, m = self.d, self.d.header, self.memory
        graph = Graph()
        addresses = self._addresses()
        words = self._words(graph, addresses)
        equations = Equations(d, words)
        claim = [
            Root(address=m.factors + 32 * (d.evaluations + 3), value=ClaimValue(equations).value())
        ]
        factors, conditions = opening(h.k, words)
        scalars = [*TileWeights(equations).values(), *factors]
        final = [
            Root(address=m.scalars + 32 * index, value=value, reduced=False)
            for index, value in enumerate(scalars)
        ]
        after = m.scalars + 32 * len(scalars)
        final += [Root(address=after, value=conditions[0])]
        texts, end = graph.emit([claim, final], m.scratch)
        packed = d.input_packing
        end = max(end, m.scratch + packed.size_bytes, m.scratch + 0x180, m.scratch + 96)
        end = max(end, m.scratch + 40 + 64 * h.weight_tiles + 4 * d.multipliers)
        values: dict[str, object] = {
            "length": d.proof_bytes(hidden=self.hidden),
            "inputLength": 32 if self.hidden else packed.size_bytes,
            "outputCount": d.outputs,
            "digest": "0x" + self.identity.hex(),
            "srs": "0x" + self.srs_digest.hex(),
            "mode": int(self.hidden),
            "end": hex(-(-end // 32) * 32),
            "claim": indent(texts[0], " " * 12),
            "final": indent(texts[1], " " * 12),
            **{
                f"s{name}": "0x" + self.g2_s[32 * i : 32 * i + 32].hex()
                for i, name in enumerate(("x1", "x0", "y1", "y0"))
            },
            **self._steps(addresses, after),
        }
        values = {
            "inputFunctions": _HIDDEN_INPUT if self.hidden else _PUBLIC_INPUT,
            "inputSum": "" if self.hidden else _PUBLIC_SUM,
            **values,
        }
        text = _TEMPLATE.read_text(encoding="utf-8")
        for name, value in values.items():
            text = text.replace(f"«{name}»", str(value))
        pieces = (_INTERFACE, _LIBRARY)
        parts = [_body(path.read_text(encoding="utf-8")) for path in pieces]
        head = "// SPDX-License-Identifier: Apache-2.0\npragma solidity 0.8.37;\n\n"
        return head + "\n".join(parts) + "\n" + text

    def _addresses(self) -> dict[str, int]:
        d, k = self.d, self.d.header.k
        counts = {
            "alpha": 1,
            "lam": 1,
            "eta": 1,
            "tau": d.rounds,
            "equations": self._equation_challenges(),
            "output": sum(d.output_challenges),
            "r": d.rounds,
            "chi_x": 1,
            "chi": k,
            "beta": 1,
            "rho": k,
            "theta": 1,
            "gamma": 1,
            "zeta": 1,
            "nu": 1,
            "omega": 1,
        }
        addresses, at = {}, self.memory.challenges
        for name, count in counts.items():
            addresses[name] = at
            at += 32 * count
        return addresses

    def _words(self, graph: Graph, at: dict[str, int]) -> Words:
        d, m = self.d, self.memory

        def several(address: int, count: int) -> list[Value]:
            return [graph.load(address + 32 * index) for index in range(count)]

        def split(values: list[Value], bits: Iterable[int]) -> list[list[Value]]:
            parts = []
            for count in bits:
                parts.append(values[:count])
                values = values[count:]
            return parts

        equations = []
        address = at["equations"]
        for equation in d.equations:
            bits = d.equation_challenges(equation)
            equations.append(split(several(address, sum(bits)), bits))
            address += 32 * sum(bits)
        output = several(at["output"], sum(d.output_challenges))
        single = {
            name: graph.load(at[name])
            for name in (
                "alpha",
                "lam",
                "eta",
                "chi_x",
                "beta",
                "theta",
                "gamma",
                "zeta",
                "nu",
                "omega",
            )
        }
        tail = m.factors + 32 * d.evaluations
        return Words(
            graph=graph,
            hidden=self.hidden,
            tau=several(at["tau"], d.rounds),
            equations=equations,
            output=split(output, d.output_challenges),
            r=several(at["r"], d.rounds),
            chi=several(at["chi"], d.header.k),
            rho=several(at["rho"], d.header.k),
            multipliers=tuple(several(m.multipliers, d.multipliers)),
            outputs=[graph.signed(m.outputs + 32 * index) for index in range(d.outputs)],
            factors=several(m.factors, d.evaluations),
            powers=several(m.powers, d.evaluations + 1),
            power_sum=graph.load(tail + 160),
            mask=graph.load(tail),
            first=graph.load(tail + 32),
            main=graph.load(tail + 64),
            input_sum=graph.load(tail + 128),
            final=graph.load(tail + 96),
            openings=several(m.openings, 6),
            **single,
        )

    def _steps(self, at: dict[str, int], after: int) -> dict[str, object]:
        """Return the numbers of the template: addresses, offsets in the proof, counters."""
        d, h, m = self.d, self.d.header, self.memory
        multipliers = 32 + 64 * (h.weight_tiles + self.hidden)
        rows = multipliers + 4 * d.multipliers
        helpers = rows + 64 * h.row_tiles
        first = helpers + 64 * h.helper_tiles
        main = first + 32
        factors = main + 32 * (5 * d.rounds + 4)
        mask = factors + 32 * d.evaluations
        final = mask + 32
        points = final + 64 * h.k
        early = 1 + d.rounds + self._equation_challenges() + sum(d.output_challenges)
        counter = 2 + early
        packed = d.input_packing
        tail = m.factors + 32 * d.evaluations
        tiles = h.weight_tiles + self.hidden
        values: dict[str, object] = {
            "weightTiles": h.weight_tiles,
            "committedTiles": tiles,
            "freshTiles": h.row_tiles + h.helper_tiles,
            "multiplierCount": d.multipliers,
            "atMultipliers": multipliers,
            "atInputPoint": 32 + 64 * h.weight_tiles,
            "atRows": rows,
            "rowsSize": 64 * h.row_tiles,
            "atHelpers": helpers,
            "helpersSize": 64 * h.helper_tiles,
            "earlyCount": early,
            "atFirst": first,
            "rounds": d.rounds,
            "atFactors": factors,
            "factorCount": d.evaluations,
            "atMask": mask,
            "atFinal": final,
            "k": h.k,
            "afterMask": h.k + 1,
            "atPoints": points,
            "atOpenings": points + 256,
            "atQuotients": points + 448,
            "counterHelpers": _counter(2),
            "counterMain": _counter(counter),
            "counterFactors": _counter(counter + d.rounds),
            "counterMask": _counter(counter + d.rounds + 1 + h.k),
            "counterFinal": _counter(counter + d.rounds + 2 + h.k),
            "counterPoint": _counter(counter + d.rounds + 2 + 2 * h.k),
            "counterQuotient": _counter(counter + d.rounds + 4 + 2 * h.k),
            "counterOpenings": _counter(counter + d.rounds + 5 + 2 * h.k),
            "counterLast": _counter(counter + d.rounds + 6 + 2 * h.k),
            "words": packed.rows * packed.words_per_row,
            "wordBytes": packed.word_bytes,
            "memMultipliers": hex(m.multipliers),
            "memOutputs": hex(m.outputs),
            "memFactors": hex(m.factors),
            "memMask": hex(tail),
            "memFirst": hex(tail + 32),
            "memMainClaim": hex(tail + 64),
            "memFinalClaim": hex(tail + 96),
            "memInputSum": hex(tail + 128),
            "memPowers": hex(m.powers),
            "memPowerSum": hex(tail + 160),
            "memOpenings": hex(m.openings),
            "memScalars": hex(m.scalars),
            "memFresh": hex(m.scalars + 32 * tiles),
            "memPointFactors": hex(after - 7 * 32),
            "memQuotientFactors": hex(after - 3 * 32),
            "memGeneratorFactor": hex(after - 32),
            "memCondition": hex(after),
            "memLeft": hex(m.point),
            "memRight": hex(m.point + 160),
            "scratch": hex(m.scratch),
        }
        values.update({f"c_{name}": hex(address) for name, address in at.items()})
        return values


def _counter(steps: int) -> str:
    return hex(steps << 224)


def _body(source: str) -> str:
    """Return a Solidity file without what may stand only once in a source, and its imports."""
    skipped = ("// SPDX", "pragma ", "import ")
    lines = [line for line in source.splitlines() if not line.startswith(skipped)]
    return "\n".join(lines).strip() + "\n"

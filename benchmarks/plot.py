"""The README's plot, made from the raw results and from nothing else, as SVG."""

from __future__ import annotations

from math import ceil, floor, log10
from statistics import median
from typing import Any

from benchmarks.tables import RESULTS

PLOT = RESULTS / "native_scaling.svg"
_WIDTH, _HEIGHT = 360, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 15, 40, 50
_TITLES = {
    "weights": "2,000 activations, more and more weights",
    "activations": "754 weights, more and more activations",
}
_FONT = 'font-family="sans-serif" font-size="11"'


def native_scaling(result: dict[str, Any]) -> str:
    """Return two plots of median seconds, both axes logarithmic: by weights and by activations."""
    points = {
        family: sorted(
            (model[family], median(proof["prove_s"] for proof in model["proofs"]))
            for model in result["models"]
            if model["family"] == family
        )
        for family in _TITLES
    }
    seconds = [s for family in points.values() for _, s in family]
    low, high = floor(log10(min(seconds))), ceil(log10(max(seconds)))
    panels = [
        f'<g transform="translate({number * _WIDTH} 0)">{_panel(family, sizes, low, high)}</g>'
        for number, (family, sizes) in enumerate(points.items())
    ]
    size = f'width="{2 * _WIDTH}" height="{_HEIGHT}" viewBox="0 0 {2 * _WIDTH} {_HEIGHT}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_FONT}>',
            "<title>Seconds to prove, by weights and by activations</title>",
            f'<rect width="{2 * _WIDTH}" height="{_HEIGHT}" fill="white"/>',
            *panels,
            "</svg>\n",
        ]
    )


def _panel(family: str, points: list[tuple[int, float]], low: int, high: int) -> str:
    first, last = floor(log10(points[0][0])), ceil(log10(points[-1][0]))

    def across(value: float) -> float:
        share = (log10(value) - first) / (last - first)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def up(value: float) -> float:
        share = (log10(value) - low) / (high - low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP), 1)

    floor_y, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<text x="{_LEFT}" y="22" font-weight="bold">{_TITLES[family]}</text>']
    for exponent in range(low, high + 1):
        y = up(10.0**exponent)
        parts.append(f'<path d="M{_LEFT} {y}H{right}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{10.0**exponent:g} s</text>'
        )
    for exponent in range(first, last + 1):
        x = across(10.0**exponent)
        parts.append(f'<path d="M{x} {_TOP}V{floor_y}" stroke="#ddd"/>')
        parts.append(
            f'<text x="{x}" y="{floor_y + 16}" text-anchor="middle">{10**exponent:,}</text>'
        )
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">{family}</text>')
    line = " ".join(f"{across(size)},{up(seconds)}" for size, seconds in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f4e9c" stroke-width="2"/>')
    for size, seconds in points:
        x, y = across(size), up(seconds)
        parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="#1f4e9c"/>')
        parts.append(f'<text x="{x}" y="{y - 8}" text-anchor="middle">{seconds:.2f}</text>')
    return "\n".join(parts)

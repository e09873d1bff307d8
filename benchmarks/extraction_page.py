"""Table and plot of docs/weights-leak.md, made from the raw results and from nothing else."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, log10
from typing import Any

from benchmarks import tables

NAME = "extraction"
PAGE = tables.HERE.parent / "docs" / "weights-leak.md"
PLOT = tables.RESULTS / "extraction.svg"
_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 15, 40, 50
_COLOURS = {"fixed": "#a61c1c", "polycommit": "#1f4e9c", "hashed": "#2a7a2a"}
_ATTACKS = {"lattice": "lattice", "linear": "linear"}
_FONT = 'font-family="sans-serif" font-size="11"'


def rewrite() -> None:
    """Put the table of the checked-in results into the page, and draw the plot."""
    result = tables.read(NAME)
    page = PAGE.read_text()
    before, after = f"<!-- table: {NAME} -->\n", f"<!-- end: {NAME} -->"
    old = page[page.index(before) + len(before) : page.index(after)]
    PAGE.write_text(page.replace(before + old + after, f"{before}{table(result)}\n{after}"))
    PLOT.write_text(plot(result))


def table(result: dict[str, Any]) -> str:
    """Return what the attacks on weights found as Markdown, a row for each model and mode."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("bits a proof, at most", lambda m: f"{m['bits_per_proof']:,}"),
        ("bits of secret", lambda m: f"{m['secret_bits']:,}"),
        ("proofs in the budget", lambda m: _count(m["budget_proofs"])),
        ("exact after, lattice", lambda m: _count(proofs_until(m, "lattice"))),
        ("exact after, linear algebra", lambda m: _count(proofs_until(m, "linear"))),
        ("weights found after all", _found),
        ("proofs made", lambda m: str(m["points"][-1]["proofs"])),
        ("evaluations of digit counts", lambda m: str(m["digit_count_evaluations"])),
    ]
    lines = [
        "| dense layer | weights | mode | " + " | ".join(title for title, _ in columns) + " |",
        "| --- | ---: | --- |" + " ---: |" * len(columns),
    ]
    for model in result["models"]:
        for mode in model["modes"]:
            cells = " | ".join(cell(mode | {"weights": model["weights"]}) for _, cell in columns)
            lines.append(f"| {model['model']} | {model['weights']} | {mode['mode']} | {cells} |")
    hardware, software = result["hardware"], result["software"]
    on = f"ezkl {software['ezkl']}, {hardware['cores']} cores of {hardware['cpu']}"
    cpu_s = max(
        point["lattice_cpu_s"] or 0
        for model in result["models"]
        for mode in model["modes"]
        for point in mode["points"]
    )
    took = f"No lattice reduction took more than {cpu_s:.1f} CPU seconds."
    return "\n".join([*lines, "", f"Measured {result['date']}: {on}. {took}"])


def proofs_until(mode: dict[str, Any], attack: str) -> int | None:
    """Return the fewest proofs of which an attack gave every weight; None if none did."""
    return min((p["proofs"] for p in mode["points"] if p[attack] == mode["weights"]), default=None)


def _found(mode: dict[str, Any]) -> str:
    return str(max(p[attack] or 0 for p in mode["points"] for attack in ("linear", "lattice")))


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def plot(result: dict[str, Any]) -> str:
    """Return bits about the weights against proofs made, a panel for each model.

    Dashed, what may leak at most; drawn through, the rank of the equations found, 254 bits each;
    a ring where an attack has all weights.
    """
    width, height = 2 * _WIDTH, _HEIGHT + 90
    panels = [
        f'<g transform="translate({number * _WIDTH} 0)">{_leak(model)}</g>'
        for number, model in enumerate(result["models"])
    ]
    key = [
        ("fixed", "fixed: at most (dashed) and found", "M20 0H44"),
        ("polycommit", "polycommit: at most (dashed) and found", "M20 0H44"),
        ("hashed", "hashed: 0", "M20 0H44"),
    ]
    legend = [
        f'<g transform="translate({20 + number * 265} {_HEIGHT + 12})">'
        f'<path d="{path}" stroke="{_COLOURS[mode]}" stroke-width="2"/>'
        f'<text x="50" y="4">{text}</text></g>'
        for number, (mode, text, path) in enumerate(key)
    ]
    notes = (
        "Ring: all weights are known exactly, by lattice reduction or linear algebra.",
        "Not shown: counts of digits, which tell of weights and inputs in all three modes.",
    )
    lines = [
        f'<text x="40" y="{_HEIGHT + 40 + 18 * number}">{note}</text>'
        for number, note in enumerate(notes)
    ]
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {_FONT}>',
            "<title>Bits about the weights against proofs made, by weights mode</title>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *panels,
            *legend,
            *lines,
            "</svg>\n",
        ]
    )


def _leak(model: dict[str, Any]) -> str:
    most = max(point["proofs"] for mode in model["modes"] for point in mode["points"])
    last, low, high = ceil(log10(most)), 0, 6
    floor_y, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def across(proofs: float) -> float:
        return round(_LEFT + log10(proofs) / last * (right - _LEFT), 1)

    def up(bits: float) -> float:
        share = (log10(max(bits, 1)) - low) / (high - low)
        return round(floor_y - share * (floor_y - _TOP), 1)

    def line(values: list[tuple[int, float]], colour: str, extra: str = "") -> str:
        points = " ".join(f"{across(proofs)},{up(bits)}" for proofs, bits in values)
        style = f'fill="none" stroke="{colour}" stroke-width="2"{extra}'
        return f'<polyline points="{points}" {style}/>'

    title = f"Dense layer {model['model']}: {model['weights']} weights"
    parts = [f'<text x="{_LEFT}" y="22" font-weight="bold">{title}</text>']
    for exponent in range(low, high + 1):
        y = up(10.0**exponent)
        label = "0 bits" if exponent == low else f"{10**exponent:,}"
        parts.append(f'<path d="M{_LEFT} {y}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
    for exponent in range(last + 1):
        x = across(10.0**exponent)
        parts.append(f'<path d="M{x} {_TOP}V{floor_y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{floor_y + 16}" text-anchor="middle">{10**exponent}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">proofs made</text>')
    secret = model["modes"][0]["secret_bits"]
    for bits, name in (
        (secret, f"{secret} bits of secret"),
        (
            secret * model["modes"][0]["budget_fraction"],
            f"budget, {100 * model['modes'][0]['budget_fraction']:.0f} %",
        ),
    ):
        y = up(bits)
        parts.append(f'<path d="M{_LEFT} {y}H{right}" stroke="#777" stroke-dasharray="2 3"/>')
        parts.append(f'<text x="{right}" y="{y - 4}" text-anchor="end" fill="#555">{name}</text>')
    for mode in model["modes"]:
        colour, a_proof = _COLOURS[mode["mode"]], mode["bits_per_proof"]
        found = [(point["proofs"], 254 * point["rank"]) for point in mode["points"]]
        if a_proof:
            bound = [(1, a_proof), (found[-1][0], found[-1][0] * a_proof)]
            parts.append(line(bound, colour, ' stroke-dasharray="6 4"'))
        parts.append(line(found, colour))
        for attack, name in _ATTACKS.items():
            proofs = proofs_until(mode | {"weights": model["weights"]}, attack)
            if proofs is not None:
                bits = next(bits for count, bits in found if count == proofs)
                x, y = across(proofs), up(bits)
                parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="none" stroke="{colour}"/>')
                words = f"{name}: {proofs}"
                at = f'x="{x + 8}" y="{y + 16}"' if proofs < 10 else f'x="{x - 30}" y="{y + 26}"'
                parts.append(f'<text {at} fill="{colour}">{words}</text>')
    return "\n".join(parts)

"""How a preflight's report is shown to people."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from zkserve.cli.console import out, table
from zkserve.engines.cost import Estimate
from zkserve.preflight import Report, Way
from zkserve.types import CODE_LIMIT_BYTES

_MB = 1e6
_LABELS = 3
"""Nodes that are named of an operator."""


def show(report: Report) -> None:
    """Print a report: operators, ways to prove the model, what is in the way."""
    verdict = "[green]would publish[/]" if report.fits else "[red]would not publish as it is[/]"
    out.print(f"{report.model} {verdict}")
    out.print(f"  engine    {report.engine or 'none'}: {report.engine_why}", markup=False)
    out.print(
        f"  input     {report.input_mode.value}; tolerance {report.tolerance:g}; "
        f"{report.calibration_samples} calibration and {report.held_out_samples} held-out samples"
    )
    table(
        "Operators",
        ("operator", "nodes", *_engines(report), "what to do"),
        [
            (
                operator.name,
                _where(operator.nodes, operator.count),
                *operator.engines.values(),
                ". ".join(filter(None, (operator.why, operator.remedy))),
            )
            for operator in report.operators
        ],
    )
    if any(way.estimate for way in report.ways):
        table(
            "Predicted on this machine",
            ("", *(_title(way) for way in report.ways)),
            [(name, *cells) for name, *cells in _rows(report)],
        )
        limit = f"  A chain takes a verifier of {CODE_LIMIT_BYTES:,} bytes (EIP-170)."
        out.print(limit, markup=False)
    for who, problem in _once(report.ways, lambda way: way.problems):
        out.print(f"  ✗ {who}: {problem}", markup=False)
    for who, warning in _once(report.ways, lambda way: way.warnings):
        out.print(f"  ! {who}: {warning}", markup=False)
    for line in report.unknown:
        out.print(f"  ? {line}", markup=False)


def _engines(report: Report) -> tuple[str, ...]:
    return tuple(report.operators[0].engines) if report.operators else ()


def _where(nodes: tuple[str, ...], count: int) -> str:
    named = ", ".join(nodes[:_LABELS])
    return named if count <= _LABELS else f"{named} and {count - _LABELS} more"


def _once(
    ways: tuple[Way, ...], said: Callable[[Way], tuple[str, ...]]
) -> Iterator[tuple[str, str]]:
    """Yield each sentence once, after the ways that it is about."""
    about: dict[str, list[Way]] = {}
    for way in ways:
        for sentence in said(way):
            about.setdefault(sentence, []).append(way)
    for sentence, found in about.items():
        names = {way.engine for way in found}
        if len(found) == len(ways):
            who = "every engine"
        elif len(found) > 1 and found == [way for way in ways if way.engine in names]:
            who = ", ".join(sorted(names)) + ", every mode"
        else:
            who = "; ".join(map(_title, found))
        yield who, sentence


def _title(way: Way) -> str:
    return f"{way.engine}, {way.weights_mode.value}{' (chosen)' if way.chosen else ''}"


_CELLS: tuple[tuple[str, Callable[[Estimate], str]], ...] = (
    ("rows", lambda e: f"{e.rows:,}"),
    ("log2 length", lambda e: str(e.k)),
    ("prove, CPU-s", lambda e: f"{e.prove_cpu_s:.2f}"),
    ("prove, s", lambda e: f"{e.prove_s:.2f}"),
    ("prove, MB", lambda e: f"{e.prove_memory_bytes / _MB:,.0f}"),
    ("set up, s", lambda e: f"{e.setup_s:.1f}"),
    ("set up, MB", lambda e: f"{e.setup_memory_bytes / _MB:,.0f}"),
    ("proving key, MB", lambda e: f"{e.proving_key_bytes / _MB:,.3f}"),
    ("verifying key, B", lambda e: f"{e.verifying_key_bytes:,}"),
    ("proof, B", lambda e: f"{e.proof_bytes:,}"),
    ("gas to verify", lambda e: f"{e.gas:,}"),
    ("verifier, B", lambda e: f"{e.verifier_bytes:,}"),
)


def _rows(report: Report) -> list[tuple[str, ...]]:
    ways = report.ways
    rows: list[tuple[str, ...]] = [("fits", *("yes" if way.fits else "no" for way in ways))]
    for name, cell in _CELLS:
        rows.append((name, *("–" if w.estimate is None else cell(w.estimate) for w in ways)))
    rows.append(("proofs of a fresh budget", *map(_budget, ways)))
    for size in sorted({way.batch.size for way in ways if way.batch}):
        rows.append((f"CPU-s of one in {size}", *(_price(way, size) for way in ways)))
    return rows


def _budget(way: Way) -> str:
    if way.estimate is None or way.estimate.leak is None:
        return "not counted" if way.estimate else "–"
    return f"{way.estimate.leak.proofs:,}"


def _price(way: Way, size: int) -> str:
    if way.batch is None or way.batch.size != size or way.batch.prove_cpu_s_per_prediction is None:
        return "–"
    return f"{way.batch.prove_cpu_s_per_prediction:.3f}"

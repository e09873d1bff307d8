"""What ``zkserve publish --dry-run`` does and shows to people."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import typer
from rich.filesize import pick_unit_and_suffix

from zkserve import log, recipe
from zkserve.cli.console import answer, out, progress, read_settings, table
from zkserve.engines.cost import Estimate
from zkserve.preflight import preflight
from zkserve.report import BatchPrice, Report, Way

_LABELS = 3
"""Nodes that are named of an operator."""
_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"]


def run(
    path: Path, samples: Path | None, *, on_chain: bool, update_lock: bool, as_json: bool
) -> None:
    """Show what publishing would give and cost, and exit with 1 if it would not go through."""
    registers = on_chain and bool(read_settings().rpc_url)
    log.configure("WARNING")
    asked = recipe.load(path, samples=samples, need_samples=False)
    with progress(as_json) as say:
        report = preflight(asked, progress=say, on_chain=registers, update_lock=update_lock)
    if as_json:
        answer(report.to_dict(), as_json)
    else:
        command = ["zkserve", "publish", str(path)]
        command += ["--samples", str(samples)] if samples else []
        command += [] if on_chain else ["--no-chain"]
        command += ["--update-lock"] if update_lock else []
        show(report, shlex.join(command))
    if not report.fits:
        raise typer.Exit(1)


def show(report: Report, command: str) -> None:
    """Print a report: operators, ways to prove the model, what is in the way, what to do next.

    ``command`` is the one that publishes.
    """
    verdict = "[green]would publish[/]" if report.fits else "[red]would not publish as it is[/]"
    out.print(f"{report.model} {verdict}")
    out.print(f"  engine    {report.engine or 'none'}: {report.engine_why}", markup=False)
    out.print(
        f"  input     {report.input_mode.value}; tolerance {report.tolerance:g}; "
        f"{report.calibration_samples} calibration and {report.held_out_samples} held-out samples"
    )
    _show_operators(report)
    if any(way.estimate for way in report.ways):
        machine = report.machine
        table(
            f"Predicted for this machine: {machine.cores} cores, {_size(machine.memory_bytes)}",
            ("", *("\n".join(_words(way)) for way in report.ways)),
            list(_rows(report)),
        )
        out.print(f"  EIP-170: a chain takes a verifier of {report.verifier_limit_bytes:,} B.")
    for who, problem in _once(report.ways, lambda way: way.problems):
        out.print(f"  ✗ {who}: {problem}", markup=False)
    for who, warning in _once(report.ways, lambda way: way.warnings):
        out.print(f"  ! {who}: {warning}", markup=False)
    for who, reason in _once(report.ways, _no_batch):
        out.print(f"  ! {who}, {reason}", markup=False)
    for line in report.unknown:
        out.print(f"  ? {line}", markup=False)
    out.print(f"  → {_next_step(report, command)}", markup=False)


def _show_operators(report: Report) -> None:
    engines = tuple(report.operators[0].engines) if report.operators else ()
    advice = [". ".join(filter(None, (one.why, one.remedy))) for one in report.operators]
    last = ("what to do",) if any(advice) else ()
    table(
        "Operators",
        ("operator", "nodes", *engines, *last),
        [
            (
                operator.name,
                _where(operator.nodes, operator.count),
                *operator.engines.values(),
                *((said,) if last else ()),
            )
            for operator, said in zip(report.operators, advice, strict=True)
        ],
    )


def _where(nodes: tuple[str, ...], count: int) -> str:
    named = ", ".join(nodes[:_LABELS])
    return named if count <= _LABELS else f"{named} and {count - _LABELS} more"


def _next_step(report: Report, command: str) -> str:
    if report.fits and not report.calibration_samples:
        return f"Publishing needs samples: {command} --samples FILE"
    if report.fits:
        return f"Publish it: {command}"
    again = f"look again: {command} --dry-run"
    fitting = "; or ".join(
        f'name = "{way.engine}" under [engine] and weights = "{way.weights_mode.value}" under '
        "[visibility]"
        for way in report.ways
        if way.fits
    )
    if fitting:
        return f"In recipe.toml take a way that fits, {fitting}; then {again}"
    return f"Mend what ✗ names (docs/engines.md lists what engines take), then {again}"


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
            who = "; ".join(f"{way.engine}, {way.weights_mode.value}" for way in found)
        yield who, sentence


def _words(way: Way) -> tuple[str, ...]:
    return (way.engine, way.weights_mode.value, *(("chosen",) if way.chosen else ()))


def _rows(report: Report) -> Iterator[tuple[str, ...]]:
    def row(name: str, cell: Callable[[Estimate], str]) -> tuple[str, ...]:
        return (name, *("–" if way.estimate is None else cell(way.estimate) for way in report.ways))

    yield ("fits", *("yes" if way.fits else "no" for way in report.ways))
    yield row("rows", lambda e: f"{e.rows:,}")
    yield row("column length", lambda e: f"2^{e.k}")
    yield row("prove, CPU time", lambda e: _seconds(e.prove_cpu_s))
    yield row("prove, time", lambda e: _seconds(e.prove_s))
    yield row("prove, memory", lambda e: _size(e.prove_memory_bytes))
    yield row("set up, time", lambda e: _seconds(e.setup_s))
    yield row("set up, memory", lambda e: _size(e.setup_memory_bytes))
    yield row("proving key", lambda e: _size(e.proving_key_bytes))
    yield row("verifying key", lambda e: _size(e.verifying_key_bytes))
    yield row("proof", lambda e: _size(e.proof_bytes))
    yield row("gas to verify", lambda e: f"{e.gas:,}")
    yield row("verifier", lambda e: f"{e.verifier_bytes:,} B")
    yield row("of EIP-170", lambda e: f"{e.verifier_bytes / report.verifier_limit_bytes:.0%}")
    yield row("leak budget", _budget)
    for size in sorted({way.batch.size for way in report.ways if way.batch}):
        batches = [
            way.batch if way.batch and way.batch.size == size else None for way in report.ways
        ]
        yield (f"one of {size}, CPU time", *map(_cpu_time, batches))
        yield (f"one of {size}, gas", *map(_gas, batches))


def _budget(estimate: Estimate) -> str:
    if estimate.leak is None:
        return "not counted"
    return f"{estimate.leak.proofs:,} proof{'' if estimate.leak.proofs == 1 else 's'}"


def _cpu_time(batch: BatchPrice | None) -> str:
    if batch is None or batch.reason or batch.prove_cpu_s_per_prediction is None:
        return "–"
    return _seconds(batch.prove_cpu_s_per_prediction)


def _gas(batch: BatchPrice | None) -> str:
    if batch is None or batch.reason or batch.gas_per_prediction is None:
        return "–"
    return f"{batch.gas_per_prediction:,}"


def _no_batch(way: Way) -> tuple[str, ...]:
    if way.batch is None or not way.batch.reason:
        return ()
    return (f"{way.batch.size} predictions in one proof: {way.batch.reason}",)


def _seconds(time_s: float) -> str:
    return f"{time_s:.3f} s" if time_s < 1 else f"{time_s:,.1f} s"


def _size(size_bytes: int) -> str:
    unit_bytes, unit = pick_unit_and_suffix(size_bytes, _UNITS, 1024)
    return f"{size_bytes / unit_bytes:,.1f} {unit}" if unit_bytes > 1 else f"{size_bytes} {unit}"

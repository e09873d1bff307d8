"""The README's tables and verdicts, made from the raw results and from nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import targets
from benchmarks.figures import percentile, side_figures

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE / "README.md"
NATIVE_WAYS = {"native": "native", "ezkl": "ezkl"}
LIBRARIES = {
    "_core": "zkserve, any x86-64",
    "_core_adx": "zkserve, BMI2 and ADX",
    "_core_ifma": "zkserve, AVX-512 IFMA",
    "gnark": "gnark-crypto",
    "ffjavascript": "ffjavascript",
}
FIELD_OPERATIONS = {
    "chain": "product, each of the one before",
    "side by side": "product, eight side by side",
    "inverse": "inverse",
}


def ezkl_tuned(result: dict[str, Any]) -> str:
    """Return tuned circuits beside default ones as Markdown, a row for each way and model."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("prove, s", lambda s: _spread_of(s["proofs"], "prove_s", 2)),
        ("CPU-s", lambda s: _spread_of(s["proofs"], "cpu_s", 2)),
        ("peak RSS, MB", lambda s: f"{side_figures(s)['peak_rss_mb']:.0f}"),
        ("key, MB", lambda s: f"{s['pk_bytes'] / 1e6:.1f}"),
        ("proof, bytes", lambda s: f"{s['proof_bytes']:,}"),
        ("gas", lambda s: f"{side_figures(s)['gas']:,}"),
        ("code, bytes", lambda s: f"{s['gas']['code_bytes']:,}"),
        ("cells", lambda s: f"{s['settings']['cells']:,}"),
        ("rows to hash", lambda s: f"{s['settings']['hash_rows']:,}"),
        ("log2 rows", lambda s: str(s["settings"]["logrows"])),
        ("columns × base ^ digits", _shape),
        ("scales, rebase", _numbers),
        ("max. difference", lambda s: f"{s['agreement']['max_abs']:.2g}"),
        ("accuracy", lambda s: _percent(s["agreement"]["circuit_accuracy"])),
        ("search, s", lambda s: _cell((s["search"] or {}).get("search_s"), ".0f")),
        ("load", lambda s: _spread_of(s["proofs"], "load_before", 1)),
    ]
    lines = [
        "| model, weights | | CPU-s, of default | " + " | ".join(t for t, _ in columns) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(columns),
    ]
    for model in result["models"]:
        for name, side in model["sides"].items():
            title = f"{name} of {side['batch']}" if side["batch"] > 1 else name
            cells = " | ".join(cell(side) for _, cell in columns)
            lines.append(
                f"| {model['model']}, {model['weights']} | {title} | {_share(model, name)} "
                f"| {cells} |"
            )
    return "\n".join([*lines, "", _measured_on(result)])


def _share(model: dict[str, Any], name: str) -> str:
    """Return a prediction's CPU seconds by those of the default; a batch's by the single's too."""
    each = {
        way: side_figures(side)["prove_cpu_s"] / side["batch"]
        for way, side in model["sides"].items()
    }
    if name == "default":
        return "1"
    share = f"1 / {each['default'] / each[name]:.1f}"
    return f"{share}; {each[name] / each['tuned']:.2f} of tuned" if name == "batch" else share


def _numbers(side: dict[str, Any]) -> str:
    s = side["settings"]
    return f"{s['input_scale']}, {s['param_scale']}, {s['scale_rebase_multiplier']}"


def service_overhead(result: dict[str, Any]) -> str:
    """Return what the service adds to each engine, as Markdown, a column for each."""
    services = result["services"]

    def latency(service: dict[str, Any], name: str, of: float) -> str:
        return f"{percentile(service['infer_ms'][name], of):.1f}"

    def over_s(service: dict[str, Any]) -> list[float]:
        return [job["job_s"] - job["prove_s"] for job in service["jobs"]]

    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("infer, idle, p50, ms", lambda s: latency(s, "idle", 50)),
        ("infer, idle, p99, ms", lambda s: latency(s, "idle", 99)),
        ("infer while a proof runs, p50, ms", lambda s: latency(s, "proving", 50)),
        ("infer while a proof runs, p99, ms", lambda s: latency(s, "proving", 99)),
        ("predictions of each kind", lambda s: str(len(s["infer_ms"]["idle"]))),
        ("job, from request to receipt, s", lambda s: _spread_of(s["jobs"], "job_s", 2)),
        ("of it the engine's proof, s", lambda s: _spread_of(s["jobs"], "prove_s", 2)),
        ("the difference, s", lambda s: _spread(over_s(s), 2)),
        ("jobs", lambda s: str(len(s["jobs"]))),
        ("API process, peak RSS, MB", lambda s: f"{s['api_peak_rss_bytes'] / 1e6:.0f}"),
        ("its children, MB", lambda s: f"{s['api_children_peak_rss_bytes'] / 1e6:.0f}"),
        ("worker process, peak RSS, MB", lambda s: f"{s['worker_peak_rss_bytes'] / 1e6:.0f}"),
    ]
    lines = [
        "| | " + " | ".join(f"{s['model']}, {s['engine']}" for s in services) + " |",
        "| --- |" + " ---: |" * len(services),
        *(f"| {title} | " + " | ".join(cell(s) for s in services) + " |" for title, cell in rows),
    ]
    return "\n".join([*lines, "", _measured_on(result)])


def native_vs_ezkl(result: dict[str, Any]) -> str:
    """Return the comparison of engines as Markdown, a row for each engine on each model."""
    columns: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("weights", lambda e: e["weights"]),
        ("prove, s", lambda e: _spread_of(e["proofs"], "prove_s", 2)),
        ("first, s", lambda e: _cell((e["first"] or {}).get("prove_s"), ".2f")),
        ("CPU-s", lambda e: _cell(figures(e)["prove_cpu_s"], ".2f")),
        ("peak RSS, MB", lambda e: _cell(figures(e)["peak_rss_mb"], ".0f")),
        ("proof, bytes", lambda e: _cell(e["proof_bytes"], ",")),
        ("gas", lambda e: _cell(figures(e)["gas"], ",")),
        ("verify, ms", lambda e: _cell(figures(e)["verify_ms"], ".1f")),
        ("accuracy", lambda e: _percent(figures(e)["accuracy"])),
        ("points lost", lambda e: _cell(figures(e)["accuracy_loss_points"], ".2f")),
        ("proofs", lambda e: str(len(e["proofs"]))),
        ("load", lambda e: _spread_of(e["proofs"], "load_before", 1)),
    ]
    lines = [
        "| | " + " | ".join(title for title, _ in columns) + " |",
        "| --- | --- |" + " ---: |" * (len(columns) - 1),
    ]
    reasons = []
    for model in result["models"]:
        for way, title in NATIVE_WAYS.items():
            measured = model["engines"][way]
            cells = " | ".join(cell(measured) for _, cell in columns)
            lines.append(f"| {model['model']}, {title} | {cells} |")
            if measured["reason"] is not None:
                reasons += [f"{model['model']}, {title}: {measured['reason']}", ""]
    return "\n".join([*lines, "", *reasons, _measured_on(result)])


def figures(measured: dict[str, Any]) -> dict[str, Any]:
    """Return the headline figures of an engine: medians, None where there is none, and why."""
    proofs, agreement = measured["proofs"], measured["agreement"] or {}
    gas, verify_ms = measured["gas"] or {}, measured["verify_ms"]
    accuracy = agreement.get("circuit_accuracy")
    lost = None if accuracy is None else 100 * (agreement["float_accuracy"] - accuracy)

    def middle(name: str) -> float | None:
        return median(proof[name] for proof in proofs) if proofs else None

    peak_rss_bytes = middle("peak_rss_bytes")
    found = {
        "prove_s": middle("prove_s"),
        "prove_cpu_s": middle("cpu_s"),
        "peak_rss_mb": None if peak_rss_bytes is None else peak_rss_bytes / 1e6,
        "proof_bytes": measured["proof_bytes"],
        "gas": gas.get("verify_gas", gas.get("verify_raw_gas")),
        "verify_ms": median(verify_ms) if verify_ms else None,
        "accuracy": accuracy,
        "accuracy_loss_points": lost,
    }
    return found if measured["reason"] is None else found | {"reason": measured["reason"]}


def native_batches(result: dict[str, Any]) -> str:
    """Return what a prediction costs alone and in a batch as Markdown, a row for each."""
    titles = ("prove, s", "s a prediction", "CPU-s a prediction", "gas a prediction")
    lines = [
        "| model | in a proof | "
        + " | ".join(titles)
        + " | of single: CPU-s | gas | proof, bytes | peak RSS, MB |",
        "| --- |" + " ---: |" * (len(titles) + 5),
    ]
    for model in result["models"]:
        single = _a_prediction(model["batches"][0])
        for found in model["batches"]:
            costs = _a_prediction(found)
            shares = [costs[name] / single[name] for name in ("prove_cpu_s", "gas")]
            lines.append(
                f"| {model['model']} | {found['batch']} "
                f"| {_spread_of(found['proofs'], 'prove_s', 2)} "
                f"| {costs['prove_s']:.3f} | {costs['prove_cpu_s']:.3f} | {costs['gas']:,.0f} "
                f"| {shares[0]:.2f} | {shares[1]:.2f} | {found['proof_bytes']:,} "
                f"| {found['peak_rss_bytes'] / 1e6:.0f} |"
            )
    return "\n".join([*lines, "", _measured_on(result)])


def _a_prediction(found: dict[str, Any]) -> dict[str, float]:
    costs = {
        name: median(proof[name] for proof in found["proofs"])
        for name in ("prove_s", "prove_cpu_s")
    } | {"gas": found["gas"]["verify_gas"]}
    return {name: cost / found["batch"] for name, cost in costs.items()}


def native_scaling(result: dict[str, Any]) -> str:
    """Return how proving grows, as Markdown."""
    lines = [
        "| model | weights | activations | prove, s | prove, CPU-s | peak RSS, MB | proof, bytes |",
        "| --- |" + " ---: |" * 6,
    ]
    for model in result["models"]:
        proofs = model["proofs"]
        lines.append(
            f"| {model['family']} | {model['weights']:,} | {model['activations']:,} "
            f"| {_spread_of(proofs, 'prove_s', 2)} | {_spread_of(proofs, 'cpu_s', 2)} "
            f"| {_middle(p['peak_rss_bytes'] / 1e6 for p in proofs)} | {model['proof_bytes']:,} |"
        )
    return "\n".join([*lines, "", _measured_on(result)])


def native_kernels(result: dict[str, Any]) -> str:
    """Return operations of the field in nanoseconds and sums in milliseconds, as Markdown."""
    names = list(result["field"][0]["ns"])
    lines = [
        "| in the field of scalars, ns | " + " | ".join(LIBRARIES[name] for name in names) + " |",
        "| --- |" + " ---: |" * len(names),
    ]
    for row in result["field"]:
        cells = " | ".join(f"{median(row['ns'][name]):,.1f}" for name in names)
        lines.append(f"| {FIELD_OPERATIONS[row['operation']]} | {cells} |")
    names = list(result["sums"][0]["ms"])
    lines += [
        "",
        "| sums, ms | scalars | threads | " + " | ".join(LIBRARIES[n] for n in names) + " | load |",
        "| ---: | --- | ---: |" + " ---: |" * (len(names) + 1),
    ]
    for row in result["sums"]:
        cells = " | ".join(f"{median(row['ms'][name]):.1f}" for name in names)
        lines.append(
            f"| 2^{row['log2_points']} | {row['scalars']} | {row['threads']} | {cells} "
            f"| {row['load_before']} |"
        )
    return "\n".join([*lines, "", _measured_on(result)])


TABLES = {
    "ezkl_tuned": ezkl_tuned,
    "service_overhead": service_overhead,
    "native_vs_ezkl": native_vs_ezkl,
    "native_scaling": native_scaling,
    "native_batches": native_batches,
    "native_kernels": native_kernels,
}


def read(name: str) -> dict[str, Any]:
    """Return the raw results that are checked in."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def section(name: str, readme: str, kind: str = "table") -> str:
    """Return what stands in the README between the marks of a table, or of its targets."""
    return readme.partition(_start(name, kind))[2].partition(_end(name, kind))[0].strip()


def rewrite(name: str) -> None:
    """Put the table of the checked-in results into the README, and its targets if it has any."""
    result = read(name)
    readme = _with(README.read_text(), name, "table", TABLES[name](result))
    if name in targets.TARGETS:
        readme = _with(readme, name, "targets", targets.markdown(name, result))
    README.write_text(readme)


def _with(readme: str, name: str, kind: str, text: str) -> str:
    before, start, rest = readme.partition(_start(name, kind))
    _, end, after = rest.partition(_end(name, kind))
    if not start or not end:
        raise ValueError(f"{README.name} has no place for the {kind} of {name}")
    return f"{before}{start}\n{text}\n{end}{after}"


def merge(path: Path, result: dict[str, Any]) -> None:
    """Write results, keeping those of other models that were measured on the same machine."""
    if path.exists():
        before = json.loads(path.read_text())
        same = ("benchmark", "hardware", "software", "hardfork")
        if any(before.get(key) != result.get(key) for key in same):
            raise ValueError(f"{path} was measured on another machine: remove it first")
        both = (*before["models"], *result["models"])
        named = {(model["model"], model.get("weights")): model for model in both}
        result = result | {"models": list(named.values())}
    path.write_text(json.dumps(result, indent=2) + "\n")


def _start(name: str, kind: str) -> str:
    return f"<!-- {kind}: {name} -->"


def _end(name: str, kind: str) -> str:
    return f"<!-- end: {name} -->" if kind == "table" else f"<!-- end {kind}: {name} -->"


def _measured_on(result: dict[str, Any]) -> str:
    hardware, software = result["hardware"], result["software"]
    fork = f", gas as of {result['hardfork']}" if "hardfork" in result else ""
    return (
        f"Measured {result['date']}: {hardware['cores']} cores of {hardware['cpu']}, "
        f"{hardware['memory_gib']} GiB, no GPU; {software['os']}, Python {software['python']}, "
        f"ezkl {software['ezkl']}{fork}. Median (minimum to maximum)."
    )


def _spread(values: Sequence[float], digits: int) -> str:
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _spread_of(proofs: Sequence[dict[str, Any]], name: str, digits: int) -> str:
    return _spread([proof[name] for proof in proofs], digits) if proofs else "–"


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _middle(values: Any) -> str:
    return f"{median(values):.0f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


def _shape(configuration: dict[str, Any]) -> str:
    s = configuration["settings"]
    return f"{s['num_inner_cols']} × {s['decomp_base']} ^ {s['decomp_legs']}"

"""What was aimed at beside what was measured, from the raw results and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.figures import percentile, side_figures

TIMES_FEWER = {"breast_cancer": 10.0, "digits_cnn": 10.0, "lenet_mnist": 1.5}
"""CPU seconds of the default by those of the tuned circuit, in ``fixed``, at least."""
HASHED = ("breast_cancer", "digits_cnn")
BATCHED = tuple((model, weights) for weights in ("fixed", "hashed") for model in HASHED)
BATCH = 8
BATCH_SHARE = 0.3
"""CPU seconds of a prediction in a batch by those of one alone, at most."""
OVERHEAD_S, OVERHEAD_SHARE = 0.5, 0.05
"""What a job may take beyond its proof: either will do."""
INFER_P99_MS = 100.0
UNUSABLE_ROWS = 8
"""Rows of each column of Halo2 that hold nothing."""
NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One target; ``met`` is None where it asks for a figure and not for a bound."""

    target: str
    measured: str
    met: bool | None

    def markdown(self) -> str:
        """Return the line as a row of a table."""
        verdict = {True: "met", False: "**missed**", None: "stated"}[self.met]
        verdict = NOT_MEASURED if self.measured == NOT_MEASURED else verdict
        return f"| {self.target} | {self.measured} | {verdict} |"


def ezkl_tuned(result: dict[str, Any]) -> list[Line]:
    """Return the targets of tuned circuits; what was not measured was not met."""
    found = {(model["model"], model["weights"]): model["sides"] for model in result["models"]}
    return [
        *(_fewer(found, model, times) for model, times in TIMES_FEWER.items()),
        *(_floor(found, model) for model in HASHED),
        *(_batch(found, model, weights) for model, weights in BATCHED),
    ]


def service_overhead(result: dict[str, Any]) -> list[Line]:
    """Return the targets of the service around each engine."""
    return [line for service in result["services"] for line in _service(service)]


def _service(service: dict[str, Any]) -> list[Line]:
    jobs, name = service["jobs"], service["model"]
    over_s = median(job["job_s"] - job["prove_s"] for job in jobs)
    share = median((job["job_s"] - job["prove_s"]) / job["prove_s"] for job in jobs)
    p99_ms = percentile(service["infer_ms"]["proving"], 99)
    return [
        Line(
            target=f"{name}: a job beyond its proof, ≤ {OVERHEAD_SHARE:.0%} or {OVERHEAD_S} s",
            measured=f"{share:.0%}, {over_s:.2f} s",
            met=share <= OVERHEAD_SHARE or over_s <= OVERHEAD_S,
        ),
        Line(
            target=f"{name}: infer, p99 while a proof runs, ≤ {INFER_P99_MS:.0f} ms",
            measured=f"{p99_ms:.1f} ms",
            met=p99_ms <= INFER_P99_MS,
        ),
    ]


TARGETS = {"ezkl_tuned": ezkl_tuned, "service_overhead": service_overhead}


def markdown(name: str, result: dict[str, Any]) -> str:
    """Return the targets of a benchmark as Markdown, one a line."""
    return "\n".join(
        ["| target | measured | |", "| --- | --- | --- |"]
        + [line.markdown() for line in TARGETS[name](result)]
    )


_Found = dict[tuple[str, str], dict[str, Any]]


def _fewer(found: _Found, model: str, times: float) -> Line:
    target = (
        f"{model}, fixed: ≥ {times:g} × fewer CPU-s than the default, held-out agreement no worse"
    )
    sides = found.get((model, "fixed"))
    if sides is None:
        return Line(target=target, measured=NOT_MEASURED, met=False)
    tuned, default = sides["tuned"], sides["default"]
    ratio = side_figures(default)["prove_cpu_s"] / side_figures(tuned)["prove_cpu_s"]
    fast = ratio >= times
    close = tuned["agreement"]["max_abs"] <= default["agreement"]["max_abs"]
    reasons = [*([] if fast else ["cost"]), *([] if close else ["agreement"])]
    return Line(
        target=target,
        measured=f"{ratio:.1f} × fewer; held out, {_agreement(tuned)} against "
        f"{_agreement(default)}" + (f"; short of it: {' and '.join(reasons)}" if reasons else ""),
        met=fast and close,
    )


def _agreement(side: dict[str, Any]) -> str:
    found = side["agreement"]
    return f"{found['max_abs']:.2g} off at most and {100 * found['top1']:.1f} % of decisions"


def _floor(found: _Found, model: str) -> Line:
    target = f"{model}, hashed: how near to the rows that the hash takes"
    sides = found.get((model, "hashed"))
    if sides is None:
        return Line(target=target, measured=NOT_MEASURED, met=None)
    settings = sides["tuned"]["settings"]
    floor = (settings["hash_rows"] + UNUSABLE_ROWS - 1).bit_length()
    usable = (1 << settings["logrows"]) - UNUSABLE_ROWS
    columns = settings["num_inner_cols"]
    columns *= -(-settings["cells"] // (columns * usable))
    return Line(
        target=target,
        measured=f"log2 rows {settings['logrows']}, columns {columns}; floor {floor} and 1",
        met=None,
    )


def _batch(found: _Found, model: str, weights: str) -> Line:
    target = f"{model}, {weights}: batch of {BATCH}, a prediction ≤ {BATCH_SHARE} of one alone"
    sides = found.get((model, weights), {})
    if "batch" not in sides or sides["batch"]["batch"] != BATCH:
        return Line(target=target, measured=NOT_MEASURED, met=False)
    each = side_figures(sides["batch"])["prove_cpu_s"] / BATCH
    share = each / side_figures(sides["tuned"])["prove_cpu_s"]
    return Line(target=target, measured=f"{share:.2f}", met=share <= BATCH_SHARE)

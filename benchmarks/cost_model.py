"""What circuits of both engines cost, and the coefficients by which preflight foretells it.

Run from the repository's root: ``python -m benchmarks.cost_model --out FILE`` measures what FILE
does not hold yet, ``python -m benchmarks.cost_model --fit`` writes each engine's ``cost.json`` from
the checked-in results.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks import environment, onchain, tables
from benchmarks.cost_circuits import SUBJECTS, Subject
from zkserve.encoding import sha256_file
from zkserve.engines import engine
from zkserve.engines.base import Bundle, CircuitPlan, Limits, Srs
from zkserve.engines.child import run_child
from zkserve.engines.ezkl import cost as ezkl_cost
from zkserve.engines.ezkl.claims import to_instances
from zkserve.engines.native import cost as native_cost
from zkserve.engines.native.protocol.description import decode
from zkserve.errors import ModelRejected
from zkserve.types import Claim, InputMode

COSTS = {"ezkl": ezkl_cost, "native": native_cost}
LIMITS = Limits(time_s=1200.0, memory_bytes=12 << 30)
_LARGE_ROWS_LOG = 16
"""Of larger circuits one proof is made instead of three."""
EZKL_SIZES = (
    "one",
    "columns",
    "tables",
    "columns*tables",
    "poseidon",
    "columns*poseidon",
    "shuffles",
)
EZKL_FITS = {
    "proving_key_bytes_a_row": (
        *("one", "columns", "extension", "columns*extension", "poseidon*extension"),
        *("tables*extension", "columns*tables*extension", "committed*extension"),
        "shuffles*extension",
    ),
    "proof_bytes": (*EZKL_SIZES, "committed"),
    "verifier_bytes": (*EZKL_SIZES, "committed"),
    "raw_gas": (*EZKL_SIZES, "committed", "instances"),
    "adapter_gas": ("one", "instances"),
    "prove_cpu_s": ("one", "key_bytes", "rows*proof_bytes"),
    "prove_memory_bytes": ("one", "rows", "key_bytes", "rows*proof_bytes"),
    "setup_cpu_s": ("one", "rows", "key_bytes"),
    "setup_memory_bytes": ("one", "rows", "key_bytes"),
}
"""The terms that each quantity of ezkl is a sum of."""
NATIVE_CELLS = ("one", "cells", "weight_cells", "row_cells", "helper_cells", "column_rows")
NATIVE_FITS = {
    "prove_cpu_s": (*NATIVE_CELLS, "product_cells", "hidden_cells"),
    "prove_memory_bytes": (*NATIVE_CELLS, "product_cells"),
    "setup_cpu_s": ("one", "cells", "weight_cells", "range_cells", "hidden_cells", "source_bytes"),
    "setup_memory_bytes": ("one", "cells", "weight_cells", "range_cells"),
    "gas": (
        *("one", "tiles", "rounds", "variables", "pieces", "outputs", "proof_bytes"),
        *("public_words", "source_bytes"),
    ),
    "verifier_bytes": ("one", "pieces", "source_bytes"),
}
"""The terms that each quantity of the native engine is a sum of."""
TIMES = ("prove_cpu_s", "setup_cpu_s")


def measure(subject: Subject, chain: onchain.LocalChain, srs_folder: Path) -> dict[str, Any]:
    """Make a circuit, prove with it, and verify on a chain."""
    proof_system, cost = engine(subject.engine), COSTS[subject.engine]
    with tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as scratch:
        folder = Path(scratch)
        model, samples = subject.network.write(folder / "model.onnx"), subject.network.samples()
        plan = CircuitPlan(
            input_mode=subject.input_mode,
            weights_mode=subject.weights_mode,
            options=subject.options,
        )
        log_size = proof_system.compile(model, plan, samples, folder / "circuit", limits=LIMITS)
        srs = _srs(subject.engine, log_size, srs_folder)
        yardstick_cpu_s = run_child(f"{cost.__name__}:yardstick", limits=LIMITS).value
        bundle = proof_system.setup(folder / "circuit", srs, limits=LIMITS)
        manifest = bundle.manifest
        proofs, batch = [], manifest.batch
        joined = np.resize(samples, (batch, samples.shape[1])).reshape(-1)
        for _ in range(1 if subject.engine == "ezkl" and log_size >= _LARGE_ROWS_LOG else 3):
            prediction = proof_system.predict(bundle, joined)
            proof = proof_system.prove(
                bundle,
                prediction.claim,
                prediction.opening,
                context=onchain.CONTEXT,
                limits=LIMITS,
            )
            proofs.append(
                {
                    "prove_s": proof.prove_s,
                    "cpu_s": proof.prove_cpu_s,
                    "peak_rss_bytes": proof.peak_rss_bytes,
                }
            )
        measured = {
            "rows": manifest.rows,
            "k": log_size,
            "prove_cpu_s": median(proof["cpu_s"] for proof in proofs),
            "prove_memory_bytes": max(proof["peak_rss_bytes"] for proof in proofs),
            "setup_cpu_s": manifest.facts["setup_cpu_s"],
            "setup_s": manifest.facts["setup_s"],
            "setup_memory_bytes": manifest.facts["setup_peak_rss_bytes"],
            "proof_bytes": len(proof.data),
            **_on_chain(bundle, chain, prediction.claim, proof.data),
            **_keys(subject, bundle),
        }
        return {
            "model": subject.name,
            "engine": subject.engine,
            "terms": _terms(subject, bundle, measured),
            "measured": measured,
            "proofs": proofs,
            "yardstick_cpu_s": yardstick_cpu_s,
        }


def _srs(engine_name: str, log_size: int, folder: Path) -> Srs:
    path = folder / f"{engine_name}-{log_size}.srs"
    if path.exists():
        return Srs(path=path, sha256=sha256_file(path), development=True)
    return engine(engine_name).development_srs(log_size, path, limits=LIMITS)


def _on_chain(
    bundle: Bundle, chain: onchain.LocalChain, claim: Claim, proof: bytes
) -> dict[str, Any]:
    """Return code size and gas; nothing where the code is larger than a chain takes."""
    manifest = bundle.manifest
    source = engine(manifest.engine).export_verifier(bundle)
    try:
        if manifest.engine == "native":
            found = chain.verify_registered(manifest, source, claim, proof)
            return {"verifier_bytes": found["code_bytes"], "gas": found["verify_gas"]}
        raw = chain.verify_raw(source, proof, to_instances(manifest, claim))
    except ModelRejected as exc:
        print(exc.message, file=sys.stderr)
        return {}
    gas = chain.verify_registered(manifest, source, claim, proof)["verify_gas"]
    return {
        "verifier_bytes": raw["code_bytes"],
        "raw_gas": raw["verify_raw_gas"],
        "adapter_gas": gas - raw["verify_raw_gas"],
        "gas": gas,
    }


def _keys(subject: Subject, bundle: Bundle) -> dict[str, int]:
    names = {
        "ezkl": ("proving_key", "verifying_key"),
        "native": ("weights", "description"),
    }[subject.engine]
    sizes = (bundle.files[name].stat().st_size for name in names)
    return dict(zip(("proving_key_bytes", "verifying_key_bytes"), sizes, strict=True))


def _terms(subject: Subject, bundle: Bundle, measured: dict[str, Any]) -> dict[str, float]:
    if subject.engine == "ezkl":
        settings = json.loads(bundle.files["settings"].read_bytes())
        shape = ezkl_cost.Shape.of(settings)
        work = ezkl_cost.work_terms(
            shape,
            key_bytes=measured["proving_key_bytes"],
            proof_bytes=measured["proof_bytes"],
        )
        return {**shape.terms, **work, "logrows": shape.logrows}
    return dict(
        native_cost.terms(
            decode(bundle.files["description"].read_bytes()),
            hidden=bundle.manifest.input_mode is InputMode.COMMITTED,
            weight_bytes=bundle.manifest.parameters["weight_bytes"],
            source_bytes=len(bundle.files["verifier_source"].read_text()),
        )
    )


def fit(result: dict[str, Any], engine_name: str) -> dict[str, Any]:
    """Return what an engine's ``cost.json`` holds, from the raw results.

    Coefficients are not negative, and fitted to the least sum of squares of relative errors.
    Seconds are first brought to the speed of the median yardstick.
    """
    found = [circuit for circuit in result["circuits"] if circuit["engine"] == engine_name]
    yardstick_cpu_s = median(circuit["yardstick_cpu_s"] for circuit in found)
    fits = EZKL_FITS if engine_name == "ezkl" else NATIVE_FITS
    coefficients = {}
    for quantity, names in fits.items():
        rows, values = [], []
        for circuit in found:
            value = _quantity(circuit, quantity)
            if value is None:
                continue
            if quantity in TIMES:
                value *= yardstick_cpu_s / circuit["yardstick_cpu_s"]
            rows.append([_term(circuit, name) for name in names])
            values.append(value)
        coefficients[quantity] = _least_squares(names, rows, values)
    if engine_name == "ezkl":
        coefficients |= _verifying_key(found)
    return {
        "obtained": "Fitted by benchmarks/cost_model.py to benchmarks/results/cost_model.json.",
        "date": result["date"],
        "hardware": result["hardware"],
        "software": result["software"],
        "circuits": len(found),
        "yardstick_cpu_s": yardstick_cpu_s,
        "serial": _serial(_proofs(result, engine_name), result["hardware"]["cores"]),
        "coefficients": coefficients,
    }


def _quantity(circuit: dict[str, Any], quantity: str) -> float | None:
    measured, terms = circuit["measured"], circuit["terms"]
    if quantity == "proving_key_bytes_a_row":
        return float(measured["proving_key_bytes"] / (1 << terms["logrows"]))
    value = measured.get(quantity)
    return None if value is None else float(value)


def _term(circuit: dict[str, Any], name: str) -> float:
    return float(circuit["terms"][name])


def _verifying_key(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Fit the two parts of ezkl's verifying key: a bit a row for each selector, and the rest."""
    names = [*EZKL_SIZES, "committed"]
    rows, values = [], []
    for circuit in found:
        terms = circuit["terms"]
        own = [terms[name] for name in names]
        rows.append([size * (1 << terms["logrows"]) / 8 for size in own] + own)
        values.append(float(circuit["measured"]["verifying_key_bytes"]))
    both = [f"{part}:{name}" for part in ("bits", "rest") for name in names]
    fitted = _least_squares(both, rows, values)
    return {
        quantity: {
            name.partition(":")[2]: each
            for name, each in fitted.items()
            if name.startswith(part + ":")
        }
        for quantity, part in (
            ("verifying_key_bits_a_row", "bits"),
            ("verifying_key_bytes", "rest"),
        )
    }


def _least_squares(
    names: Iterable[str], rows: list[list[float]], values: list[float]
) -> dict[str, float]:
    relative = np.array(rows, float) / np.array(values)[:, None]
    units = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    solution, _ = nnls(relative / units, np.ones(len(values)), maxiter=10_000)
    return {
        name: float(f"{each / unit:.5g}")
        for name, each, unit in zip(names, solution, units, strict=True)
        if each > 0
    }


def _serial(proofs: Iterable[dict[str, Any]], cores: int) -> float:
    """Return the share of CPU seconds that one thread alone spends, by wall seconds of proofs.

    A busy machine makes it too large, and small proofs are mostly starting up: the least share
    among proofs of at least a second counts.
    """
    shares = [
        (proof["prove_s"] / proof["cpu_s"] * cores - 1) / (cores - 1)
        for proof in proofs
        if cores > 1 and proof["cpu_s"] >= 1.0
    ]
    return round(min(max(min(shares, default=1.0), 0.0), 1.0), 2)


def _proofs(result: dict[str, Any], engine_name: str) -> list[dict[str, Any]]:
    """Return all proofs of an engine in checked-in results of the same machine."""
    proofs = [p for c in result["circuits"] if c["engine"] == engine_name for p in c["proofs"]]
    if engine_name == "native":
        scaling = tables.read("native_scaling")
        return proofs + [p for model in scaling["models"] for p in model["proofs"]]
    return proofs + list(result["quieter_proofs"]["proofs"])


def errors(result: dict[str, Any], engine_name: str) -> dict[str, float]:
    """Return the largest factor by which each quantity is off on what it was fitted to."""
    fitted = fit(result, engine_name)
    coefficients, worst = fitted["coefficients"], {}
    for quantity in EZKL_FITS if engine_name == "ezkl" else NATIVE_FITS:
        factors = [1.0]
        for circuit in result["circuits"]:
            value = _quantity(circuit, quantity) if circuit["engine"] == engine_name else None
            if value is None:
                continue
            if quantity in TIMES:
                value *= fitted["yardstick_cpu_s"] / circuit["yardstick_cpu_s"]
            said = sum(each * _term(circuit, name) for name, each in coefficients[quantity].items())
            factors.append(max(said / value, value / said))
        worst[quantity] = round(max(factors), 3)
    return worst


def main() -> None:
    """Measure what was not measured yet, or fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--out", type=Path, help="add raw results to this file")
    parser.add_argument("--fit", action="store_true", help="write each engine's cost.json")
    arguments = parser.parse_args()
    if arguments.fit:
        result = tables.read("cost_model")
        for name, cost in COSTS.items():
            cost.MODEL_FILE.write_text(json.dumps(fit(result, name), indent=2) + "\n")
            print(name, errors(result, name))
        return
    known = json.loads(arguments.out.read_text()) if arguments.out.exists() else None
    result = known or {
        "benchmark": "cost_model",
        **environment.describe(),
        "circuits": [],
        "quieter_proofs": {"engine": "ezkl", "proofs": []},
    }
    done = {circuit["model"] for circuit in result["circuits"]}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zkserve-anvil-")))
        chain = stack.enter_context(onchain.running(logs))
        for name in arguments.model:
            if name in done:
                continue
            started = time.monotonic()
            circuit = measure(SUBJECTS[name], chain, logs)
            result["circuits"].append(circuit)
            arguments.out.write_text(json.dumps(result, indent=1) + "\n")
            took = f"{time.monotonic() - started:.0f} s"
            print(name, took, json.dumps(circuit["measured"]), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

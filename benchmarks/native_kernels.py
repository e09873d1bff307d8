"""Sums in G1 and products in the field of BN254, most of a native proof's work, beside others'.

Run from the repository's root: ``python -m benchmarks.native_kernels --out FILE``. ffjavascript is
installed from npm into a temporary folder; gnark-crypto is measured if ``--gnark`` names the
program that ``kernels/gnark.go`` says how to build. All get the same points and scalars, run in
turn, and must give the same results. Products and inverses are timed in ``kernels/field.cpp``,
built here from the core's own headers.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import environment, tables
from zkserve.engines.native import core
from zkserve.engines.native.protocol.curve import ORDER

KERNELS = Path(__file__).resolve().parent / "kernels"
FFJAVASCRIPT = "0.3.1"
SIZES = (12, 14, 15, 16, 17)
FIELD_STEPS = 1 << 22
FIELD_FLAGS = {"_core": (), "_core_adx": ("-mbmi2", "-madx")}
"""As in the core's CMakeLists.txt; AVX-512 multiplies eight coordinates at once in sums only."""
CPP = Path(core.__file__).resolve().parent / "cpp"
SCALARS = {
    "full": lambda: secrets.randbelow(ORDER),
    "8 bits": lambda: secrets.randbelow(256),
}
FIELD_OPERATIONS = ("chain", "side by side", "inverse")
Contender = Callable[[int, str, int, int], dict[str, Any]]


class Work:
    """Points and scalars in files, for programs of any language."""

    def __init__(self, folder: Path, most: int) -> None:
        srs = folder / "powers.srs"
        core.load().srs_generate(str(srs), most, 2)
        self.points = folder / "points"
        self.points.write_bytes(srs.read_bytes()[144:])
        self.scalars = {kind: folder / kind.replace(" ", "-") for kind in SCALARS}
        for kind, draw in SCALARS.items():
            words = (draw().to_bytes(32, "big") for _ in range(most))
            self.scalars[kind].write_bytes(b"".join(words))


def ours(variant: str, work: Work) -> Contender:
    """Return one variant of the core, small scalars by the entry for small ones."""
    module = core.load(variant)
    points = work.points.read_bytes()

    def run(n: int, kind: str, threads: int, runs: int) -> dict[str, Any]:
        bases = module.Bases(points[: 64 * n], threads)
        words = work.scalars[kind].read_bytes()[: 32 * n]
        last_bytes = np.frombuffer(words, np.uint8).reshape(n, 32)[:, 31].astype(np.int32)
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            total = bases.msm(words) if kind == "full" else bases.msm_small(last_bytes)
            times.append((time.perf_counter() - started) * 1000)
        return {"ms": times, "sum": total.hex()}

    return run


def theirs(command: list[str], work: Work) -> Contender:
    """Return a program that takes files."""

    def run(n: int, kind: str, threads: int, runs: int) -> dict[str, Any]:
        arguments = [str(work.points), str(work.scalars[kind]), str(n), str(threads), str(runs)]
        done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def contenders(work: Work, folder: Path, gnark: Path | None) -> dict[str, Contender]:
    """Return all that this machine can run, by name."""
    fastest = core.load("_core").supported_variant()
    variants = core.VARIANTS[: core.VARIANTS.index(fastest) + 1]
    found = {variant: ours(variant, work) for variant in variants}
    if gnark:
        found["gnark"] = theirs([str(gnark.resolve())], work)
    if shutil.which("npm") and shutil.which("node"):
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", f"ffjavascript@{FFJAVASCRIPT}"],
            cwd=folder,
            check=True,
            stdout=sys.stderr,
        )
        script = folder / "ffjavascript.mjs"
        shutil.copy(KERNELS / script.name, script)
        found["ffjavascript"] = theirs(["node", str(script)], work)
    return found


def measure_field(folder: Path, runs: int, gnark: Path | None) -> list[dict[str, Any]]:
    """Time one product, alone and side by side, and one inverse; SystemExit if results differ."""
    commands = {}
    for variant, flags in FIELD_FLAGS.items():
        if variant == "_core" or core.load("_core").supported_variant() != "_core":
            program = folder / f"field{variant}"
            sources = [str(KERNELS / "field.cpp"), str(CPP / "curve.cpp")]
            options = ["-std=c++17", "-O3", "-fno-tree-slp-vectorize", "-pthread", f"-I{CPP}"]
            subprocess.run(["g++", *options, *flags, *sources, "-o", str(program)], check=True)
            commands[variant] = str(program)
    if gnark:
        commands["gnark"] = str(gnark.resolve())
    ran: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, command in commands.items():
            done = subprocess.run([command, str(FIELD_STEPS)], check=True, capture_output=True)
            ran[name].append(json.loads(done.stdout))
    if len({run["result"] for times in ran.values() for run in times}) != 1:
        raise SystemExit(f"The results differ: {ran}")
    return [
        {
            "operation": operation,
            "ns": {name: [run[operation] for run in ran[name]] for name in ran},
        }
        for operation in FIELD_OPERATIONS
    ]


def measure(sizes: list[int], threads: list[int], runs: int, gnark: Path | None) -> dict[str, Any]:
    """Measure every contender on every size; SystemExit if two sums differ."""
    sums = []
    with tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as scratch:
        folder = Path(scratch)
        work = Work(folder, 2 ** max(sizes))
        running = contenders(work, folder, gnark)
        field = measure_field(folder, runs, gnark)
        for size in sizes:
            for kind in SCALARS:
                for count in threads:
                    load = os.getloadavg()[0]
                    ran = {name: run(2**size, kind, count, runs) for name, run in running.items()}
                    if len({result["sum"] for result in ran.values()}) != 1:
                        raise SystemExit(f"The sums differ: {ran}")
                    times = {name: result["ms"] for name, result in ran.items()}
                    row = {"log2_points": size, "scalars": kind, "threads": count}
                    sums.append(row | {"load_before": round(load, 2), "ms": times})
                    medians = {name: round(median(ms), 2) for name, ms in times.items()}
                    print(row | medians, file=sys.stderr, flush=True)
    return {
        "benchmark": "native_kernels",
        **environment.describe(),
        "versions": {"ffjavascript": FFJAVASCRIPT, "gnark-crypto": "commit e07d4d57dbc4"},
        "field": field,
        "sums": sums,
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs="+", type=int, default=[*SIZES], help="log2 of points")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, os.cpu_count() or 1])
    parser.add_argument("--runs", type=int, default=7, help="sums of each; medians count")
    parser.add_argument("--gnark", type=Path, help="the program built from kernels/gnark.go")
    parser.add_argument("--out", type=Path, help="write raw results to this file")
    parser.add_argument("--table", action="store_true", help="only rewrite the README's table")
    arguments = parser.parse_args()
    if arguments.table:
        tables.rewrite("native_kernels")
        return
    result = measure(arguments.size, arguments.threads, arguments.runs, arguments.gnark)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(tables.native_kernels(result))


if __name__ == "__main__":
    main()

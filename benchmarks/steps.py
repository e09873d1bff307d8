"""What the benchmarks run in child processes: plain ezkl as its documentation shows it, and clocks.

"Plain" means: the ONNX file as exported, ``PyRunArgs`` with nothing set but the three visibilities,
``calibrate_settings`` with nothing given but data and the target "resources". Whoever gives more
says so.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ezkl

from zkserve.engines.ezkl import steps

MODEL, SETTINGS, COMPILED = "model.onnx", "settings.json", "model.compiled"
VERIFYING_KEY, PROVING_KEY, VERIFIER = "vk.key", "pk.key", "Verifier.sol"
WITNESS, PROOF = "witness.json", "proof.json"


def compile_plain(
    *,
    folder: str,
    calibration: str,
    input_visibility: str,
    weights_visibility: str = "hashed",
    run_args: dict[str, Any] | None = None,
    search: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Compile ``model.onnx`` in ``folder``; return the settings that calibration chose.

    ``run_args`` go into ``PyRunArgs`` and ``search`` to ``calibrate_settings``.
    """
    at = Path(folder)
    import numpy as np  # late: neither side's prover should pay for it

    network, settings = str(at / MODEL), str(at / SETTINGS)
    arguments = ezkl.PyRunArgs()
    arguments.input_visibility = input_visibility
    arguments.param_visibility = weights_visibility
    arguments.output_visibility = "public"
    for name, value in (run_args or {}).items():
        setattr(arguments, name, value)
    ezkl.gen_settings(network, settings, py_run_args=arguments)
    samples = np.load(calibration, allow_pickle=False)
    data = Path("calibration.json")
    data.write_text(json.dumps({"input_data": [samples.reshape(-1).tolist()]}))
    ezkl.calibrate_settings(str(data), network, settings, "resources", **(search or {}))
    ezkl.compile_circuit(network, str(at / COMPILED), settings)
    chosen: dict[str, Any] = json.loads((at / SETTINGS).read_text())
    return chosen


def make_plain_keys(*, folder: str, srs: str) -> None:
    """Make the keys and the Solidity verifier."""
    at = Path(folder)
    ezkl.setup(
        str(at / COMPILED),
        str(at / VERIFYING_KEY),
        str(at / PROVING_KEY),
        srs,
        witness_path=None,
        disable_selector_compression=False,
    )
    import asyncio  # late: neither side's prover should pay for it

    source = at / VERIFIER
    try:
        asyncio.run(_create_verifier(at, source, srs))
    except RuntimeError as exc:
        # The source is complete by then; only the ABI, which is known, needs a compiler.
        if "svm" not in str(exc) or not source.is_file():
            raise


async def _create_verifier(at: Path, source: Path, srs: str) -> None:
    await ezkl.create_evm_verifier(
        str(at / VERIFYING_KEY), str(at / SETTINGS), str(source), "abi.json", srs, reusable=False
    )


def predict_plain(*, folder: str, samples: str, outputs: str) -> list[int]:
    """Write the circuit's dequantised outputs, NaN where it fails; return the rows that fail."""
    at = Path(folder)
    import numpy as np  # late, as above

    settings = json.loads((at / SETTINGS).read_text())
    (scale,) = settings["model_output_scales"]
    low, high = settings["run_args"]["lookup_range"]
    width = int(np.prod(settings["model_instance_shapes"][-1]))
    rows, failed = [], []
    for number, sample in enumerate(np.load(samples, allow_pickle=False)):
        try:
            found = _witness(at, sample.tolist())
        except RuntimeError:
            failed.append(number)
            rows.append([float("nan")] * width)
            continue
        if settings["required_lookups"] and not (
            low <= found["min_lookup_inputs"] and found["max_lookup_inputs"] <= high
        ):
            failed.append(number)
        felts = [felt for column in found["outputs"] for felt in column]
        rows.append([ezkl.felt_to_float(felt, scale) for felt in felts])
    np.save(outputs, np.array(rows))
    return failed


def prove_plain(*, folder: str, srs: str, sample: list[float]) -> dict[str, Any]:
    """Make a witness, prove it, verify the proof: what zkserve's engine does in its child too."""
    at = Path(folder)
    _witness(at, sample)
    proof = str(at / PROOF)
    ezkl.prove(WITNESS, str(at / COMPILED), str(at / PROVING_KEY), proof, srs)
    if not _verify_plain(at, srs):
        raise RuntimeError("plain ezkl made a proof that does not verify")
    made = json.loads(Path(proof).read_text())
    return {
        "proof": made["hex_proof"].removeprefix("0x"),
        "instances": [steps.from_felt(felt) for column in made["instances"] for felt in column],
    }


def time_plain_verify(*, folder: str, srs: str, runs: int) -> list[float]:
    """Return milliseconds of each verification of the last proof, in one warm process."""
    at = Path(folder)
    return [milliseconds(lambda: _verify_plain(at, srs)) for _ in range(runs)]


def _witness(at: Path, sample: list[float]) -> dict[str, Any]:
    data = Path("input.json")
    data.write_text(json.dumps({"input_data": [sample]}))
    ezkl.gen_witness(str(data), str(at / COMPILED), WITNESS, vk_path=None, srs_path=None)
    found: dict[str, Any] = json.loads(Path(WITNESS).read_text())
    return found


def _verify_plain(at: Path, srs: str) -> bool:
    return bool(ezkl.verify(str(at / PROOF), str(at / SETTINGS), str(at / VERIFYING_KEY), srs))


def milliseconds(work: Any) -> float:
    """Return how long ``work()`` takes."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000

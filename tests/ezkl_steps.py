"""Steps that tests run in child processes to do with ezkl itself what zkserve never does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import ezkl

from zkserve.encoding import sha256_file
from zkserve.engines.ezkl import steps


def prove_altered(*, part: str, **arguments: Any) -> dict[str, Any]:
    """Prove as the engine does, from a witness that is altered once it was checked.

    Return whether ezkl came back with a proof, and what the engine's step then said of it.
    """
    seen = {"proof": False, "step": "released it"}
    prove = ezkl.prove

    def altered(witness: str, compiled: str, key: str, out: str, srs: str) -> None:
        data = json.loads(Path(witness).read_text())
        column = data[part][0]
        column[0] = steps.to_felt(steps.from_felt(column[0]) + 1)
        Path(witness).write_text(json.dumps(data))
        prove(witness, compiled, key, out, srs)
        seen["proof"] = len(json.loads(Path(out).read_text())["proof"]) > 0

    with mock.patch.object(ezkl, "prove", altered):
        try:
            steps.prove(**arguments)
        except Exception as exc:  # noqa: BLE001 (whatever it is, the test looks at it)
            seen["step"] = type(exc).__name__
    return seen


def verify_alone(
    *, settings: str, verifying_key: str, verifier_srs: str, instances: list[int], proof: str
) -> bool:
    """Ask ezkl itself, without any check of ours."""
    steps.verify(
        settings=settings,
        verifying_key=verifying_key,
        verifier_srs=verifier_srs,
        instances=instances,
        proof=proof,
    )
    return True


def lay_out(*, model: str) -> None:
    """Let ezkl read a model that nobody checked."""
    ezkl.gen_settings(model, "settings.json", py_run_args=ezkl.PyRunArgs())


def panic() -> None:
    """Make ezkl panic: the felt is too short."""
    ezkl.felt_to_int("00")


def panic_in_a_step(**arguments: Any) -> None:
    """Make ezkl panic while a step of the engine computes a witness."""

    def panicking(*_: Any, **__: Any) -> None:
        panic()

    with mock.patch.object(ezkl, "gen_witness", panicking):
        steps.witness(**arguments)


def is_an_exception() -> bool:
    """Return whether ``except Exception`` would catch a panic."""
    try:
        panic()
    except Exception:  # noqa: BLE001 (that is the question)
        return True
    except BaseException:  # noqa: BLE001
        return False
    return True


def set_up_with_cache(*, folder: str, srs: str, cache: str) -> str:
    """Make keys with a cache of somebody's choosing; return the digest of the verifying key."""
    os.environ["EZKL_REPO_PATH"] = cache
    key = Path("vk.key")
    ezkl.setup(
        str(Path(folder, "model.compiled")),
        str(key),
        "pk.key",
        srs,
        witness_path=None,
        disable_selector_compression=False,
    )
    return sha256_file(key)

"""Compile generated Solidity to bytecode that fits on a chain."""

from __future__ import annotations

import json
import shlex
import subprocess
from dataclasses import dataclass
from typing import Any

from zkserve.encoding import hex_bytes
from zkserve.errors import ChainError, ModelRejected, Unavailable
from zkserve.types import CODE_LIMIT_BYTES

SOLC_VERSION = "0.8.37"
EVM_VERSION = "cancun"
_RUNS = (10_000, 1)  # from fast to small: the smaller is tried only where the faster does not fit
_OUTPUTS = ("evm.bytecode.object", "evm.deployedBytecode.object", "metadata")
_TIME_LIMIT_S = 300


@dataclass(frozen=True, kw_only=True)
class Bytecode:
    """What creates a contract, and what then lies on the chain."""

    creation: bytes
    runtime: bytes


def compile_verifier(source: str, solc: str) -> Bytecode:
    """Compile the one contract in a generated verifier's source; the same source, the same code.

    ``solc`` is a command that speaks ``--standard-json``. The optimiser is on; the IR pipeline is
    off, under which these verifiers do not compile (stack too deep).

    Raises:
        ModelRejected: the code is larger than a chain takes.
        ChainError: the source does not compile, or the compiler is of another version.
        Unavailable: there is no such compiler.

    """
    code = _fitting(source, solc)
    require_deployable(len(code.runtime))
    return code


def verifier_bytes(source: str, solc: str) -> int:
    """Return the size that a verifier's code would have on a chain, as it would be compiled for it.

    Raises:
        ChainError, Unavailable: see :func:`compile_verifier`.

    """
    return len(_fitting(source, solc).runtime)


def require_deployable(size_bytes: int) -> None:
    """Return if a chain takes code of this size.

    Raises:
        ModelRejected: it is larger than a chain takes.

    """
    if size_bytes > CODE_LIMIT_BYTES:
        raise ModelRejected(
            f"The verifier has {size_bytes} bytes, a chain takes {CODE_LIMIT_BYTES}.",
            remedy="Give the circuit fewer columns: fewer kinds of operations, smaller lookups, no "
            "option freivalds; or publish with --no-chain.",
        )


def _fitting(source: str, solc: str) -> Bytecode:
    """Return the code with the fastest settings under which it fits, or else the smallest."""
    for runs in _RUNS:
        code = _compile(source, solc, runs)
        if len(code.runtime) <= CODE_LIMIT_BYTES:
            break
    return code


def solc_version(solc: str) -> str:
    """Return the version of the compiler behind a command.

    Raises:
        Unavailable: it cannot be run.
        ChainError: it is none.

    """
    probe = "// SPDX-License-Identifier: MIT\npragma solidity *; contract Probe {}"
    _compile(probe, solc, 1)
    return SOLC_VERSION


def _compile(source: str, solc: str, runs: int) -> Bytecode:
    request = {
        "language": "Solidity",
        "sources": {"Verifier.sol": {"content": source}},
        "settings": {
            "optimizer": {"enabled": True, "runs": runs},
            "evmVersion": EVM_VERSION,
            "metadata": {"bytecodeHash": "none", "appendCBOR": False},
            "outputSelection": {"*": {"*": list(_OUTPUTS)}},
        },
    }
    answer = _answer(solc, request)
    errors = [error for error in answer.get("errors", []) if error["severity"] == "error"]
    if errors:
        raise ChainError(
            f"The verifier does not compile: {errors[0]['formattedMessage'].strip()[:500]}."
        )
    contracts: list[dict[str, Any]] = [
        contract
        for contract in answer["contracts"]["Verifier.sol"].values()
        if contract["evm"]["bytecode"]["object"]  # interfaces have none
    ]
    if len(contracts) != 1:
        raise ChainError(f"The verifier's source has {len(contracts)} contracts; expected one.")
    version = json.loads(contracts[0]["metadata"])["compiler"]["version"]
    if version.partition("+")[0] != SOLC_VERSION:
        raise ChainError(
            f"{solc!r} is version {version}, expected {SOLC_VERSION}: others give other code.",
            remedy=f"Point ZKSERVE_SOLC at solc {SOLC_VERSION}.",
        )
    code = contracts[0]["evm"]
    return Bytecode(
        creation=hex_bytes("0x" + code["bytecode"]["object"]),
        runtime=hex_bytes("0x" + code["deployedBytecode"]["object"]),
    )


def _answer(solc: str, request: dict[str, Any]) -> dict[str, Any]:
    try:
        done = subprocess.run(
            [*shlex.split(solc), "--standard-json"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=_TIME_LIMIT_S,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except (FileNotFoundError, PermissionError) as exc:
        raise Unavailable(
            f"The Solidity compiler {solc!r} cannot be run.",
            remedy="Run `npm ci` in contracts/, or set ZKSERVE_SOLC.",
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise Unavailable(f"{solc!r} did not finish within {_TIME_LIMIT_S} s.") from exc
    except subprocess.CalledProcessError as exc:
        raise ChainError(
            f"{solc!r} failed: {exc.stderr.strip()[:500]}.",
            remedy="Run `npm ci` in contracts/; Node 20 or newer must be on the PATH.",
        ) from exc
    except ValueError as exc:
        raise ChainError(f"{solc!r} does not answer in standard JSON.") from exc
    return answer

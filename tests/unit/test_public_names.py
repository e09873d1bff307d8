"""What others import keeps its name: the SDK, the errors, the engine protocol, the domain."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from zkserve import encoding, errors, receipt, types, verify
from zkserve.engines import ENGINES, base, engine
from zkserve.errors import ZkserveError


def drawn() -> dict[str, str]:
    """Read the tree in the docstring of the errors: each name and its parent's."""
    parents: dict[str, str] = {}
    branch: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│ ├└─]*)([A-Z]\w+) ", line)
        if found:
            depth = len(found[1]) // 4
            branch[depth:] = [found[2]]
            parents[found[2]] = branch[depth - 1] if depth else "Exception"
    return parents


def defined() -> dict[str, type[ZkserveError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ZkserveError)
    }


def test_the_drawing_of_the_errors_is_their_tree():
    assert drawn() == {name: kind.__bases__[0].__name__ for name, kind in defined().items()}


def test_each_error_has_a_code_of_its_own_and_an_http_status():
    kinds = list(defined().values())
    assert len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
        assert 400 <= kind.status < 600


def test_an_error_says_what_to_do_after_what_was_wrong():
    assert str(ZkserveError("It broke.", remedy="Mend it.")) == "It broke. Mend it."
    assert str(ZkserveError("It broke.")) == "It broke."


CODES = {
    "error",
    "invalid-input",
    "recipe-invalid",
    "model-rejected",
    "input-out-of-range",
    "not-found",
    "conflict",
    "idempotency-conflict",
    "unauthorized",
    "proof-invalid",
    "bundle-mismatch",
    "engine-failed",
    "child-killed",
    "child-timeout",
    "cancelled",
    "development-srs-refused",
    "storage-key-wrong",
    "chain-error",
    "transaction-reverted",
    "unavailable",
    "unprofitable",
    "leak-budget-spent",
    "version-deprecated",
}


def test_codes_that_programs_compare_are_kept():
    assert {kind.code for kind in defined().values()} == CODES


def test_all_that_verify_exports_is_there():
    for name in verify.__all__:
        assert inspect.getdoc(getattr(verify, name)), name


PROTOCOL = {
    "unsupported": ["model", "limits", "cancelled"],
    "estimate": ["model", "plan", "calibration", "limits", "cancelled"],
    "compile": ["model", "plan", "calibration", "out", "limits", "progress", "cancelled"],
    "development_srs": ["log_size", "out", "limits"],
    "setup": ["compiled", "srs", "limits", "progress", "cancelled"],
    "reproducible": ["manifest"],
    "predict": ["bundle", "inputs", "salt"],
    "reopen": ["bundle", "opening"],
    "prove": ["bundle", "claim", "opening", "context", "limits", "progress", "cancelled"],
    "verify": ["bundle", "claim", "proof", "limits"],
    "context_of": ["proof"],
    "caveats": ["bundle"],
    "unpack_input": ["bundle", "packed"],
    "check_opening": ["bundle", "claim", "opening"],
    "check_verifier": ["bundle", "limits"],
    "check_model": ["bundle", "limits"],
    "export_verifier": ["bundle"],
}


def parameters(function: object) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]  # type: ignore[arg-type]


def test_the_engine_protocol_is_what_engines_were_written_for():
    methods = {
        name: parameters(value)
        for name, value in vars(base.Engine).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert methods == PROTOCOL
    named = {"name", "version", "weights_mode", "weights_modes", "verifying_key", "leak_warning"}
    assert base.Engine.__annotations__.keys() == named


@pytest.mark.parametrize("name", ENGINES)
def test_each_engine_keeps_to_the_protocol(name: str):
    proof_system = engine(name)
    assert proof_system.name == name
    assert proof_system.version
    for method, expected in PROTOCOL.items():
        assert parameters(getattr(proof_system, method)) == expected, method


def test_an_engine_there_is_not_is_not_found():
    with pytest.raises(errors.NotFound, match="'halo3'") as refused:
        engine("halo3")
    assert all(name in str(refused.value.remedy) for name in ENGINES)


DOMAIN = {
    "Receipt": [
        "claim",
        "proof",
        "engine",
        "engine_version",
        "model",
        "version",
        "output_scale",
        "development_srs",
        "settlement",
    ],
    "Claim": ["circuit_id", "weights", "input", "outputs"],
    "CircuitManifest": [
        "circuit_id",
        "engine",
        "engine_version",
        "input_mode",
        "weights_mode",
        "weights",
        "inputs",
        "output",
        "output_scale",
        "pins",
        "public",
        "development_srs",
        "rows",
        "parameters",
        "facts",
        "agreement",
        "leak",
    ],
}


@pytest.mark.parametrize("name", DOMAIN)
def test_what_is_written_down_for_good_keeps_its_fields(name: str):
    assert [field.name for field in fields(getattr(types, name))] == DOMAIN[name]


def test_the_domain_is_frozen_and_keyword_only():
    for name, kind in vars(types).items():
        if is_dataclass(kind):
            parameters = kind.__dataclass_params__  # type: ignore[union-attr]
            assert parameters.frozen, name
            assert all(field.kw_only for field in fields(kind)), name


def test_tags_and_formats_are_kept():
    assert encoding.CIRCUIT_TAG == b"zkserve/circuit/v1"
    assert encoding.CLAIM_TAG.hex() == encoding.keccak(b"zkserve/claim/v1").hex()
    assert receipt.RECEIPT_FORMAT == "zkserve/receipt/v1"
    assert receipt.MANIFEST_FORMAT == "zkserve/manifest/v1"


def test_the_domain_imports_nothing_from_outside():
    for module in (types, errors):
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] in sys.stdlib_module_names, module
            if isinstance(node, ast.Import):
                assert all(a.name.split(".")[0] in sys.stdlib_module_names for a in node.names)


_LIGHT = """
import sys
import {module}
heavy = {{"torch", "ezkl", "onnx", "onnxruntime", "web3", "numpy"}} & sys.modules.keys()
assert not heavy, heavy
"""


@pytest.mark.parametrize("module", ["zkserve", "zkserve.client", "zkserve.receipt"])
def test_what_users_import_stays_light(module: str):
    child = subprocess.run(
        [sys.executable, "-c", _LIGHT.format(module=module)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr

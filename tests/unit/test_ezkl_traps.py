"""Traps of ezkl 23.0.5 that need no proof to be seen; docs/security.md lists them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import child_steps
from zkserve.engines.base import CircuitPlan, Limits
from zkserve.engines.child import run_child
from zkserve.engines.ezkl.options import Options
from zkserve.engines.srs import load_srs
from zkserve.errors import BundleMismatch
from zkserve.types import InputMode, WeightsMode

ROOT = Path(__file__).parents[2]
LIMITS = Limits(time_s=60, memory_bytes=4 << 30)
STEPS = "tests.child_steps:"


def sources() -> dict[Path, str]:
    return {path: path.read_text() for path in (ROOT / "zkserve").rglob("*.py")}


def test_ezkl_is_never_loaded_where_jobs_and_requests_are_served():
    """Trap 4: it holds the GIL while it proves, and takes the process with it when it aborts."""
    code = (
        "import sys, zkserve.api, zkserve.worker, zkserve.publish, zkserve.engines.ezkl\n"
        "print('ezkl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_each_heavy_step_has_a_fresh_interpreter_and_nothing_is_forked(
    monkeypatch: pytest.MonkeyPatch,
):
    """Trap 4: a process forked after ezkl was used deadlocks."""
    monkeypatch.setattr(child_steps, "MARK", "inherited")
    found = [run_child(STEPS + "whose", limits=LIMITS).value for _ in range(2)]
    assert [answer["mark"] for answer in found] == ["imported", "imported"]
    assert len({answer["pid"] for answer in found}) == 2
    calls = re.compile(r"\bos\.fork\b|\bmultiprocessing\b")
    assert not [path for path, text in sources().items() if calls.search(text)]


@pytest.mark.parametrize("input_mode", list(InputMode))
def test_weights_are_bound_unless_said_otherwise_though_ezkl_s_default_is_fixed(
    input_mode: InputMode,
):
    """Trap 5: ``param_visibility`` is "fixed" where nobody sets it, and "private" binds nothing."""
    plan = CircuitPlan(input_mode=input_mode, weights_mode=WeightsMode.HASHED)
    arguments = Options.of(plan).run_args(input_mode, WeightsMode.HASHED)
    assert arguments["param_visibility"] == "hashed"
    assert arguments["output_visibility"] == "public"
    assert arguments["input_visibility"] in {"public", "hashed"}
    assert arguments["check_mode"] == "SAFE"


def test_freivalds_is_off_unless_asked_for():
    """Trap 15."""
    for options, disabled in (({}, True), ({"freivalds": True}, False)):
        plan = CircuitPlan(
            input_mode=InputMode.PUBLIC, weights_mode=WeightsMode.HASHED, options=options
        )
        found = Options.of(plan).run_args(InputMode.PUBLIC, WeightsMode.HASHED)
        assert found["disable_freivalds"] is disabled


def test_an_srs_of_another_digest_is_refused_and_kept(tmp_path: Path):
    """Trap 13: ezkl's ``get_srs`` deletes it. We never call that."""
    path = tmp_path / "kzg.srs"
    path.write_bytes(b"powers")
    with pytest.raises(BundleMismatch):
        load_srs(path, sha256="00" * 32, production=True)
    assert path.read_bytes() == b"powers"
    assert not [path for path, text in sources().items() if "ezkl.get_srs" in text]


def test_the_reusable_verifier_of_ezkl_is_not_used():
    """Trap 1: anybody registers any key with it, and a key of zeros accepts any proof."""
    calls = re.compile(r"reusable=True|ezkl\.(register_vka|create_evm_vka|verify_evm)")
    assert not [path for path, text in sources().items() if calls.search(text)]
    assert any("reusable=False" in text for text in sources().values())


def test_the_readme_says_that_ezkl_has_no_licence():
    """Trap 14."""
    text = " ".join((ROOT / "README.md").read_text().split())
    assert re.search(r"ezkl[^#]{0,300}no licence file", text)
    assert "commercial use" in text

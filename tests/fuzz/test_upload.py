"""The fuzz target, run for a while: `make fuzz` runs it for as long as is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.upload import Fuzzer
from zkserve import runtime
from zkserve.engines.base import Limits


def fuzz(seed: int, models: int, *, ezkl_every: int = 0) -> Fuzzer:
    with Fuzzer(seed, ezkl_every=ezkl_every) as fuzzer:
        for data in fuzzer.seeds:
            fuzzer.upload(data)
        assert fuzzer.tally.outcomes["accepted by native and ezkl"] >= 2, fuzzer.tally
        for _ in range(models):
            fuzzer.step()
    return fuzzer


def test_changed_models_are_accepted_or_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path))
    tally = fuzz(20261122, 60).tally
    assert not tally.findings
    assert tally.outcomes["upload: ModelRejected"] > 10
    assert sum(tally.outcomes.values()) == tally.executions
    assert not list(tmp_path.iterdir()), "something was left behind"


@pytest.mark.prover
def test_many_changed_models_and_their_ezkl_circuits():
    tally = fuzz(4, 1500, ezkl_every=15).tally
    assert not tally.findings
    assert tally.outcomes["compiled by ezkl"] >= 3


def test_the_target_notices_what_is_no_refusal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("tests.fuzz.upload.KEPT", tmp_path)
    monkeypatch.setattr("tests.fuzz.upload.LIMITS", Limits(time_s=30, memory_bytes=1 << 20))
    with Fuzzer(0) as fuzzer:
        fuzzer.upload(fuzzer.seeds[0])
    (finding,) = fuzzer.tally.findings
    assert "ChildKilled" in finding
    assert next(tmp_path.iterdir()).read_bytes() == fuzzer.seeds[0]

from __future__ import annotations

from pathlib import Path

import pytest

from zkserve.engines.ezkl.verifier_source import patch
from zkserve.errors import EngineFailed

FIXTURES = Path(__file__).parents[2] / "contracts" / "test" / "fixtures"
CHECK = "success := and(success, eq(proof.offset, 0x64))"
LENGTH = "success := and(success, eq(0x0f00, proof.length))"


@pytest.mark.parametrize("mode", ["Committed", "Public"])
def test_patched_fixtures_are_the_patched_raw_ones(mode: str):
    raw = (FIXTURES / f"Ezkl{mode}Raw.sol").read_text()
    assert patch(raw) == (FIXTURES / f"Ezkl{mode}Patched.sol").read_text()


def test_patch_adds_one_line_right_after_the_length_check():
    raw = (FIXTURES / "EzklCommittedRaw.sol").read_text().splitlines()
    patched = patch("\n".join(raw) + "\n").splitlines()
    (added,) = [index for index, line in enumerate(patched) if line.strip() == CHECK]
    assert patched[:added] + patched[added + 1 :] == raw
    assert patched[added - 1].strip() == LENGTH


@pytest.mark.parametrize(
    "source",
    [
        "contract Halo2Verifier {}\n",
        f"  {LENGTH}\n  {LENGTH}\n",
        f"  {LENGTH}\n  {CHECK}\n",
        f"  // {LENGTH}\n",
    ],
    ids=["no anchor", "two anchors", "patched already", "only in a comment"],
)
def test_an_unknown_source_is_refused(source: str):
    with pytest.raises(EngineFailed, match="proof length checks"):
        patch(source)

"""Model cards say of weights and leak budgets what the locks of their circuits hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from zkserve import card, cli
from zkserve.errors import NotFound, RecipeInvalid
from zkserve.lock import LOCK_NAME

CIRCUITS = Path(__file__).parents[2] / "circuits"
LOCKS = sorted(CIRCUITS.glob(f"*/{LOCK_NAME}"))
LEAKING = {
    "engine": "ezkl",
    "weights_mode": "fixed",
    "leak": {"bits_per_proof": 3302, "secret_bits": 160_001, "proofs": 12},
}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_each_card_holds_what_its_lock_gives(lock: Path) -> None:
    text = (lock.parent / "README.md").read_text(encoding="utf-8")
    assert card.weights(lock.parent) in " ".join(text.split())


def test_the_budget_is_in_the_card_of_what_leaks() -> None:
    said = card.paragraph(LEAKING)
    for part in ("`fixed`", "3,302 bits", "160,001", "49 proofs", "at most 12."):
        assert part in said
    other = json.loads(json.dumps(LEAKING))
    other["leak"]["proofs"] = 13
    assert card.paragraph(other) != said


@pytest.mark.parametrize("mode", ["committed", "hashed"])
def test_what_has_no_budget_is_said_to_have_none(mode: str) -> None:
    said = card.paragraph({"engine": "ezkl", "weights_mode": mode})
    assert "budget bounds" in said
    assert "Leak budget" not in said


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"engine": "ezkl", "weights_mode": "fixed"}', '{"weights_mode": 1}']
)
def test_damaged_locks_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotFound):
        card.weights(tmp_path)
    (tmp_path / LOCK_NAME).write_text(text)
    with pytest.raises(RecipeInvalid, match="damaged"):
        card.weights(tmp_path)


def test_the_command_line_prints_the_paragraph(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(json.dumps(LEAKING))
    shown = CliRunner().invoke(cli.app, ["card", str(tmp_path)])
    assert " ".join(shown.output.split()) == card.paragraph(LEAKING)
    machine = CliRunner().invoke(cli.app, ["card", str(tmp_path), "--json"])
    assert json.loads(machine.output) == {"weights": card.paragraph(LEAKING)}

"""The documentation follows the code: what it names exists, what exists is in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer

from docs import reference
from zkserve.cli import app
from zkserve.receipt import receipt_from_dict, receipt_to_dict
from zkserve.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "circuits/*/*.md", "benchmarks/**/*.md", ".ci/*.md")
    for path in ROOT.glob(pattern)
)
COMMANDS = {name for name, _ in reference.commands(typer.main.get_command(app))}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(?:work|tmp|home|root|Users)/")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def broken_links(page: Path, text: str) -> list[str]:
    return [
        target
        for target in LINK.findall(FENCE.sub("", text))
        if not re.match(r"[a-z]+:", target) and not _resolves(page, target)
    ]


def _resolves(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = (page.parent / name).resolve() if name else page
    if not path.exists():
        return False
    return not anchor or anchor in _anchors(path)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("name", ["cli", "settings"])
def test_generated_pages_are_up_to_date(name: str):
    written = (ROOT / "docs" / f"{name}.md").read_text()
    assert written == getattr(reference, f"{name}_page")(), "run `python -m docs.reference`"


@every_page
def test_relative_links_lead_somewhere(page: Path):
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_is_noticed():
    page = ROOT / "docs" / "concepts.md"
    text = (
        "[a](nowhere.md) [b](security.md#nothing) [c](security.md#what-is-proven) [d](#the-words)"
    )
    assert broken_links(page, text) == ["nowhere.md", "security.md#nothing"]


@every_page
def test_no_page_names_a_path_of_one_machine(page: Path):
    assert MACHINE_PATH.findall(page.read_text()) == []


@every_page
def test_settings_that_are_named_exist(page: Path):
    known = {f"ZKSERVE_{name.upper()}" for name in Settings.model_fields} | {"ZKSERVE_API_KEY"}
    named = set(re.findall(r"\bZKSERVE_[A-Z0-9_]*[A-Z0-9]", page.read_text()))
    assert named <= known


@every_page
def test_commands_that_are_named_exist(page: Path):
    code = " ; ".join(re.findall(r"`([^`\n]+)`", page.read_text()))
    shell = "\n".join(re.findall(r"^```bash.*?\n(.*?)^```", page.read_text(), re.M | re.S))
    named = re.findall(
        r"(?:^|[\s;(/])zkserve ((?:db|keys|chain|jobs|srs|storage) [\w-]+|[a-z]+)",
        f"{code}\n{shell}",
    )
    assert {f"zkserve {words}" for words in named} <= COMMANDS


@every_page
def test_tests_that_are_named_exist(page: Path):
    text = page.read_text()
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text):
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"
    for file, name in re.findall(r"`(\w+\.t\.sol)::(\w+)`", text):
        assert f"function {name}(" in (ROOT / "contracts/test" / file).read_text(), (
            f"{file} has no {name}"
        )


def test_solidity_that_is_quoted_is_in_its_file():
    quotes = [
        quote
        for page in PAGES
        for quote in re.findall(
            r"<!-- from: (\S+) -->\n```solidity\n(.*?)```", page.read_text(), re.S
        )
    ]
    assert quotes
    for file, code in quotes:
        assert code in (ROOT / file).read_text(), f"{file} reads otherwise than:\n{code}"


def test_every_decision_is_in_the_index():
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()
    records = sorted(path.name for path in folder.glob("0*.md"))
    assert LINK.findall(index) == records


def test_every_page_can_be_reached_from_the_index():
    folder = ROOT / "docs"
    linked = set(LINK.findall((folder / "README.md").read_text()))
    assert {path.name for path in folder.glob("*.md")} - {"README.md"} <= linked


def test_the_worked_receipt_is_one():
    text = (ROOT / "docs" / "concepts.md").read_text()
    example = re.search(r"<!-- example: receipt -->\n```json\n(.*?)```", text, re.S)
    assert example is not None
    data = json.loads(example[1])
    assert receipt_to_dict(receipt_from_dict(data)) == data


def test_what_is_in_the_licence_file_is_what_the_package_states():
    assert "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    assert 'license = "Apache-2.0"' in (ROOT / "pyproject.toml").read_text()

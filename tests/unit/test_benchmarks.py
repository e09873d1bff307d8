from __future__ import annotations

import json
import re

import pytest

from benchmarks import tables

pytestmark = pytest.mark.parametrize("name", sorted(tables.TABLES))


def test_readme_shows_the_raw_results(name: str) -> None:
    shown = tables.section(name, tables.README.read_text())
    assert shown == tables.TABLES[name](tables.read(name))


def test_table_follows_the_results(name: str) -> None:
    # A changed result must change the table, or the test above would prove nothing.
    changed = re.sub(r"\d+\.\d+", "7654.5", json.dumps(tables.read(name)))
    assert "7654" in tables.TABLES[name](json.loads(changed))


def test_results_name_hardware_and_no_machine(name: str) -> None:
    result = tables.read(name)
    assert result["hardware"].keys() >= {"cpu", "cores", "memory_gib"}
    assert result["software"].keys() >= {"os", "python", "ezkl"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    raw = json.dumps(result)
    assert not re.search(r"/(home|root|work|tmp|Users)\b", raw)
    assert not {"host", "hostname", "node", "user"} & set(re.findall(r'"(\w+)":', raw))

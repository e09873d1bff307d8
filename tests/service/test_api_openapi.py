"""The API is written down in docs/openapi.json; ``make openapi`` rewrites it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SNAPSHOT = Path(__file__).parents[2] / "docs" / "openapi.json"


async def test_the_api_is_as_written_down(http: httpx.AsyncClient) -> None:
    found = (await http.get("/openapi.json")).json()
    if os.environ.get("ZKSERVE_UPDATE_OPENAPI"):
        SNAPSHOT.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    assert json.loads(SNAPSHOT.read_text()) == found, (
        "The API changed. If that is meant, run the test with ZKSERVE_UPDATE_OPENAPI=1 and "
        "commit docs/openapi.json."
    )


async def test_every_operation_has_a_name_of_its_own_and_answers_problems(
    http: httpx.AsyncClient,
) -> None:
    found: dict[str, Any] = (await http.get("/openapi.json")).json()
    operations = [
        operation for methods in found["paths"].values() for operation in methods.values()
    ]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert operation["description"]
        content = operation["responses"]["default"]["content"]
        assert content["application/problem+json"]["schema"] == {
            "$ref": "#/components/schemas/Problem"
        }
    assert "Problem" in found["components"]["schemas"]

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from benchmarks.service_overhead import infer_ms, peak_rss_bytes, running

PREDICTIONS = 20
LIMIT_BYTES = 400_000_000


@pytest.mark.e2e
def test_api_process_stays_small(tmp_path: Path) -> None:
    with (
        running(tmp_path, print) as service,
        httpx.Client(base_url=service.url, timeout=60) as http,
    ):
        for number in range(PREDICTIONS):
            infer_ms(http, service, number)
        assert 0 < peak_rss_bytes(service.serve) < LIMIT_BYTES

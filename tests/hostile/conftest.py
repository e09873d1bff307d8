from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from tests.hostile import models, samples, sharing
from zkserve import cli, runtime
from zkserve.engines.child import Child
from zkserve.store.database import Database
from zkserve.store.tables import JobRow, VersionRow

CODES = {"model-rejected", "recipe-invalid", "invalid-input"}


class Owner:
    """An owner at the command line, with a store that must stay empty."""

    def __init__(
        self, folder: Path, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch
    ) -> None:
        self.folder = folder
        self._capsys = capsys
        self._patch = patch
        self._publications = 0

    def publish(self, *arguments: Path | str) -> tuple[int, dict[str, Any], str]:
        """Publish; return the status, the answer, and what stood on standard error."""
        words = ["zkserve", "publish", *map(str, arguments), "--no-chain", "--json"]
        self._patch.setattr(sys, "argv", words)
        self._capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        return status, json.loads(out), err

    def is_refused(self, *arguments: Path | str, says: str, codes: set[str] = CODES) -> None:
        """Publish what must be refused in a sentence, and look for what was left behind."""
        before = self.left()
        status, answer, err = self.publish(*arguments)
        assert status == 1, answer
        problem = answer["error"]
        assert problem["code"] in codes, problem
        assert re.search(says, problem["detail"], re.DOTALL), problem["detail"]
        assert problem["detail"].isprintable()
        assert len(problem["detail"]) < 5000
        assert "Traceback" not in err + problem["detail"]
        assert self.left() == before

    def left(self) -> dict[str, Any]:
        """What could be left behind: processes, folders, rows, artifacts."""
        data = self.folder / "data"
        database = Database(f"sqlite:///{data / 'zkserve.db'}")
        with database.session() as session:
            rows = [len(session.scalars(select(table)).all()) for table in (VersionRow, JobRow)]
        database.close()
        return {
            "rows": rows,
            "artifacts": sorted(
                path.name for path in (data / "artifacts").rglob("*") if path.name != "recipients"
            ),
            "runtime": sorted(path.name for path in runtime.root().iterdir()),
            "processes": {process.pid for process in psutil.Process().children(recursive=True)},
            "marks": sorted(path.name for path in self.folder.rglob("pickled")),
        }


@pytest.fixture
def owner(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    migrated: Path,
) -> Owner:
    for name in list(os.environ):
        if name.upper().startswith("ZKSERVE_"):
            monkeypatch.delenv(name)
    data = tmp_path / "data"
    data.mkdir()
    (data / "zkserve.db").write_bytes(migrated.read_bytes())
    monkeypatch.setenv("ZKSERVE_DATA_DIR", str(data))
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "runtime"))
    monkeypatch.chdir(tmp_path)
    return Owner(tmp_path, capsys, monkeypatch)


@pytest.fixture
def good(tmp_path: Path) -> tuple[Path, Path]:
    """A model and its samples that there is nothing wrong with."""
    model, rows = tmp_path / "good.onnx", tmp_path / "good.npz"
    model.write_bytes(models.good().SerializeToString())
    samples.npz(rows)
    return model, rows


@pytest.fixture
def one_child(owner: Owner) -> Iterator[Callable[[], Child]]:
    with sharing.one_child(owner.folder) as ready:
        yield ready

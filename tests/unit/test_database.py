from __future__ import annotations

import stat
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from zkserve.store.database import Database


def test_the_files_of_sqlite_are_private(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'new' / 'zkserve.db'}")
    with database.session() as session:
        session.execute(text("CREATE TABLE things (name TEXT)"))
        files = sorted((tmp_path / "new").iterdir())
        assert [path.suffix for path in files] == [".db", ".db-shm", ".db-wal"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    database.close()


def test_a_database_in_memory_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Database("sqlite:///:memory:").close()
    assert list(tmp_path.iterdir()) == []


def test_errors_do_not_show_what_was_to_be_stored(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'zkserve.db'}")
    with database.session() as session:
        session.execute(text("CREATE TABLE things (name TEXT UNIQUE)"))
        statement = text("INSERT INTO things VALUES (:name)")
        session.execute(statement, {"name": "private"})
        with pytest.raises(IntegrityError) as refused:
            session.execute(statement, {"name": "private"})
    assert "private" not in str(refused.value)
    database.close()

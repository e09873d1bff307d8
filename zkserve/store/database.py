"""One SQLAlchemy engine for the tables and the job engine; migrations only when asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from dbos import run_dbos_database_migrations
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from zkserve.errors import Unavailable, ZkserveError

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_S = 30


class Database:
    """A connection pool; ``url`` is SQLite's or PostgreSQL's."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.url = parsed.render_as_string(hide_password=False)
        self.sqlite = parsed.get_backend_name() == "sqlite"
        arguments: dict[str, Any] = {"timeout": _BUSY_TIMEOUT_S} if self.sqlite else {}
        self.engine: Engine = create_engine(
            parsed,
            connect_args=arguments,
            pool_pre_ping=True,
            hide_parameters=True,  # errors are logged; what was to be stored is not
        )
        if self.sqlite:
            if parsed.database and parsed.database != ":memory:":
                path = Path(parsed.database)
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.touch(mode=0o600)  # SQLite gives its other files the mode of this one
            event.listen(self.engine, "connect", _tune_sqlite)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a transaction: committed at the end, rolled back on an error.

        Raises:
            Unavailable: the database cannot be reached or stays locked.

        """
        with self._transaction("BEGIN IMMEDIATE") as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Open a transaction for reading only, which on SQLite never waits for a writer.

        Raises:
            Unavailable: the database cannot be reached.

        """
        with self._transaction("BEGIN") as session:
            yield session

    def lock(self, session: Session, name: str) -> None:
        """Hold a named lock until the transaction of ``session`` ends.

        On SQLite there is nothing to do: a session holds the one write lock from its start.
        """
        if not self.sqlite:
            session.execute(
                text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name}
            )

    @contextmanager
    def _transaction(self, sqlite_begin: str) -> Iterator[Session]:
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                if self.sqlite:
                    # The driver begins before the first write only; a transaction that read first
                    # would then fail at once when another process wrote in between.
                    session.connection().exec_driver_sql(sqlite_begin)
                yield session
        except (DBAPIError, PoolTimeout) as exc:
            if isinstance(exc, DBAPIError) and not (
                isinstance(exc, OperationalError) or exc.connection_invalidated
            ):
                raise
            raise Unavailable(
                "The database did not answer.", remedy="Nothing was changed; try again."
            ) from exc

    def upgrade(self) -> None:
        """Bring the tables, ours and the job engine's, to this version; safe to repeat."""
        run_dbos_database_migrations(system_database_url=self.url)
        command.upgrade(self._config(), "head")

    def require_current(self) -> None:
        """Refuse to run on tables of another version.

        Raises:
            ZkserveError: they are older or newer.

        """
        with self.engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"version_table": "zkserve_revision"}
            )
            found = context.get_current_revision()
        expected = ScriptDirectory.from_config(self._config()).get_current_head()
        if found != expected:
            raise ZkserveError(
                f"The database is at revision {found}, this version needs {expected}.",
                remedy="Run `zkserve db upgrade`.",
            )

    def close(self) -> None:
        """Close all pooled connections."""
        self.engine.dispose()

    def _config(self) -> Config:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.attributes["engine"] = self.engine
        return config


def _tune_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = "IMMEDIATE"  # the job engine's own transactions, like ours
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged job survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()

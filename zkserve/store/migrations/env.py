"""Alembic's entry point; the engine comes from zkserve.store.database."""

from alembic import context

from zkserve.store.tables import Base, UtcDateTime


def plain_times(kind: str, item: object, _context: object) -> str | bool:
    """Write our time type as SQLAlchemy's own: a migration outlives our code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


with context.config.attributes["engine"].connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        render_item=plain_times,
        version_table="zkserve_revision",
    )
    with context.begin_transaction():
        context.run_migrations()

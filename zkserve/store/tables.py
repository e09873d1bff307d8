"""The tables. Invariants are unique indexes, not intentions.

They live in the job engine's own database so that a row and its enqueue commit together. Times
are UTC, timezone-aware. Chain numbers that may exceed 64 bits are hex or decimal strings.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

BigId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite only numbers rows by itself in INTEGER columns."""


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in Python, also on SQLite, which forgets time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Convert to UTC on the way in."""
        del dialect
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Make aware on the way out."""
        del dialect
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Base of all tables."""


class ModelRow(Base):
    """An owner and a name."""

    __tablename__ = "models"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    description: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class VersionRow(Base):
    """An immutable version: never updated but for where it stands on chain and its deprecation."""

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("model_id", "number"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("models.id"))
    number: Mapped[int]
    circuit_id: Mapped[str] = mapped_column(String(66), unique=True)
    publication: Mapped[str] = mapped_column(String(64), unique=True)
    """SHA-256 of what was asked to be published: the same again is nothing to do."""
    onnx_sha256: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[dict[str, Any]] = mapped_column(JSON)
    classes: Mapped[list[str]] = mapped_column(JSON, default=list)
    limits: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    weights_digests: Mapped[list[str]] = mapped_column(JSON, default=list, server_default="[]")
    """Private: tells versions that share weights, where proofs reveal some of them; else empty."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    deprecated_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    replaced_by: Mapped[int | None]
    """Number of the version of the same model that took its place when it was rekeyed."""
    chain_id: Mapped[int | None] = mapped_column(BigInteger)
    registry_address: Mapped[str | None] = mapped_column(String(42))
    verifier_address: Mapped[str | None] = mapped_column(String(42))
    chain_version_id: Mapped[str | None] = mapped_column(String(66), unique=True)


class ApiKeyRow(Base):
    """A key: shown once, kept as its SHA-256; the prefix names it in lists and logs."""

    __tablename__ = "api_keys"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    prefix: Mapped[str] = mapped_column(String(16), unique=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    tenant: Mapped[str] = mapped_column(String(63))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class JobRow(Base):
    """A ProofJob. ``id`` is also the id of its workflow."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key"),
        Index("ix_jobs_state", "state"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63))
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    state: Mapped[str] = mapped_column(String(20))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_sha256: Mapped[str | None] = mapped_column(String(64))
    claim: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    opening: Mapped[str | None] = mapped_column(String(64))
    """Digest of the private opening; cleared, and the file deleted, once the job is final."""
    proof: Mapped[str | None] = mapped_column(String(64))
    """Digest of the verified proof bytes."""
    settlement: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    attempts: Mapped[int] = mapped_column(default=0)
    error_code: Mapped[str | None] = mapped_column(String(63))
    error_message: Mapped[str | None] = mapped_column(Text)
    prove_s: Mapped[float | None]
    prove_cpu_s: Mapped[float | None]
    peak_rss_bytes: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now, onupdate=now)


class JobEventRow(Base):
    """One step of a job; ``id`` is the server-sent event id, so streams survive a restart."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job", "job_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    state: Mapped[str] = mapped_column(String(20))
    detail: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class InputRow(Base):
    """A committed input handed in ahead of an on-chain request that names only the commitment."""

    __tablename__ = "inputs"
    __table_args__ = (
        UniqueConstraint("version_id", "commitment"),
        Index("ix_inputs_tenant", "tenant"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("versions.id"))
    tenant: Mapped[str] = mapped_column(String(63))
    commitment: Mapped[str] = mapped_column(String(66))
    opening: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)


class RequestRow(Base):
    """A ProofRequest: one on-chain request and the one job that serves it."""

    __tablename__ = "requests"
    __table_args__ = (UniqueConstraint("chain_id", "market", "request_id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    chain_id: Mapped[int] = mapped_column(BigInteger)
    market: Mapped[str] = mapped_column(String(42))
    request_id: Mapped[int] = mapped_column(BigInteger)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), unique=True)
    input: Mapped[str] = mapped_column(Text)
    requester: Mapped[str] = mapped_column(String(42))
    price_wei: Mapped[str] = mapped_column(String(40))
    deadline: Mapped[int] = mapped_column(BigInteger)
    block: Mapped[int] = mapped_column(BigInteger)
    block_hash: Mapped[str] = mapped_column(String(66))


class CursorRow(Base):
    """How far a contract's events were read; moves with the rows they caused."""

    __tablename__ = "cursors"

    chain_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    contract: Mapped[str] = mapped_column(String(42), primary_key=True)
    block: Mapped[int] = mapped_column(BigInteger)
    block_hash: Mapped[str] = mapped_column(String(66))
    genesis_hash: Mapped[str] = mapped_column(String(66))
    """Tells the chain from another one under the same id."""


class SignerRow(Base):
    """The next nonce of a signer; locked while one is taken."""

    __tablename__ = "signers"

    chain_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    address: Mapped[str] = mapped_column(String(42), primary_key=True)
    next_nonce: Mapped[int] = mapped_column(BigInteger)


class TransactionRow(Base):
    """The outbox: signed bytes are here before they are anywhere else.

    A replacement (fee bump) is a new row with the same purpose and nonce and the next attempt.
    """

    __tablename__ = "transactions"
    __table_args__ = (
        UniqueConstraint("chain_id", "signer", "nonce", "attempt"),
        UniqueConstraint("purpose", "attempt"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    purpose: Mapped[str] = mapped_column(String(160))
    """What it is for, once: ``fulfil/<job id>``, ``register/<circuit id>``."""
    attempt: Mapped[int]
    chain_id: Mapped[int] = mapped_column(BigInteger)
    signer: Mapped[str] = mapped_column(String(42))
    nonce: Mapped[int] = mapped_column(BigInteger)
    raw: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[str] = mapped_column(String(66), unique=True)
    state: Mapped[str] = mapped_column(String(20))
    """signed, broadcast, mined, reverted or replaced."""
    block: Mapped[int | None] = mapped_column(BigInteger)
    gas_used: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=now)

"""API keys: made, found, listed and revoked; the database only ever sees their SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from zkserve.errors import InvalidInput, NotFound
from zkserve.store.tables import ApiKeyRow, now

ANONYMOUS = "anonymous"
"""The tenant of callers without a key; no key may be made for it."""
ON_CHAIN = "chain"
"""The tenant of on-chain requests, which everybody may look at; no key may be made for it."""
_RESERVED = (ANONYMOUS, ON_CHAIN)

_SCHEME = "zk"
_PREFIX_BYTES = 5
_SECRET_BYTES = 32
_MAX_TENANT_LENGTH = 63


def create(session: Session, tenant: str) -> str:
    """Make a key for a tenant and return it: the only time it can be seen.

    The form is ``zk_<prefix>_<secret>``, both hex: 10 digits that name the key and 64 that are
    secret.

    Raises:
        InvalidInput: the tenant's name is empty, too long, not printable or reserved.

    """
    usable = 0 < len(tenant) <= _MAX_TENANT_LENGTH and tenant.isprintable()
    if not usable or tenant in _RESERVED:
        raise InvalidInput(
            f"{tenant[:80]!r} cannot be a tenant's name: expected 1 to {_MAX_TENANT_LENGTH} "
            f"printable characters, and none of {', '.join(_RESERVED)}.",
            remedy="Choose another name.",
        )
    prefix = secrets.token_hex(_PREFIX_BYTES)
    key = f"{_SCHEME}_{prefix}_{secrets.token_hex(_SECRET_BYTES)}"
    session.add(ApiKeyRow(prefix=prefix, sha256=_digest(key), tenant=tenant))
    session.flush()
    return key


def find(session: Session, key: str) -> ApiKeyRow | None:
    """Return the row of a key that is known and not revoked; digests compare in constant time."""
    scheme, _, rest = key.partition("_")
    prefix, _, secret = rest.partition("_")
    if scheme != _SCHEME or not secret or not prefix.isalnum() or not key.isascii():
        return None
    row = session.scalar(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix))
    if row is None or not hmac.compare_digest(row.sha256, _digest(key)) or row.revoked_at:
        return None
    return row


def revoke(session: Session, prefix: str) -> ApiKeyRow:
    """Revoke the key of a prefix from now on; revoking twice keeps the first time.

    Raises:
        NotFound: there is no such key.

    """
    row = session.scalar(select(ApiKeyRow).where(ApiKeyRow.prefix == prefix))
    if row is None:
        raise NotFound(
            f"There is no API key with the prefix {prefix[:80]!r}.",
            remedy="List the keys with `zkserve keys list`.",
        )
    row.revoked_at = row.revoked_at or now()
    return row


def listing(session: Session) -> Sequence[ApiKeyRow]:
    """Return all keys, revoked ones too, oldest first."""
    return session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.id)).all()


def _digest(key: str) -> str:
    # A fast hash suffices: the secret has 256 random bits, there is nothing to guess.
    return hashlib.sha256(key.encode()).hexdigest()

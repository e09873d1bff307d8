"""See to it that no secret artifact lies in clear: after an upgrade, and for a change of keys."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from zkserve import log
from zkserve.errors import BundleMismatch, Unavailable
from zkserve.node import Node, secret_names
from zkserve.receipt import manifest_from_dict
from zkserve.store.tables import InputRow, JobRow, VersionRow

_log = log.get("storage")
_SETTLED_AFTER_S = 3600.0
"""By then what was put into the store is in the database too, if it ever will be."""


def seal_clear(node: Node) -> int:
    """Seal what lies in clear and is not known to be public; return how many files.

    Such files come from releases that did not seal. What they put into the store and never into
    the database is sealed an hour after it was put there; what they left unfinished is removed.
    A file that was altered stays as it is, with a warning.

    Raises:
        Unavailable: the disk refuses; nothing was lost.
        StorageKeyWrong: another key took the place of this one.

    """
    with node.artifacts.resealing():
        return _seal_clear(node)


def seal_all(node: Node) -> int:
    """Seal what lies in clear, and anew what is sealed under another key than the first.

    Return how many files. It may be cut off anywhere and begun again, with the same keys. Others
    should not work with the old key meanwhile; one that does cannot seal any more afterwards.

    Raises:
        BundleMismatch: files cannot be sealed, as they were altered; all others are.
        StorageKeyWrong: a file is sealed under a key that is not there.
        Unavailable: the disk or the runtime folder refuses; nothing was lost.

    """
    with node.artifacts.resealing():
        number = _seal_clear(node) + _seal_anew(node)
        node.artifacts.retire_other_keys()
        # What somebody with the old key sealed up to now.
        return number + _seal_anew(node)


def _seal_clear(node: Node) -> int:
    _remove_unfinished(node)
    digests, known = node.artifacts.in_clear(), _Known.of(node)
    return sum(
        _reseal(node, digest, known)
        for digest in digests
        if digest not in known.public
        and (digest in known.secret or _old(node.artifacts.folder / digest[:2] / digest))
    )


def _seal_anew(node: Node) -> int:
    number, altered, known = 0, [], _Known.of(node)
    for digest in node.artifacts.sealed():
        try:
            number += _reseal(node, digest, known, strict=True)
        except BundleMismatch:  # no reason to leave the rest under a key that somebody may have
            altered.append(digest)
    if altered:
        raise BundleMismatch(
            f"All is sealed anew but what was altered on disk: {', '.join(altered)}.",
            remedy="Restore these files from a backup, or delete them where there is none, and run "
            "this again with all keys.",
        )
    return number


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Digests by what the database knows of them."""

    secret: set[str]
    public: set[str]
    pinned: set[str]

    @classmethod
    def of(cls, node: Node) -> _Known:
        with node.database.snapshot() as session:
            manifests = [
                manifest_from_dict(m) for m in session.scalars(select(VersionRow.manifest))
            ]
            secret = {digest for digest in session.scalars(select(JobRow.opening)) if digest}
            secret |= set(session.scalars(select(InputRow.opening)))
            public = {digest for digest in session.scalars(select(JobRow.proof)) if digest}
        pinned = set()
        for manifest in manifests:
            hidden = secret_names(manifest)
            for name, digest in manifest.pins.items():
                pinned.add(digest)
                (secret if name in hidden else public).add(digest)
        return cls(secret=secret - public, public=public, pinned=pinned)


def _reseal(node: Node, digest: str, known: _Known, *, strict: bool = False) -> bool:
    try:
        if digest in known.pinned:
            return node.artifacts.reseal(digest)
        # A deletion would otherwise come in between, and be undone: see openings.
        with node.database.session() as session:
            node.database.lock(session, digest)
            return node.artifacts.has(digest) and node.artifacts.reseal(digest)
    except BundleMismatch as exc:
        if strict:
            raise
        _log.warning("not_sealed", artifact=digest, reason=str(exc))
        return False
    except OSError as exc:
        raise Unavailable(
            f"Artifact {digest} cannot be sealed: {exc.strerror}. Nothing was lost.",
            remedy="Make room on the disk of the data folder, or mend it, and start again.",
        ) from exc


def _remove_unfinished(node: Node) -> None:
    folder = node.artifacts.folder
    for path in [*folder.glob(".publish-*"), *folder.glob(".new-*")]:
        if _old(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _SETTLED_AFTER_S
    except FileNotFoundError:
        return False

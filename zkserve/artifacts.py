"""Content-addressed files: a name is the SHA-256 of the contents, a folder is a store.

Written to a temporary name, synced, then renamed, so that a name that exists is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from zkserve.encoding import sha256_file
from zkserve.errors import BundleMismatch, NotFound

_BLOCK_BYTES = 1 << 20


class ArtifactStore:
    """A folder of files named by digest, readable by this user only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store bytes; return their digest."""
        return self._write([data])

    def put_file(self, source: Path) -> str:
        """Store a copy of a file; return its digest."""
        with source.open("rb") as file:
            return self._write(iter(lambda: file.read(_BLOCK_BYTES), b""))

    def path(self, digest: str) -> Path:
        """Return where the artifact lies.

        Raises:
            NotFound: there is none of that digest.

        """
        path = self._path(digest)
        if not path.is_file():
            raise NotFound(f"There is no artifact {digest}.")
        return path

    def get(self, digest: str) -> bytes:
        """Return the contents, rehashed.

        Raises:
            NotFound: there is none of that digest.
            BundleMismatch: the file was altered on disk.

        """
        data = self.path(digest).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise BundleMismatch(f"Artifact {digest} was altered on disk.")
        return data

    def check(self, digest: str) -> Path:
        """Return the path of an artifact after rehashing it.

        Raises:
            NotFound: there is none of that digest.
            BundleMismatch: the file was altered on disk.

        """
        path = self.path(digest)
        if sha256_file(path) != digest:
            raise BundleMismatch(f"Artifact {digest} was altered on disk.")
        return path

    def delete(self, digest: str) -> None:
        """Remove an artifact if it is there."""
        self._path(digest).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return the free space of the store's disk."""
        return shutil.disk_usage(self.folder).free

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise NotFound(f"{digest[:80]!r} is not a SHA-256 digest.")
        return self.folder / digest[:2] / digest

    def _write(self, blocks: Iterable[bytes]) -> str:
        hasher = hashlib.sha256()
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for block in blocks:
                    hasher.update(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            target = self._path(hasher.hexdigest())
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(self.folder)
            temporary.rename(target)
            _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return hasher.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

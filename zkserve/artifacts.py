"""Content-addressed files: a name is the SHA-256 of the contents, a folder is a store.

Written to a temporary name, synced, then renamed, so that a name that exists is whole. What is
secret is sealed under the storage key: its file is named by the digest of what is inside, and
``.age``. It is opened in memory only.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from zkserve.encoding import sha256_file
from zkserve.errors import BundleMismatch, NotFound, StorageKeyWrong
from zkserve.runtime import ClearCopies, Held
from zkserve.sealing import SUFFIX, StorageKey

RECIPIENTS = "recipients"
"""The file that names the keys, by their public halves, that files here may be sealed to."""
_BLOCK_BYTES = 1 << 20
_RESEALING = ".resealing"
_REMEDY = "Set ZKSERVE_STORAGE_KEY or ZKSERVE_STORAGE_KEY_FILE to the right one."


class ArtifactStore:
    """A folder of files named by digest, readable by this user only.

    Raises:
        StorageKeyWrong: files here may be sealed under a key that ``key`` does not hold.

    """

    def __init__(self, folder: Path, key: StorageKey) -> None:
        self.folder = folder
        self.key = key
        self._clear = ClearCopies(folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._introduce(key)

    def put(self, data: bytes) -> str:
        """Store bytes that are no secret; return their digest."""
        return self._write(lambda file: _copy(io.BytesIO(data), file))

    def put_file(self, source: Path) -> str:
        """Store a copy of a file that is no secret; return its digest."""
        with source.open("rb") as file:
            return self._write(lambda target: _copy(file, target))

    def seal(self, data: bytes) -> str:
        """Store secret bytes; return their digest, which is that of the bytes themselves.

        Raises:
            StorageKeyWrong: another key took the place of this one since the store was opened.

        """
        self._require_known()
        return self._write(lambda file: self.key.seal(io.BytesIO(data), file), self._sealed)

    def seal_file(self, source: Path) -> str:
        """Store a secret file; return its digest, which is that of the file itself.

        Raises:
            StorageKeyWrong: another key took the place of this one since the store was opened.

        """
        self._require_known()
        with source.open("rb") as file:
            return self._write(lambda target: self.key.seal(file, target), self._sealed)

    def reseal(self, digest: str) -> bool:
        """Seal a file under the key's first where it is in clear, or sealed under another of them.

        It is there throughout, and stays if this is cut off anywhere. Return whether there was
        anything to do.

        Raises:
            NotFound: there is none of that digest.
            StorageKeyWrong: it is sealed under a key that is not there.
            BundleMismatch: it was altered on disk.

        """
        clear = self._path(digest)
        if clear.is_file():
            # Also where it was sealed before: nobody has read what is sealed through since.
            self._seal_as(digest, clear)
            clear.unlink()
            return True
        if self._is_current(digest):
            return False
        held = self.hold(digest)  # until the end: its path may go when it does
        self._seal_as(digest, held.path)
        return True

    def path(self, digest: str) -> Path:
        """Return where an artifact that is no secret lies.

        Raises:
            NotFound: there is none of that digest.

        """
        path = self._path(digest)
        if not path.is_file():
            raise NotFound(f"There is no artifact {digest}.")
        return path

    def has(self, digest: str) -> bool:
        """Return whether there is an artifact, secret or not."""
        return self._sealed(digest).is_file() or self._path(digest).is_file()

    def hold(self, digest: str) -> Held:
        """Return a path of an artifact in clear; one that is secret is opened in memory for it.

        Raises:
            NotFound: there is none of that digest.
            BundleMismatch: the sealed file was altered on disk.
            StorageKeyWrong: it is sealed under another key.
            Unavailable: the runtime folder has no room for it.

        """
        sealed = self._sealed(digest)
        if not sealed.is_file():
            return Held(self.path(digest))
        size_bytes = sealed.stat().st_size
        return self._clear.hold(digest, size_bytes, lambda file: self._open(sealed, file))

    def get(self, digest: str) -> bytes:
        """Return the contents, rehashed; of a secret too, without a copy of it anywhere.

        Raises:
            NotFound: there is none of that digest.
            BundleMismatch: the file was altered on disk.
            StorageKeyWrong: it is sealed under another key.

        """
        sealed = self._sealed(digest)
        if sealed.is_file():
            with io.BytesIO() as memory:
                self._open(sealed, memory)
                return memory.getvalue()
        data = self.path(digest).read_bytes()
        self._require(digest, hashlib.sha256(data).hexdigest())
        return data

    def check(self, digest: str) -> None:
        """Rehash an artifact.

        Raises:
            NotFound: there is none of that digest.
            BundleMismatch: the file was altered on disk.
            StorageKeyWrong: it is sealed under another key.

        """
        sealed = self._sealed(digest)
        if sealed.is_file():
            with Path(os.devnull).open("wb") as nowhere:
                self._open(sealed, nowhere)
        else:
            self._require(digest, sha256_file(self.path(digest)))

    def delete(self, digest: str) -> None:
        """Remove an artifact if it is there."""
        for path in (self._path(digest), self._sealed(digest)):
            path.unlink(missing_ok=True)

    def in_clear(self) -> list[str]:
        """Return the digests of what is not sealed, secret or not."""
        return [path.name for path in self._files() if not path.suffix]

    def sealed(self) -> list[str]:
        """Return the digests of what is sealed, under whatever key."""
        return [path.stem for path in self._files() if path.suffix == SUFFIX]

    @contextmanager
    def resealing(self) -> Iterator[None]:
        """Be the only process that seals what is here already; wait for another one that does."""
        descriptor = os.open(self.folder / _RESEALING, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def retire_other_keys(self) -> None:
        """Note that nothing here is sealed under any key but the first."""
        with self._sole():
            self._write_recipients(self.key.recipients[:1])

    def free_bytes(self) -> int:
        """Return the free space of the store's disk."""
        return shutil.disk_usage(self.folder).free

    def _introduce(self, key: StorageKey) -> None:
        with self._sole():
            known = _recipients(self.folder)
            if not known:  # a backup may have left the list out
                self._require_opens()
            missing = [recipient for recipient in known if recipient not in key.recipients]
            if missing:
                raise StorageKeyWrong(
                    f"The artifacts in {self.folder} are sealed under the storage key of "
                    f"{missing[0]}; given is that of {', '.join(key.recipients)}.",
                    remedy=_REMEDY,
                )
            if key.recipients[0] not in known:
                self._write_recipients((*known, key.recipients[0]))

    def _require_opens(self) -> None:
        for digest in self.sealed()[:1]:
            with self._sealed(digest).open("rb") as file:
                if not self.key.opens(file):
                    raise StorageKeyWrong(
                        f"The artifacts in {self.folder} are sealed under another storage key than "
                        f"that of {', '.join(self.key.recipients)}.",
                        remedy=_REMEDY,
                    )

    def _require_known(self) -> None:
        if self.key.recipients[0] not in _recipients(self.folder):
            raise StorageKeyWrong(
                f"The storage key of {self.key.recipients[0]} was replaced by another.",
                remedy="Start this process again with the new key.",
            )

    def _write_recipients(self, recipients: Iterable[str]) -> None:
        lines = "".join(f"{recipient}\n" for recipient in recipients)
        self._write(
            lambda file: _copy(io.BytesIO(lines.encode()), file),
            lambda _: self.folder / RECIPIENTS,
        )

    @contextmanager
    def _sole(self) -> Iterator[None]:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _seal_as(self, digest: str, source: Path) -> None:
        def place(found: str) -> Path:
            self._require(digest, found)
            return self._sealed(digest)

        self._require_known()
        with source.open("rb") as file:
            self._write(lambda target: self.key.seal(file, target), place)

    def _is_current(self, digest: str) -> bool:
        try:
            with self._sealed(digest).open("rb") as file:
                return self.key.is_current(file)
        except FileNotFoundError as exc:
            raise NotFound(f"There is no artifact {digest}.") from exc

    def _open(self, sealed: Path, target: BinaryIO) -> None:
        with sealed.open("rb") as file:
            self.key.unseal(file, target, expected=sealed.name.removesuffix(SUFFIX))

    def _files(self) -> Iterator[Path]:
        for path in sorted(self.folder.glob("??/*")):
            if len(path.stem) == 64 and path.suffix in ("", SUFFIX):
                yield path

    def _path(self, digest: str) -> Path:
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise NotFound(f"{digest[:80]!r} is not a SHA-256 digest.")
        return self.folder / digest[:2] / digest

    def _sealed(self, digest: str) -> Path:
        return self._path(digest).with_suffix(SUFFIX)

    @staticmethod
    def _require(digest: str, found: str) -> None:
        if found != digest:
            raise BundleMismatch(f"Artifact {digest} was altered on disk.")

    def _write(
        self, write: Callable[[BinaryIO], str], place: Callable[[str], Path] | None = None
    ) -> str:
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                digest = write(file)
                file.flush()
                os.fsync(file.fileno())
            target = (place or self._path)(digest)
            if not target.parent.is_dir():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                _sync_folder(self.folder)
            temporary.rename(target)
            _sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
        return digest


def _copy(source: BinaryIO, target: BinaryIO) -> str:
    hasher = hashlib.sha256()
    while block := source.read(_BLOCK_BYTES):
        hasher.update(block)
        target.write(block)
    return hasher.hexdigest()


def _recipients(folder: Path) -> list[str]:
    try:
        return (folder / RECIPIENTS).read_text().split()
    except FileNotFoundError:
        return []


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

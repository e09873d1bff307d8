"""The storage key: what secret artifacts are sealed under, in the age format (age-encryption.org).

Streams only, so that a proving key of several GB is never held in memory. Whoever has the key opens
a sealed file with the standard tool too: ``age --decrypt --identity storage.key FILE``.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyrage

from zkserve.errors import BundleMismatch, StorageKeyWrong

SUFFIX = ".age"
_MALFORMED = "Give lines of AGE-SECRET-KEY-1..., as `zkserve storage new-key` prints them."


class StorageKey:
    """One or more age keys (X25519): the first seals, and each unseals what it sealed.

    Several are given while one takes the place of another: see ``docs/operations.md``.

    Args:
        text: What ``zkserve storage new-key`` or ``age-keygen`` prints, more than once if need be.

    Raises:
        StorageKeyWrong: that is not what it is.

    """

    def __init__(self, text: str) -> None:
        lines = [line.strip() for line in text.splitlines()]
        secrets = [word for line in lines if not line.startswith("#") for word in line.split()]
        if not secrets:
            raise StorageKeyWrong("The storage key is empty.", remedy=_MALFORMED)
        try:
            self._identities = [pyrage.x25519.Identity.from_str(secret) for secret in secrets]
        except pyrage.IdentityError:
            # Without its cause, which might quote the key.
            raise StorageKeyWrong(
                "The storage key is not in the form of an age key.", remedy=_MALFORMED
            ) from None

    @property
    def recipients(self) -> tuple[str, ...]:
        """The public halves, ``age1...``; the first is the one that is sealed to."""
        return tuple(str(identity.to_public()) for identity in self._identities)

    def macs(self, data: bytes) -> tuple[str, ...]:
        """Return the HMAC-SHA256 of ``data`` under each key, in hex.

        What is stored is the first; what is compared may have been stored under any of them.
        """
        return tuple(_mac(str(identity).encode(), data) for identity in self._identities)

    def seal(self, source: BinaryIO, target: BinaryIO) -> str:
        """Write what is read, sealed; return the SHA-256 of what was read."""
        reader, writer = _Tap(source), _Tap(target)
        recipients = [self._identities[0].to_public()]
        # The library drops an error of its last write: the taps remember any.
        with reader, writer:
            pyrage.encrypt_io(reader, writer, recipients)
        return reader.hasher.hexdigest()

    def unseal(self, source: BinaryIO, target: BinaryIO, *, expected: str) -> None:
        """Write what a sealed file holds, whose SHA-256 is to be ``expected``.

        Raises:
            StorageKeyWrong: it is sealed under another key.
            BundleMismatch: it was changed, cut, or exchanged.

        """
        reader, writer = _Tap(source), _Tap(target)
        try:
            with reader, writer:
                pyrage.decrypt_io(reader, writer, self._identities)
        except (pyrage.DecryptError, OSError) as exc:
            if exc in (reader.failure, writer.failure):
                raise
            if "No matching keys" in str(exc):
                raise StorageKeyWrong(
                    f"Artifact {expected} is sealed under another storage key.",
                    remedy="Set ZKSERVE_STORAGE_KEY to the key that it was sealed under.",
                ) from exc
            raise _altered(expected) from exc
        if writer.hasher.hexdigest() != expected:
            raise _altered(expected)

    def is_current(self, source: BinaryIO) -> bool:
        """Return whether a sealed file opens with the first key; reads no more than its head."""
        return _opens(source, self._identities[:1])

    def opens(self, source: BinaryIO) -> bool:
        """Return whether a sealed file opens with any of the keys; reads no more than its head."""
        return _opens(source, self._identities)


def new_key() -> str:
    """Return the file of a fresh key, in the form of ``age-keygen``."""
    identity = pyrage.x25519.Identity.generate()
    return f"# public key: {identity.to_public()}\n{identity}\n"


def read_key(path: Path) -> StorageKey:
    """Read a key file.

    Raises:
        StorageKeyWrong: it cannot be read, others may read it too, or it holds no key.

    """
    try:
        with path.open() as file:
            found = os.fstat(file.fileno())
            if _exposed(found):
                raise StorageKeyWrong(
                    f"The storage key file {path} is open to others: its mode is "
                    f"{stat.S_IMODE(found.st_mode):04o}.",
                    remedy=f"Run `chmod 600 {path}`; if somebody may have read it, change the key.",
                )
            return StorageKey(file.read())
    except (OSError, UnicodeDecodeError) as exc:
        raise StorageKeyWrong(
            f"The storage key file {path} cannot be read.",
            remedy="Check ZKSERVE_STORAGE_KEY_FILE and the file's owner and mode.",
        ) from exc


def development_key(path: Path) -> StorageKey:
    """Return the key at ``path``, made first if nothing is there; whole, whoever else makes one."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(new_key())
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(name, path)
        finally:
            Path(name).unlink()
    return read_key(path)


def _exposed(found: os.stat_result) -> bool:
    # A group may read what belongs to somebody else, as root's secrets do: it is how we read it.
    allowed = 0o700 if found.st_uid == os.geteuid() else 0o740
    return bool(stat.S_IMODE(found.st_mode) & 0o777 & ~allowed)


def _mac(key: bytes, data: bytes) -> str:
    secret = hashlib.sha256(b"zkserve/mac/v1" + key).digest()
    return hmac.new(secret, data, hashlib.sha256).hexdigest()


def _opens(source: BinaryIO, identities: Sequence[pyrage.x25519.Identity]) -> bool:
    try:
        pyrage.decrypt_io(source, _Nowhere(), identities)
    except _Enough:
        return True
    except (pyrage.DecryptError, OSError):
        return False
    return True


class _Tap:
    """Hashes what passes, and raises at the end what went wrong in between."""

    def __init__(self, file: BinaryIO) -> None:
        self.hasher = hashlib.sha256()
        self.failure: BaseException | None = None
        self._file = file

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if self.failure is not None:
            raise self.failure

    def read(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except BaseException as exc:
            self.failure = exc
            raise
        self.hasher.update(data)
        return data

    def write(self, data: bytes) -> int:
        try:
            written = self._file.write(data)
        except BaseException as exc:
            self.failure = self.failure or exc
            raise
        self.hasher.update(data)
        return written

    def flush(self) -> None:
        """Leave flushing to whoever owns the file."""


class _Enough(Exception):
    pass


class _Nowhere:
    def write(self, _: bytes) -> int:
        raise _Enough

    def flush(self) -> None:
        pass


def _altered(digest: str) -> BundleMismatch:
    return BundleMismatch(
        f"Artifact {digest} was altered on disk.", remedy="Restore its sealed file from a backup."
    )

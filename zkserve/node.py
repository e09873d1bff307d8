"""The parts of one running node wired together: database, artifacts, engines, SRS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from zkserve.artifacts import RECIPIENTS, ArtifactStore
from zkserve.engines import engine
from zkserve.engines.base import Bundle, Engine
from zkserve.errors import DevelopmentSrsRefused, NotFound, StorageKeyWrong
from zkserve.runtime import Held, leave_no_core
from zkserve.sealing import SUFFIX, StorageKey, development_key, read_key
from zkserve.store.database import Database
from zkserve.types import CircuitManifest

KEY_NAME = "storage.key"


@dataclass(frozen=True, kw_only=True)
class Node:
    """What the use cases work with. ``production`` refuses development SRSs."""

    database: Database
    artifacts: ArtifactStore
    production: bool = False

    @classmethod
    def open(
        cls,
        *,
        data_dir: Path,
        database_url: str,
        production: bool = False,
        storage_key: str = "",
        storage_key_file: Path | None = None,
    ) -> Node:
        """Open the artifact folder and the database, creating no tables.

        Without a storage key one is made in ``data_dir``, where that is allowed. From then on this
        process, which has a key, leaves no core dump.

        Raises:
            StorageKeyWrong: it is not the one that artifacts are sealed under, or none is given,
                in production or where artifacts are sealed already.

        """
        leave_no_core()
        folder = data_dir / "artifacts"
        if storage_key:
            key = StorageKey(storage_key)
        elif storage_key_file:
            key = read_key(storage_key_file)
        else:
            key = _own_key(data_dir / KEY_NAME, folder, production=production)
        return cls(
            artifacts=ArtifactStore(folder, key),
            database=Database(database_url),
            production=production,
        )

    def engine(self, manifest: CircuitManifest) -> Engine:
        """Return the engine that proves a circuit.

        Raises:
            DevelopmentSrsRefused: the circuit rests on a development SRS, in production.

        """
        if self.production and manifest.development_srs:
            raise DevelopmentSrsRefused(
                f"Circuit {manifest.circuit_id} rests on a development SRS: proofs can be forged.",
                remedy="Publish it again with ZKSERVE_SRS_PATH set to a ceremony's file.",
            )
        return engine(manifest.engine)

    def bundle(self, manifest: CircuitManifest, *, public_only: bool = False) -> Bundle:
        """Return the manifest with its files from the artifact store.

        What is sealed is opened, in memory, when it is first asked for; it stays open as long as
        the bundle lives.

        Raises:
            NotFound: a file is missing.

        """
        names = manifest.public if public_only else manifest.pins.keys()
        files = _Files(self.artifacts, {name: manifest.pins[name] for name in sorted(names)})
        return Bundle(manifest=manifest, files=files)


def secret_names(manifest: CircuitManifest) -> frozenset[str]:
    """Return which of a circuit's files are sealed: all but the public ones and the SRS."""
    return frozenset(manifest.pins) - manifest.public - {"srs"}


class _Files(Mapping[str, Path]):
    """Paths of artifacts in clear, by name."""

    def __init__(self, store: ArtifactStore, digests: Mapping[str, str]) -> None:
        for digest in digests.values():
            if not store.has(digest):
                raise NotFound(f"There is no artifact {digest}.")
        self._store = store
        self._digests = digests
        self._held: dict[str, Held] = {}

    def __getitem__(self, name: str) -> Path:
        if name not in self._held:
            self._held[name] = self._store.hold(self._digests[name])
        return self._held[name].path

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)


def _own_key(path: Path, folder: Path, *, production: bool) -> StorageKey:
    remedy = (
        "Set ZKSERVE_STORAGE_KEY_FILE or ZKSERVE_STORAGE_KEY; `zkserve storage new-key` prints a "
        "fresh key."
    )
    if production:
        raise StorageKeyWrong("Production needs a storage key.", remedy=remedy)
    # The files too: a backup may have left the list of keys out.
    sealed = (folder / RECIPIENTS).exists() or any(folder.glob(f"??/*{SUFFIX}"))
    if sealed and not path.exists():
        raise StorageKeyWrong(
            f"Artifacts in {folder} are sealed, no storage key is set, and {path} is not there.",
            remedy=remedy,
        )
    return development_key(path)

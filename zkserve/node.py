"""The parts of one running node wired together: database, artifacts, engines, SRS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zkserve.artifacts import ArtifactStore
from zkserve.engines import engine
from zkserve.engines.base import Bundle, Engine
from zkserve.errors import DevelopmentSrsRefused
from zkserve.store.database import Database
from zkserve.types import CircuitManifest


@dataclass(frozen=True, kw_only=True)
class Node:
    """What the use cases work with. ``production`` refuses development SRSs."""

    database: Database
    artifacts: ArtifactStore
    production: bool = False

    @classmethod
    def open(cls, *, data_dir: Path, database_url: str, production: bool = False) -> Node:
        """Open the database and the artifact folder, creating neither tables nor keys."""
        return cls(
            database=Database(database_url),
            artifacts=ArtifactStore(data_dir / "artifacts"),
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

        Raises:
            NotFound: a file is missing.

        """
        names = manifest.public if public_only else manifest.pins.keys()
        return Bundle(
            manifest=manifest,
            files={name: self.artifacts.path(manifest.pins[name]) for name in sorted(names)},
        )

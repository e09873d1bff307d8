"""Every setting, in one table: name, default, help. Only entry points read them.

Each is an environment variable with the prefix ``ZKSERVE_`` (``ZKSERVE_DATA_DIR=/srv/zkserve``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Settings of the service, the worker and the command line."""

    model_config = SettingsConfigDict(env_prefix="ZKSERVE_", extra="ignore", frozen=True)

    environment: Literal["development", "production"] = Field(
        "development",
        description="production refuses development SRSs and unauthenticated requests.",
    )
    data_dir: Path = Field(
        Path("data"), description="Artifacts and, by default, the SQLite database."
    )
    storage_key: SecretStr = Field(
        SecretStr(""),
        description="Key that secret artifacts are sealed under, as `zkserve storage new-key`"
        " prints it; production needs this or `ZKSERVE_STORAGE_KEY_FILE`. Empty: storage.key in"
        " the data folder, made at the first start.",
    )
    storage_key_file: Path | None = Field(None, description="File that holds the storage key.")
    runtime_dir: Path | None = Field(
        None,
        description="Folder where secrets lie in clear while they are worked with; has to be in"
        " memory. Empty: /dev/shm, or where there is none the folder for temporary files.",
    )
    database_url: str = Field(
        "",
        repr=False,  # may hold a password
        description="SQLAlchemy URL of PostgreSQL or SQLite; empty: zkserve.db in the data folder.",
    )
    host: str = Field("127.0.0.1", description="Address the API binds.")
    port: int = Field(8000, ge=0, le=65535, description="Port the API binds.")
    public_url: str = Field(
        "", description="URL others reach the API by; written into the registry on publish."
    )
    require_api_key: bool = Field(
        False, description="Refuse inference without an API key; always on in production."
    )
    max_body_bytes: int = Field(
        1 << 20, gt=0, description="Largest request body the API accepts, in bytes."
    )
    max_model_bytes: int = Field(
        64 << 20,
        gt=0,
        description="Largest body of a preflight (model, samples, recipe), in bytes.",
    )
    max_preflights: int = Field(
        1, ge=1, description="Preflights run at once; further ones wait for their turn."
    )
    max_preflight_uploads: int = Field(
        4,
        ge=1,
        description="Preflights whose body arrives, that wait or run; further ones are refused with"
        " 503, and so is a caller who holds another where one place is left.",
    )
    preflight_time_s: float = Field(
        120.0, gt=0, description="Time limit of a preflight from its turn on, in seconds."
    )
    preflight_memory_mb: int = Field(
        4096, gt=0, description="Resident memory limit of its child processes, each, in MiB."
    )
    max_open_jobs: int = Field(
        1000,
        gt=0,
        description="Jobs not yet final at which new ones are refused with 503; on-chain requests"
        " that await their input do not count.",
    )
    max_inputs_ahead: int = Field(
        10_000,
        gt=0,
        description="Inputs handed in ahead of on-chain requests that are kept for one tenant.",
    )
    application_version: str = Field(
        "1",
        description="Pinned version of the job workflows; raise it when their steps change.",
    )
    executor_id: str = Field(
        "worker-1", description="Stable id of this worker; a restart under it resumes its jobs."
    )
    worker_threads: int = Field(
        1, ge=1, description="Proofs made at once by one worker; two on two cores gain nothing."
    )
    prover_threads: int = Field(
        0, ge=0, description="Threads of one native proof; 0: one for each CPU there is."
    )
    prove_time_s: float = Field(900.0, gt=0, description="Time limit of one proof, in seconds.")
    prove_memory_mb: int = Field(
        16_384, gt=0, description="Resident memory limit of one proof, in MiB."
    )
    prove_attempts: int = Field(
        3, ge=1, description="Prover errors after which a job fails for good."
    )
    inputs_kept_days: float = Field(
        31.0,
        gt=0,
        description="Days an input handed in ahead of an on-chain request is kept; requests run"
        " for at most 30.",
    )
    sandbox: Literal["auto", "require"] = Field(
        "auto",
        description="Untrusted models are read in the strongest sandbox that this machine has;"
        " require: under bubblewrap, or not at all.",
    )
    srs_path: Path | None = Field(
        None,
        description="SRS file in the engine's own format, see `zkserve srs import`; empty: a"
        " development SRS is made.",
    )
    srs_sha256: str = Field("", description="SHA-256 the SRS file must have.")
    rpc_url: str = Field(
        "",
        repr=False,  # may hold the provider's key
        description="JSON-RPC URL of the chain; empty: no chain.",
    )
    registry: str = Field("", description="Address of the ModelRegistry.")
    market: str = Field("", description="Address of the PredictionMarket.")
    signer_key: SecretStr = Field(
        SecretStr(""), description="Private key that signs publications and fulfilments."
    )
    confirmations: int = Field(
        0,
        ge=0,
        description="Blocks to wait behind the head, on chains without a safe tag.",
    )
    poll_s: float = Field(1.0, gt=0, description="Seconds between looks at the chain.")
    max_fee_gwei: float = Field(
        200.0, gt=0, description="Highest fee per gas the outbox bids, in gwei."
    )
    fulfil_at_a_loss: bool = Field(
        False, description="Settle requests whose gas costs more than their price."
    )
    solc: str = Field(
        "", description="Command that speaks solc's --standard-json; empty: contracts/tools/solc."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level that is logged."
    )

    @property
    def production(self) -> bool:
        """Whether development shortcuts are refused."""
        return self.environment == "production"

    @property
    def database(self) -> str:
        """The database URL in force."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'zkserve.db').resolve()}"

    @property
    def solc_command(self) -> str:
        """The Solidity compiler in force: the set one, or the checkout's."""
        return self.solc or str(Path(__file__).resolve().parents[1] / "contracts/tools/solc")

    @model_validator(mode="after")
    def _one_storage_key(self) -> Settings:
        if self.storage_key.get_secret_value() and self.storage_key_file:
            raise ValueError("ZKSERVE_STORAGE_KEY and ZKSERVE_STORAGE_KEY_FILE are both set.")
        return self

    @model_validator(mode="after")
    def _srs_needs_digest(self) -> Settings:
        if self.srs_path and not self.srs_sha256:
            raise ValueError(
                "ZKSERVE_SRS_PATH needs ZKSERVE_SRS_SHA256: an SRS is pinned by digest."
            )
        return self

"""The bodies that requests carry and answers are made of; OpenAPI is generated from them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Header, Path
from pydantic import BaseModel, ConfigDict, Field

from zkserve.types import JobState

Datatype = Literal[
    "FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"
]
ModelName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
VersionNumber = Annotated[int, Path(ge=1, lt=1 << 31)]
ProofId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,40}$")]
CircuitId = Annotated[str, Path(pattern=r"^0x[0-9a-f]{64}$")]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", description="SHA-256 in lower-case hex")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="Makes the request safe to repeat: the same key and body, the same proof.",
    ),
]
Scalar = str | bool | int | float


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InferTensor(_Request):
    """One named input tensor of the Open Inference Protocol."""

    name: str = Field(max_length=255)
    shape: list[Annotated[int, Field(ge=1, lt=1 << 31)]] = Field(max_length=8)
    datatype: Datatype
    data: list[Any] = Field(description="Numbers in row-major order, flat or nested as the shape.")
    parameters: dict[str, Scalar] = Field(default_factory=dict, max_length=0)


class InferParameters(_Request):
    """What to do beyond predicting."""

    prove: bool = Field(default=True, strict=True, description="Whether to prove the prediction.")


class RequestedOutput(_Request):
    """An output asked for by name."""

    name: str = Field(max_length=255)


class InferRequest(_Request):
    """An inference request of the Open Inference Protocol."""

    id: str | None = Field(default=None, max_length=255, description="Echoed in the answer.")
    inputs: list[InferTensor] = Field(min_length=1, max_length=64)
    outputs: list[RequestedOutput] | None = Field(
        default=None, min_length=1, max_length=64, description="All outputs where it is left out."
    )
    parameters: InferParameters = Field(default_factory=InferParameters)


class InputRequest(_Request):
    """Inputs for a model, outside the Open Inference Protocol."""

    model: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    version: int | None = Field(
        default=None, ge=1, lt=1 << 31, description="The newest version where it is left out."
    )
    inputs: list[InferTensor] = Field(min_length=1, max_length=64)


class OutputTensor(BaseModel):
    """One named output tensor."""

    name: str
    shape: list[int]
    datatype: Literal["FP64", "INT64", "BYTES"] = Field(
        description="BYTES where quantised integers pass 64 bits: their decimal digits."
    )
    data: list[int] | list[float] | list[str]


class InferResponse(BaseModel):
    """The outputs that will be proved, quantised and as real values; never the float model's."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Scalar] = Field(
        description="proof_id and proof_status where a proof was asked for; circuit_id, "
        "claim_digest, claim (canonical JSON as text), output_multiplier, output_shift, "
        "development_srs; batch, the samples that the claim is about, and rows, those of them that "
        "were sent and are answered (the rest repeat the last); opening (canonical JSON as text, "
        "private: keep it) where the input is committed.",
    )
    outputs: list[OutputTensor]


class TensorMetadata(BaseModel):
    """Name, datatype and shape of one tensor."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(BaseModel):
    """What this server is."""

    name: str
    version: str
    extensions: list[str]


class Health(BaseModel):
    """Liveness or readiness of the server; a problem where it is not."""

    live: bool | None = None
    ready: bool | None = None


class ModelReady(BaseModel):
    """Readiness of one model version; a problem where it is not."""

    name: str
    version: str
    ready: bool


class ModelMetadata(BaseModel):
    """Metadata of one model version; ``parameters`` holds what is proved, and how."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class Leak(BaseModel):
    """How many proofs may be made of weights that each proof reveals something of."""

    bits_per_proof: int = Field(description="At most, of the weights.")
    secret_bits: int = Field(description="What the quantised weights hold, from below.")
    proofs: int = Field(description="The budget: how many may be made of this version.")
    made: int = Field(
        description="Proofs made or promised, those of other versions of these weights included."
    )


class ModelVersion(BaseModel):
    """One version of a model in the listing."""

    name: str
    version: int
    description: str
    circuit_id: str
    created_at: datetime
    deprecated: bool
    replaced_by: int | None = Field(
        default=None, description="The version that a deprecated one was replaced by."
    )
    leak: Leak | None = Field(
        default=None, description="The leak budget, in weights modes that have one."
    )


class ModelList(BaseModel):
    """All versions, by model name, newest first."""

    models: list[ModelVersion]


class CommittedInput(BaseModel):
    """What to send to the market for an input, and the private opening to keep."""

    model: str
    version: int
    circuit_id: str
    chain_id: int | None
    chain_version_id: str | None = Field(description="The version's id in the registry.")
    input: str = Field(description="0x-hex: the packed public input, or the commitment.")
    opening: str | None = Field(
        description="Canonical JSON as text, private: keep it. Null where the input is public."
    )
    batch: int = Field(description="Samples that the claim will be about.")
    rows: int = Field(description="Those of them that were sent; the rest repeat the last.")


class Metrics(BaseModel):
    """What a proof cost."""

    prove_s: float | None
    prove_cpu_s: float | None
    peak_rss_bytes: int | None


class JobError(BaseModel):
    """Why the last attempt failed."""

    code: str
    message: str | None


class Links(BaseModel):
    """Where the rest of a proof job is."""

    self: str
    events: str
    receipt: str | None = Field(description="Null while there is no receipt.")


class ProofJob(BaseModel):
    """A proof job as it stands."""

    id: str
    model: str
    version: int
    circuit_id: str
    state: JobState
    final: bool
    created_at: datetime
    updated_at: datetime
    attempts: int
    claim: dict[str, Any] | None
    claim_digest: str | None
    metrics: Metrics
    error: JobError | None
    settlement: dict[str, Any] | None
    links: Links


class ProofJobList(BaseModel):
    """The caller's proof jobs, newest first."""

    proofs: list[ProofJob]

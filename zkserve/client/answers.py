"""What the service answers, as frozen dataclasses; digests and values are recomputed on reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from zkserve.encoding import claim_digest, hex_bytes, parse_json
from zkserve.errors import ProofInvalid, ZkserveError
from zkserve.receipt import claim_from_dict
from zkserve.types import Claim, JobState, Scale


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Outputs that will be proved, not yet proven; ``values`` are their real values.

    Both are of the ``rows`` samples that were sent, row after row. The claim is about ``batch``
    samples: where fewer were sent, the last is repeated.

    ``opening`` is private, canonical JSON bytes: whoever holds it can show what was committed to.
    It is there where the input is committed, and is not to be had again once the proof is made.
    """

    model: str
    version: int
    values: tuple[float, ...]
    outputs: tuple[int, ...]
    claim: Claim
    development_srs: bool
    proof_id: str | None
    batch: int = 1
    rows: int = 1
    opening: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class CommittedInput:
    """What an on-chain request carries (``input``), and the private opening to keep.

    ``chain_version_id`` is the version's id in the registry, None where it was not registered.
    """

    model: str
    version: int
    circuit_id: str
    chain_id: int | None
    chain_version_id: int | None
    input: bytes
    opening: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class ProofJob:
    """A proof job as it stood when asked."""

    id: str
    model: str
    version: int
    state: JobState
    attempts: int
    claim: Claim | None
    prove_s: float | None
    prove_cpu_s: float | None
    peak_rss_bytes: int | None
    error_code: str | None
    error_message: str | None
    settlement: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """One step of a job; ``at`` is ISO 8601, UTC."""

    id: int
    state: JobState
    detail: Mapping[str, Any]
    at: str


@contextmanager
def reading() -> Iterator[None]:
    """Turn an answer of another form than promised into one clear error."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ZkserveError(
            "The service's answer is not of the expected form.",
            remedy="Check that the URL is that of a zkserve service of this version.",
        ) from exc


def read_prediction(answer: Mapping[str, Any]) -> Prediction:
    """Read the answer to an inference request; values are recomputed from the claim.

    Raises:
        ProofInvalid: the claim digest does not follow from the claim.

    """
    with reading():
        parameters = answer["parameters"]
        claim = claim_from_dict(parse_json(parameters["claim"]))
        scale = Scale(
            multiplier=int(parameters["output_multiplier"]), shift=int(parameters["output_shift"])
        )
        batch, rows = int(parameters.get("batch", 1)), int(parameters.get("rows", 1))
        if not 1 <= rows <= batch or len(claim.outputs) % batch:
            raise ValueError(f"{rows} of {batch} rows in {len(claim.outputs)} outputs")
        outputs = claim.outputs[: len(claim.outputs) // batch * rows]
        prediction = Prediction(
            model=answer["model_name"],
            version=int(answer["model_version"]),
            values=tuple(scale.to_real(output) for output in outputs),
            outputs=outputs,
            batch=batch,
            rows=rows,
            claim=claim,
            development_srs=parameters["development_srs"],
            proof_id=parameters.get("proof_id"),
            opening=_bytes(parameters.get("opening")),
        )
        digest = parameters["claim_digest"]
    if digest != claim_digest(claim):
        raise ProofInvalid("The service's claim digest does not follow from its claim.")
    return prediction


def read_committed_input(answer: Mapping[str, Any]) -> CommittedInput:
    """Read the answer to an input handed in."""
    with reading():
        version_id = answer["chain_version_id"]
        return CommittedInput(
            model=answer["model"],
            version=answer["version"],
            circuit_id=answer["circuit_id"],
            chain_id=answer["chain_id"],
            chain_version_id=int(version_id, 0) if version_id is not None else None,
            input=hex_bytes(answer["input"]),
            opening=_bytes(answer["opening"]),
        )


def read_proof_job(answer: Mapping[str, Any]) -> ProofJob:
    """Read the description of a proof job."""
    with reading():
        error = answer["error"] or {}
        return ProofJob(
            id=answer["id"],
            model=answer["model"],
            version=answer["version"],
            state=JobState(answer["state"]),
            attempts=answer["attempts"],
            claim=claim_from_dict(answer["claim"]) if answer["claim"] else None,
            prove_s=answer["metrics"]["prove_s"],
            prove_cpu_s=answer["metrics"]["prove_cpu_s"],
            peak_rss_bytes=answer["metrics"]["peak_rss_bytes"],
            error_code=error.get("code"),
            error_message=error.get("message"),
            settlement=answer["settlement"],
        )


def read_events(lines: Iterator[str]) -> Iterator[JobEvent]:
    """Read server-sent events from the lines of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line:
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            with reading():
                data = parse_json(fields["data"])
                event = JobEvent(
                    id=int(fields["id"]),
                    state=JobState(data["state"]),
                    detail=data["detail"],
                    at=data["at"],
                )
            yield event
            fields = {}


def _bytes(text: str | None) -> bytes | None:
    return text.encode() if text is not None else None

"""A deterministic engine for fast tests: same protocol, no proof system behind it.

Its "proof" is a hash anyone can make, so it must never leave the tests. Where ``prove_s`` is
positive the work happens in the real killable child, which does nothing but sleep.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import psutil
from sqlalchemy.orm import Session

from zkserve.encoding import canonical_json, claim_digest, identified, to_hex
from zkserve.engines.base import NO_CONTEXT, Bundle, FloatArray, Limits, Prediction, Proof
from zkserve.engines.child import run_child
from zkserve.errors import InputOutOfRange, InvalidInput, ProofInvalid
from zkserve.node import Node
from zkserve.receipt import manifest_to_dict
from zkserve.store import jobs, keys, versions
from zkserve.store.tables import JobRow, RequestRow, VersionRow
from zkserve.types import (
    CircuitManifest,
    Claim,
    InputMode,
    LeakBudget,
    Scale,
    TensorSpec,
    WeightsMode,
)

SCALE = Scale(multiplier=1, shift=8)
ELEMENTS = 4
WEIGHTS = "0x" + "22" * 32


def proof_of(claim: Claim) -> bytes:
    """Return the one proof of a claim."""
    return hashlib.sha256(b"fake proof" + bytes.fromhex(claim_digest(claim)[2:])).digest()


class FakeEngine:
    """``failures`` are raised by :meth:`prove`, one a call, before it works."""

    name = "fake"
    version = "1"

    def __init__(
        self,
        *,
        prove_s: float = 0.0,
        failures: list[Exception] | None = None,
        log: Path | None = None,
    ) -> None:
        self.prove_s = prove_s
        self.failures = failures or []
        self.log = log
        self.proved = 0
        self.contexts: list[bytes] = []

    def predict(
        self, bundle: Bundle, inputs: FloatArray, *, salt: bytes | None = None
    ) -> Prediction:
        """Two outputs for each sample: the sum of its inputs and its negative."""
        elements = ELEMENTS * bundle.manifest.batch
        if inputs.shape != (elements,):
            raise InvalidInput(f"expected shape ({elements},), got {inputs.shape}.")
        if float(np.abs(inputs).max()) > 100:
            raise InputOutOfRange("an input is outside ±100.")
        committed = bundle.manifest.input_mode is InputMode.COMMITTED
        quantised = [round(float(value) * 256) for value in inputs]
        return _predict(bundle, quantised, (salt or os.urandom(32)) if committed else None)

    def reopen(self, bundle: Bundle, opening: bytes) -> Prediction:
        """Predict from the quantised input and the salt."""
        content = json.loads(opening)
        salt = content["salt"]
        return _predict(bundle, content["input"], bytes.fromhex(salt) if salt else None)

    def prove(
        self,
        bundle: Bundle,
        claim: Claim,
        opening: bytes,
        *,
        context: bytes = NO_CONTEXT,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        progress=lambda _: None,
        cancelled=lambda: False,
    ) -> Proof:
        """Sleep in a child, then hash."""
        if self.failures:
            raise self.failures.pop(0)
        self.check_opening(bundle, claim, opening)
        self.contexts.append(context)
        progress("proving")
        if self.prove_s:
            run_child(
                "tests.fakes:work",
                limits=limits,
                progress=progress,
                cancelled=cancelled,
                seconds=self.prove_s,
                log=str(self.log) if self.log else None,
                claim=claim_digest(claim),
            )
        self.proved += 1
        return Proof(
            data=proof_of(claim), prove_s=self.prove_s, prove_cpu_s=0.0, peak_rss_bytes=1 << 20
        )

    def verify(
        self,
        bundle: Bundle,
        claim: Claim,
        proof: bytes,
        *,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ) -> None:
        """Compare with the one proof."""
        del bundle, limits
        if proof != proof_of(claim):
            raise ProofInvalid("the fake proof is wrong.")

    def context_of(self, proof: bytes) -> bytes | None:
        """Bind none."""
        del proof

    def caveats(self, bundle: Bundle) -> tuple[str, ...]:
        """Say that it is a fake."""
        del bundle
        return ("It is a fake.",)

    def unpack_input(self, bundle: Bundle, packed: bytes) -> FloatArray:
        """Read back 8-byte words."""
        del bundle
        if len(packed) != 8 * ELEMENTS:
            raise InvalidInput(f"expected {8 * ELEMENTS} bytes, got {len(packed)}.")
        words = [packed[i : i + 8] for i in range(0, len(packed), 8)]
        return np.array(
            [int.from_bytes(word, "big", signed=True) / 256 for word in words], np.float32
        )

    def check_opening(self, bundle: Bundle, claim: Claim, opening: bytes) -> list[float]:
        """Recompute what the claim shows of the input."""
        content = json.loads(opening)
        packed = _pack(content["input"])
        if bundle.manifest.input_mode is InputMode.COMMITTED:
            packed = hashlib.sha256(bytes.fromhex(content["salt"]) + packed).digest()
        if packed != claim.input:
            raise ProofInvalid("the opening does not give this claim.")
        return [SCALE.to_real(value) for value in content["input"]]


def work(seconds: float, log: str | None, claim: str) -> None:
    """Run in the child: note its process id, then sleep."""
    if log:
        with Path(log).open("a") as file:
            file.write(f"{claim} {os.getpid()}\n")
    time.sleep(seconds)


def runs(pid: int) -> bool:
    """Return whether a process lives; a zombie nobody waits for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def use(engine: FakeEngine) -> Iterator[FakeEngine]:
    """Let every node in this process find this engine under any name."""
    with mock.patch("zkserve.node.engine", return_value=engine):
        yield engine


def publish(
    node: Node,
    name: str = "tiny",
    *,
    input_mode: InputMode = InputMode.COMMITTED,
    batch: int = 1,
    leak: LeakBudget | None = None,
    weights_digests: Sequence[str] = (),
) -> VersionRow:
    """Add a version of a model of four inputs and two outputs, proved by the fake engine."""
    made = manifest(node, name, input_mode=input_mode, batch=batch, leak=leak)
    with node.database.session() as session:
        return versions.add(
            session,
            name=name,
            description="a fake",
            circuit_id=made.circuit_id,
            publication=hashlib.sha256(f"{name} {input_mode}".encode()).hexdigest(),
            onnx_sha256=made.pins["model"],
            manifest=manifest_to_dict(made),
            weights_digests=weights_digests,
        )


def manifest(
    node: Node,
    name: str,
    *,
    input_mode: InputMode = InputMode.COMMITTED,
    batch: int = 1,
    leak: LeakBudget | None = None,
) -> CircuitManifest:
    """Store the artifacts of a fake circuit; return its manifest."""
    pins = {"model": node.artifacts.seal(f"compiled {name}".encode())}
    vk = node.artifacts.put(f"key {name}".encode())
    pins["vk"] = vk
    made = CircuitManifest(
        circuit_id="",
        engine="fake",
        engine_version="1",
        input_mode=input_mode,
        weights_mode=WeightsMode.FIXED if leak else WeightsMode.HASHED,
        weights=WEIGHTS,
        inputs=(TensorSpec(name="x", shape=(batch, ELEMENTS)),),
        output=TensorSpec(name="y", shape=(batch, 2)),
        parameters={"batch": batch},
        output_scale=SCALE,
        pins=pins,
        public=frozenset({"vk"}),
        development_srs=True,
        rows=100,
        leak=leak,
    )
    return identified(made)


def _predict(bundle: Bundle, quantised: list[int], salt: bytes | None) -> Prediction:
    packed = _pack(quantised)
    starts = range(0, len(quantised), ELEMENTS)
    sums = [sum(quantised[start : start + ELEMENTS]) for start in starts]
    claim = Claim(
        circuit_id=bundle.manifest.circuit_id,
        weights=bundle.manifest.weights,
        input=packed if salt is None else hashlib.sha256(salt + packed).digest(),
        outputs=tuple(output for total in sums for output in (total, -total)),
    )
    opening = canonical_json({"input": quantised, "salt": salt.hex() if salt else None})
    return Prediction(claim=claim, opening=opening)


def _pack(values: list[int]) -> bytes:
    return b"".join(value.to_bytes(8, "big", signed=True) for value in values)


def requested(
    session: Session,
    version: VersionRow,
    *,
    packed: bytes = b"",
    deadline: int = 1 << 40,
    request_id: int = 1,
) -> JobRow:
    """Store a request and its job, as following a market does; return the job."""
    job = jobs.add(session, version_id=version.id, tenant=keys.ON_CHAIN)
    session.add(
        RequestRow(
            chain_id=31337,
            market="0x" + "11" * 20,
            request_id=request_id,
            job_id=job.id,
            input=to_hex(packed),
            requester="0x" + "22" * 20,
            price_wei="1",
            deadline=deadline,
            block=1,
            block_hash="0x" + "33" * 32,
        )
    )
    return job

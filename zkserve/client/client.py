"""The SDK's one class; see :mod:`zkserve.client`."""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx

from zkserve.client.answers import (
    CommittedInput,
    JobEvent,
    Prediction,
    ProofJob,
    read_committed_input,
    read_events,
    read_prediction,
    read_proof_job,
    reading,
)
from zkserve.client.connection import BACK_OFF_S, Connection
from zkserve.client.tensors import tensors_of
from zkserve.encoding import sha256_file
from zkserve.errors import BundleMismatch, InvalidInput, Unavailable
from zkserve.receipt import manifest_bytes, manifest_from_dict, receipt_from_dict
from zkserve.types import CircuitManifest, JobState, Receipt

_SILENCE_S = 45.0
"""Three missed heartbeats: the stream is dead even if the connection does not know it."""
_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MANIFEST_NAME = "manifest.json"


class Client:
    """A connection to one service. Every request is safe to repeat and is, when the line breaks.

    Args:
        base_url: Where the service is.
        api_key: ``zk_<prefix>_<secret>``; never shown in ``repr``.
        timeout_s: How long one answer may take.
        transport: Another way to reach the service than the network.

    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(
            base_url, api_key=api_key, timeout_s=timeout_s, transport=transport
        )

    def __repr__(self) -> str:
        return f"Client({self._connection!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    def ready(self) -> bool:
        """Return whether the service answers and is ready to work."""
        try:
            self._connection.json("GET", "/v2/health/ready")
        except Unavailable:
            return False
        return True

    def models(self) -> list[dict[str, Any]]:
        """Return all versions: name, version, description, circuit_id, created_at, deprecated.

        ``replaced_by`` is the number of the version that took the place of a deprecated one, or
        None.
        """
        answer = self._connection.json("GET", "/v1/models")
        with reading():
            return list(answer["models"])

    def metadata(self, model: str, version: int | None = None) -> dict[str, Any]:
        """Return the Open Inference metadata of a version, by default the newest.

        Raises:
            NotFound: there is no such model or version.

        """
        return self._connection.json("GET", _model_path(model, version))

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Any] | Sequence[Any],
        version: int | None = None,
        prove: bool = True,
        idempotency_key: str | None = None,
    ) -> Prediction:
        """Predict and, by default, have the prediction proved.

        Args:
            model: Its name.
            inputs: Numbers by input name, or for a model of one input just the numbers; flat in
                row-major order, or nested as the model's shape. Arrays work too.
            version: Its number; the newest where it is left out.
            prove: Whether to start a proof.
            idempotency_key: The same key with the same inputs gives the same proof; drawn at
                random where it is left out.

        Raises:
            InvalidInput: the inputs are not what the model takes.
            NotFound: there is no such model or version.
            Unavailable: the service did not answer, or takes no more jobs now.

        """
        body = {
            "inputs": tensors_of(self.metadata(model, version), model, inputs),
            "parameters": {"prove": prove},
        }
        answer = self._connection.json(
            "POST",
            f"{_model_path(model, version)}/infer",
            body=body,
            headers={"Idempotency-Key": idempotency_key or str(uuid.uuid4())},
        )
        return read_prediction(answer)

    def commit_input(
        self,
        model: str,
        inputs: Mapping[str, Any] | Sequence[Any],
        version: int | None = None,
    ) -> CommittedInput:
        """Hand in inputs ahead of an on-chain request, which then carries only ``input``.

        Raises:
            InvalidInput: the inputs are not what the model takes.
            NotFound: there is no such model or version.

        """
        tensors = tensors_of(self.metadata(model, version), model, inputs)
        body: dict[str, Any] = {"model": model, "inputs": tensors}
        if version is not None:
            body["version"] = version
        answer = self._connection.json("POST", "/v1/inputs", body=body)
        return read_committed_input(answer)

    def preflight(
        self,
        model_path: str | Path,
        samples_path: str | Path | None = None,
        recipe_path: str | Path | None = None,
        timeout_s: float = 600.0,
    ) -> dict[str, Any]:
        """Return what publishing a model would give and cost there; the service keeps nothing.

        The report is as ``zkserve publish --dry-run --json`` gives it: ``fits``, ``engine``, a
        verdict of each engine on each of ``operators``, and for each of ``ways`` (an engine and a
        weights mode) an ``estimate``, the price in a ``batch``, ``problems`` and ``warnings``.
        ``/openapi.json`` has all of it.

        Args:
            model_path: An ONNX file.
            samples_path: Samples (.npz or .json); figures that hang on them are less sure without.
            recipe_path: A ``recipe.toml``; without it the first engine that can prove the model is
                chosen, and defaults hold.
            timeout_s: How long the answer may take; what the service spends on one ends with it.

        Raises:
            InvalidInput: a file cannot be read, or they are larger than the service takes.
            ModelRejected: it is no model, or looking at it took too long.
            RecipeInvalid: the recipe or the samples are wrong.
            Unavailable: the service did not answer, or takes no more uploads now.

        """
        given = {"model": model_path, "samples": samples_path, "recipe": recipe_path}
        files = {name: _content(Path(path)) for name, path in given.items() if path is not None}
        return self._connection.upload("/v1/preflight", files, timeout_s=timeout_s)

    def proofs(self, state: JobState | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """Return the caller's newest proof jobs as the service describes them."""
        query = {"limit": limit} | ({"state": state.value} if state else {})
        found: list[dict[str, Any]] = self._connection.json("GET", "/v1/proofs", query=query)[
            "proofs"
        ]
        return found

    def proof(self, proof_id: str) -> ProofJob:
        """Return a proof job as it stands.

        Raises:
            NotFound: there is none of that id for this caller.

        """
        return read_proof_job(self._connection.json("GET", _proof_path(proof_id)))

    def request(self, chain_id: int, market: str, request_id: int) -> ProofJob:
        """Return the proof job of an on-chain request, which needs no API key.

        Raises:
            NotFound: the service does not know the request, or not yet.

        """
        path = f"/v1/requests/{chain_id}/{_segment(market)}/{request_id}"
        return read_proof_job(self._connection.json("GET", path))

    def cancel(self, proof_id: str) -> ProofJob:
        """Cancel a proof job.

        Raises:
            NotFound: there is none of that id for this caller.
            Conflict: it is done, or under way on a chain.

        """
        return read_proof_job(self._connection.json("DELETE", _proof_path(proof_id)))

    def wait(
        self,
        proof_id: str,
        timeout_s: float = 3600.0,
        on_event: Callable[[JobEvent], None] | None = None,
    ) -> ProofJob:
        """Follow a proof job until it is final, also across restarts of the service.

        ``on_event`` gets each event once, in order. How the job ended is in its ``state``.

        Raises:
            NotFound: there is none of that id for this caller.
            Unavailable: it is not final after ``timeout_s``.

        """
        deadline_s = time.monotonic() + timeout_s
        last_id, ended = 0, False
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                for event in self._events(proof_id, last_id, min(left_s, _SILENCE_S)):
                    last_id, ended = event.id, event.state.final
                    if on_event is not None:
                        on_event(event)
                    if time.monotonic() > deadline_s:
                        break
                # A failed job may have been set going again since.
                if ended and (job := self.proof(proof_id)).state.final:
                    return job
            except (httpx.TransportError, Unavailable):
                pass  # a restart or a silence: go on after the last event seen
            time.sleep(min(BACK_OFF_S, max(0.0, deadline_s - time.monotonic())))
        raise Unavailable(
            f"Proof {proof_id} was not final after {timeout_s:g} s.",
            remedy="Nothing is lost: wait for it again.",
        )

    def receipt(self, proof_id: str) -> Receipt:
        """Return the receipt of a verified proof, its claim digest and values recomputed.

        Raises:
            NotFound: there is none of that id for this caller.
            Conflict: there is no receipt, or not yet.
            ProofInvalid: the receipt contradicts itself.

        """
        return receipt_from_dict(self._connection.json("GET", f"{_proof_path(proof_id)}/receipt"))

    def manifest(self, circuit_id: str) -> CircuitManifest:
        """Return the public manifest of a circuit, its id recomputed.

        Raises:
            NotFound: the service has no such circuit.
            BundleMismatch: the manifest is of another circuit, or contradicts itself.

        """
        manifest = manifest_from_dict(
            self._connection.json("GET", f"/v1/circuits/{_segment(circuit_id)}")
        )
        if manifest.circuit_id != circuit_id:
            raise BundleMismatch(f"Asked for circuit {circuit_id}, got {manifest.circuit_id}.")
        return manifest

    def download_artifacts(self, circuit_id: str, folder: Path) -> CircuitManifest:
        """Download all that verifying needs: ``manifest.json`` and each public file by its name.

        Files that are there already are checked and kept.

        Raises:
            NotFound: the service lacks the circuit or a file.
            BundleMismatch: something is not what the circuit id pins.

        """
        manifest = self.manifest(circuit_id)
        folder.mkdir(parents=True, exist_ok=True)
        for name in sorted(manifest.public):
            # The names come from the service, and must not lead out of the folder.
            if not _ARTIFACT_NAME.fullmatch(name) or name == _MANIFEST_NAME:
                raise BundleMismatch(f"The manifest names an artifact {name[:80]!r}.")
            target, digest = folder / name, manifest.pins[name]
            if not (target.is_file() and sha256_file(target) == digest):
                self._download(digest, target)
        (folder / _MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
        return manifest

    def verify(
        self,
        receipt: Receipt,
        folder: Path | None = None,
        *,
        expected_circuit: str | None = None,
        opening: bytes | None = None,
    ) -> Any:
        """Verify a receipt on this machine, from public artifacts only.

        See :func:`zkserve.verify.verify_offline`, whose answer is returned. ``folder`` holds the
        artifacts; without one they are downloaded, each checked by its digest. This imports the
        engine, which the rest of the SDK never does.

        Raises:
            ProofInvalid: the receipt does not hold.
            BundleMismatch: the artifacts are not the pinned ones.

        """
        if folder is None:
            with tempfile.TemporaryDirectory(prefix="zkserve-") as temporary:
                self.download_artifacts(receipt.claim.circuit_id, Path(temporary))
                return self.verify(
                    receipt, Path(temporary), expected_circuit=expected_circuit, opening=opening
                )
        # The one import upwards, by name and when called: whoever verifies has the engine, whoever
        # only predicts must not need it.
        use_case = import_module("zkserve.verify")
        return use_case.verify_offline(
            receipt, folder, expected_circuit=expected_circuit, opening=opening
        )

    def _events(self, proof_id: str, last_id: int, silence_s: float) -> Iterator[JobEvent]:
        with self._connection.stream(
            f"{_proof_path(proof_id)}/events",
            headers={"Last-Event-ID": str(last_id)},
            silence_s=silence_s,
        ) as response:
            yield from read_events(response.iter_lines())

    def _download(self, digest: str, target: Path) -> None:
        partial = target.with_name(f".{target.name}.partial")

        def send() -> str:
            hasher = hashlib.sha256()
            with (
                self._connection.stream(f"/v1/artifacts/{digest}") as response,
                partial.open("wb") as file,
            ):
                for block in response.iter_bytes():
                    hasher.update(block)
                    file.write(block)
            return hasher.hexdigest()

        try:
            found = self._connection.repeated(send)
            if found != digest:
                raise BundleMismatch(
                    f"Artifact {target.name} has the digest {found}, the circuit pins {digest}.",
                    remedy="Do not trust this service's artifacts; tell the model's owner.",
                )
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInput(
            f"{path} cannot be read: {exc.strerror}.", remedy="Correct the path."
        ) from exc


def _segment(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", text) or set(text) == {"."}:
        raise InvalidInput(f"{text[:80]!r} cannot be a name or an id here.")
    return text


def _model_path(model: str, version: int | None) -> str:
    path = f"/v2/models/{_segment(model)}"
    return path if version is None else f"{path}/versions/{int(version)}"


def _proof_path(proof_id: str) -> str:
    return f"/v1/proofs/{_segment(proof_id)}"

"""The SDK against a scripted service: what it sends, what it refuses, what it survives."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import zkserve.client
from zkserve.client import Client, CommittedInput, JobEvent, Prediction
from zkserve.client import connection as connection_module
from zkserve.client.answers import read_prediction
from zkserve.encoding import canonical_json, claim_digest, identified, sha256_hex
from zkserve.errors import (
    BundleMismatch,
    Conflict,
    IdempotencyConflict,
    InputOutOfRange,
    InvalidInput,
    NotFound,
    ProofInvalid,
    Unauthorized,
    Unavailable,
    ZkserveError,
)
from zkserve.receipt import claim_to_dict, manifest_from_dict, manifest_to_dict, receipt_to_dict
from zkserve.types import (
    CircuitManifest,
    Claim,
    InputMode,
    JobState,
    Receipt,
    Scale,
    TensorSpec,
    WeightsMode,
)

KEY = "zk_0123456789_topsecret"
CLAIM = Claim(circuit_id="0x" + "11" * 32, weights="0x" + "22" * 32, input=b"\1", outputs=(76, -77))
METADATA = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2]}]}
Handler = Callable[[httpx.Request], httpx.Response]


def connect(handler: Handler, **more: Any) -> Client:
    return Client("http://service:8000", transport=httpx.MockTransport(handler), **more)


def answer(**changes: Any) -> dict[str, Any]:
    return {
        "model_name": "tiny",
        "model_version": "3",
        "parameters": {
            "proof_id": "job_1",
            "proof_status": "not yet proven",
            "circuit_id": CLAIM.circuit_id,
            "claim_digest": claim_digest(CLAIM),
            "claim": canonical_json(claim_to_dict(CLAIM)).decode(),
            "output_multiplier": 1,
            "output_shift": 8,
            "development_srs": True,
            "opening": '{"salt":"00"}',
        }
        | changes,
        "outputs": [],
    }


def service(request: httpx.Request) -> httpx.Response:
    """Metadata for GET, a prediction for POST."""
    return httpx.Response(200, json=METADATA if request.method == "GET" else answer())


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BACK_OFF_S", 0.0)


def test_public_names() -> None:
    assert zkserve.client.__all__ == [
        "Client",
        "CommittedInput",
        "JobEvent",
        "Prediction",
        "ProofJob",
    ]
    methods = [name for name, _ in inspect.getmembers(Client, callable) if not name.startswith("_")]
    assert methods == [
        "cancel",
        "close",
        "commit_input",
        "download_artifacts",
        "infer",
        "manifest",
        "metadata",
        "models",
        "preflight",
        "proof",
        "proofs",
        "ready",
        "receipt",
        "request",
        "verify",
        "wait",
    ]


def test_importing_it_is_light() -> None:
    """A caller's process must not carry a prover, a chain or arrays."""
    code = (
        "import sys, zkserve.client, zkserve.errors\n"
        "heavy = {'torch', 'ezkl', 'onnx', 'onnxruntime', 'web3', 'numpy', 'sqlalchemy', "
        "'fastapi', 'dbos', 'eth_account'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_secret_in_repr() -> None:
    with Client("http://user:password@service:8000/base?x=1", api_key=KEY) as client:
        shown = repr(client)
    assert "service:8000" in shown
    for secret in ("topsecret", "0123456789", "password", "user"):
        assert secret not in shown
    prediction = connect(service).infer("tiny", [1, 2])
    assert "salt" not in repr(prediction)
    assert "salt" not in repr(
        CommittedInput(
            model="m",
            version=1,
            circuit_id="0x",
            chain_id=None,
            chain_version_id=None,
            input=b"",
            opening=b"salt",
        )
    )


def test_a_malformed_url_is_our_error() -> None:
    for url in ("http://[::1", "http://x:notaport"):
        with pytest.raises(InvalidInput):
            Client(url)


@pytest.mark.parametrize(
    ("inputs", "shape", "data"),
    [
        ([1, 2.5], [1, 2], [1, 2.5]),
        ((1, 2.5), [1, 2], [1, 2.5]),
        ({"x": [1, 2.5]}, [1, 2], [1, 2.5]),
        ([[1, 2.5]], [1, 2], [[1, 2.5]]),
        (np.array([1, 2.5]), [1, 2], [1, 2.5]),
        (np.array([[1, 2.5]], np.float32), [1, 2], [[1, 2.5]]),
        (np.array([[1], [2.5]]), [2, 1], [[1], [2.5]]),
    ],
)
def test_infer_sends_an_open_inference_request(inputs: Any, shape: Any, data: Any) -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return service(request)

    with connect(handler, api_key=KEY) as client:
        prediction = client.infer("tiny", inputs, version=3, prove=True, idempotency_key="mine")
    _, post = seen
    assert post.url.path == "/v2/models/tiny/versions/3/infer"
    assert post.headers["Authorization"] == f"Bearer {KEY}"
    assert post.headers["Idempotency-Key"] == "mine"
    assert json.loads(post.content) == {
        "inputs": [{"name": "x", "shape": shape, "datatype": "FP64", "data": data}],
        "parameters": {"prove": True},
    }
    assert prediction == Prediction(
        model="tiny",
        version=3,
        values=(0.296875, -0.30078125),
        outputs=(76, -77),
        claim=CLAIM,
        development_srs=True,
        proof_id="job_1",
        opening=b'{"salt":"00"}',
    )


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        {"z": [1]},
        {"x": []},
        7,
        None,
        "12",
        [float("nan")],
        [float("inf")],
        [object()],
        {"x": 7},
    ],
)
def test_infer_refuses_what_are_no_numbers_before_sending(inputs: Any) -> None:
    posted = []

    def handler(request: httpx.Request) -> httpx.Response:
        posted.extend([request] if request.method == "POST" else [])
        return service(request)

    with connect(handler) as client, pytest.raises(InvalidInput):
        client.infer("tiny", inputs)
    assert not posted


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "a?b", "a b", "x" * 129, "ü"])
def test_names_and_ids_cannot_lead_elsewhere(name: str) -> None:
    with connect(service) as client:
        for call in (client.metadata, client.proof, client.receipt, client.cancel, client.manifest):
            with pytest.raises(InvalidInput):
                call(name)


def test_a_broken_line_repeats_the_same_key() -> None:
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            keys.append(request.headers["Idempotency-Key"])
            if len(keys) < 3:
                raise httpx.ReadError("reset")
        return service(request)

    with connect(handler) as client:
        client.infer("tiny", [1, 2])
        client.infer("tiny", [1, 2])
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0], "another prediction, another key"


def test_a_dead_service_is_given_up_on() -> None:
    attempts = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal attempts
        attempts += 1
        raise httpx.ConnectError("refused", request=request)

    with connect(handler) as client:
        with pytest.raises(Unavailable, match="http://service:8000"):
            client.models()
        assert attempts == 4
        assert not client.ready()


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("invalid-input", 422, InvalidInput),
        ("input-out-of-range", 422, InputOutOfRange),
        ("idempotency-conflict", 422, IdempotencyConflict),
        ("conflict", 409, Conflict),
        ("not-found", 404, NotFound),
        ("unauthorized", 401, Unauthorized),
        ("unavailable", 503, Unavailable),
        ("body-too-large", 413, InvalidInput),
        ("malformed-json", 400, InvalidInput),
        ("internal", 500, ZkserveError),
    ],
)
def test_problems_come_back_as_our_errors(code: str, status: int, kind: type[ZkserveError]) -> None:
    problem = {"type": f"urn:zkserve:error:{code}", "detail": "what", "remedy": "do"}

    def handler(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json=problem)

    with connect(handler) as client, pytest.raises(ZkserveError) as caught:
        client.metadata("tiny")
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.remedy) == ("what", "do")


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(502, text="<html>bad gateway"), Unavailable),
        (httpx.Response(404, json=["no problem"]), NotFound),
        (httpx.Response(301, headers={"Location": "http://elsewhere"}), ZkserveError),
        (httpx.Response(200, text="hello"), ZkserveError),
        (httpx.Response(200, json=[1]), ZkserveError),
        (httpx.Response(200, json={}), ZkserveError),
    ],
)
def test_what_is_no_zkserve_service(response: httpx.Response, kind: type[ZkserveError]) -> None:
    with connect(lambda _: response) as client, pytest.raises(kind):
        client.proof("job_1")


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"claim_digest": "0x" + "00" * 32}, ProofInvalid),
        ({"claim": "{}"}, InvalidInput),
        ({"claim": "no json"}, ZkserveError),
        ({"output_shift": None}, ZkserveError),
    ],
)
def test_a_prediction_that_contradicts_itself_is_refused(
    changes: dict[str, Any], kind: type[ZkserveError]
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=METADATA if request.method == "GET" else answer(**changes))

    with connect(handler) as client, pytest.raises(kind):
        client.infer("tiny", [1, 2])


def test_receipts_are_recomputed() -> None:
    receipt = Receipt(
        claim=CLAIM,
        proof=b"\0",
        engine="e",
        engine_version="1",
        model="tiny",
        version=3,
        output_scale=Scale(shift=8),
        development_srs=True,
    )
    data = receipt_to_dict(receipt)
    with connect(lambda _: httpx.Response(200, json=data)) as client:
        assert client.receipt("job_1") == receipt
        data["values"] = [0.5, 0.5]
        with pytest.raises(ProofInvalid):
            client.receipt("job_1")


def job(state: str) -> dict[str, Any]:
    return {
        "id": "job_1",
        "model": "tiny",
        "version": 3,
        "state": state,
        "attempts": 0,
        "claim": None,
        "metrics": {"prove_s": None, "prove_cpu_s": None, "peak_rss_bytes": None},
        "error": None,
        "settlement": None,
    }


class Events:
    """Streams of the events of one job, cut off as scripted."""

    STATES = ("accepted", "proving", "verified", "stored", "done")

    def __init__(self, *cuts: int) -> None:
        self.cuts = list(cuts)
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=job("done"))
        last = int(request.headers["Last-Event-ID"])
        self.asked.append(request.headers["Last-Event-ID"])
        if last == len(self.STATES):
            return httpx.Response(204)
        cut = self.cuts.pop(0) if self.cuts else len(self.STATES)
        return httpx.Response(200, content=self._stream(last, cut))

    def _stream(self, last: int, cut: int) -> Any:
        for number, state in enumerate(self.STATES[last:cut], start=last + 1):
            data = json.dumps({"state": state, "detail": {}, "at": "2026-01-01T00:00:00+00:00"})
            yield f": beat\n\nid: {number}\nevent: {state}\ndata: {data}\n\n".encode()
        if cut < len(self.STATES):
            yield b"id: 99\nevent: done\ndata: {"  # half an event must not count
            raise httpx.ReadError("killed")


@pytest.mark.parametrize("cuts", [(), (2,), (0, 0, 1, 4), (1, 2, 3, 4)])
def test_waiting_sees_every_event_once_whatever_breaks(
    cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zkserve.client.client.BACK_OFF_S", 0.0)
    events, seen = Events(*cuts), list[JobEvent]()
    with connect(events) as client:
        assert client.wait("job_1", 30, seen.append).state is JobState.DONE
    assert [event.id for event in seen] == [1, 2, 3, 4, 5]
    assert [event.state.value for event in seen] == list(Events.STATES)
    assert len(events.asked) == len(cuts) + 1


def test_waiting_ends_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with connect(handler) as client, pytest.raises(Unavailable, match="not final"):
        client.wait("job_1", 0.05)


def test_waiting_for_what_is_not_there_ends_at_once() -> None:
    problem = {"type": "urn:zkserve:error:not-found", "detail": "no"}
    client = connect(lambda _: httpx.Response(404, json=problem))
    with client, pytest.raises(NotFound):
        client.wait("job_1", 30)


class Artifacts:
    """A circuit with one public and one private file; ``files`` is what is really served."""

    def __init__(self, name: str = "vk.key") -> None:
        self.files = {name: b"verifying key"}
        pins = {name: sha256_hex(b"verifying key"), "pk.key": sha256_hex(b"weights")}
        manifest = CircuitManifest(
            circuit_id="",
            engine="fake",
            engine_version="1",
            input_mode=InputMode.PUBLIC,
            weights_mode=WeightsMode.HASHED,
            weights=CLAIM.weights,
            inputs=(TensorSpec(name="x", shape=(1, 2)),),
            output=TensorSpec(name="y", shape=(1, 2)),
            output_scale=Scale(),
            pins=pins,
            public=frozenset({name}),
            development_srs=True,
            rows=1,
        )
        self.manifest = identified(manifest)
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if request.url.path.startswith("/v1/circuits/"):
            return httpx.Response(200, json=manifest_to_dict(self.manifest))
        (content,) = self.files.values()
        return httpx.Response(200, content=content)


def test_artifacts_are_downloaded_once_and_checked(tmp_path: Path) -> None:
    artifacts = Artifacts()
    with connect(artifacts) as client:
        manifest = client.download_artifacts(artifacts.manifest.circuit_id, tmp_path / "new")
        assert manifest == artifacts.manifest
        (tmp_path / "new" / "vk.key").write_bytes(b"tampered on disk")
        for _ in range(2):
            client.download_artifacts(artifacts.manifest.circuit_id, tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["manifest.json", "vk.key"]
    assert (tmp_path / "new" / "vk.key").read_bytes() == b"verifying key"
    stored = json.loads((tmp_path / "new" / "manifest.json").read_bytes())
    assert manifest_from_dict(stored) == artifacts.manifest
    assert len([path for path in artifacts.asked if "artifacts" in path]) == 2


def test_an_artifact_of_another_digest_is_refused_and_not_kept(tmp_path: Path) -> None:
    artifacts = Artifacts()
    artifacts.files["vk.key"] = b"another key"
    with connect(artifacts) as client, pytest.raises(BundleMismatch, match=r"vk\.key"):
        client.download_artifacts(artifacts.manifest.circuit_id, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "..", ".hidden", "manifest.json", "a/b"])
def test_an_artifacts_name_cannot_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    artifacts = Artifacts(name)
    folder = tmp_path / "in"
    with connect(artifacts) as client, pytest.raises(BundleMismatch):
        client.download_artifacts(artifacts.manifest.circuit_id, folder)
    assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


def test_a_manifest_of_another_circuit_is_refused() -> None:
    artifacts = Artifacts()
    with connect(artifacts) as client:
        with pytest.raises(BundleMismatch):
            client.manifest("0x" + "00" * 32)
        assert client.manifest(artifacts.manifest.circuit_id) == artifacts.manifest


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        ([1, 2, 3, 4], [2, 2]),
        ([1, 2], [1, 2]),
        ([[1, 2], [3, 4]], [2, 2]),
        ([1, 2, 3, 4, 5, 6, 7, 8], [4, 2]),
        ([1, 2, 3], [3, 2]),
    ],
)
def test_rows_of_a_batch_are_sent_as_rows(inputs: Any, shape: list[int]) -> None:
    """What makes no whole rows goes out in the model's shape, for the service to refuse."""
    batched = {"inputs": [{"name": "x", "shape": [3, 2]}], "parameters": {"batch": 3}}
    sent: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=batched)
        sent.append(json.loads(request.content)["inputs"][0]["shape"])
        return service(request)

    with connect(handler) as client:
        client.infer("tiny", inputs)
    assert sent == [shape]


def test_only_the_rows_that_were_sent_are_answered() -> None:
    claim = replace(CLAIM, outputs=(1, 2, 3, 4, 4, 4))
    told = {
        "claim": canonical_json(claim_to_dict(claim)).decode(),
        "claim_digest": claim_digest(claim),
    }
    prediction = read_prediction(answer(**told, batch=3, rows=2))
    assert prediction.outputs == (1, 2, 3, 4)
    assert prediction.values == tuple(output / 256 for output in (1, 2, 3, 4))
    assert (prediction.batch, prediction.rows) == (3, 2)
    assert prediction.claim == claim
    for batch, rows in ((3, 4), (3, 0), (4, 1), (0, 0)):
        with pytest.raises(ZkserveError, match="form"):
            read_prediction(answer(**told, batch=batch, rows=rows))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    contents = {"model": b"\x08onnx", "samples": b"PKsamples", "recipe": b"name = 1"}
    paths = {f"{name}_path": tmp_path / f"my.{name}" for name in contents}
    for path, content in zip(paths.values(), contents.values(), strict=True):
        path.write_bytes(content)
    return paths


def test_preflight_sends_the_files_as_a_form(files: dict[str, Path]) -> None:
    sent: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"fits": True})

    with connect(handler, api_key=KEY) as client:
        assert client.preflight(files["model_path"]) == {"fits": True}
        client.preflight(**files)
    alone, whole = (request.content for request in sent)
    assert (sent[0].method, sent[0].url.path) == ("POST", "/v1/preflight")
    assert sent[0].headers["Authorization"] == f"Bearer {KEY}"
    assert sent[0].headers["Content-Type"].startswith("multipart/form-data; boundary=")
    assert b'name="model"' in alone
    assert b"\x08onnx" in alone
    for name, content in (("samples", b"PKsamples"), ("recipe", b"name = 1")):
        part = f'name="{name}"'.encode()
        assert part not in alone
        assert part in whole
        assert content in whole
    assert b"my.model" not in whole  # names of files are nobody's business


def test_preflight_of_no_file_is_refused_before_sending(tmp_path: Path) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise AssertionError("it was sent")

    with connect(handler) as client, pytest.raises(InvalidInput, match=r"nothing\.onnx"):
        client.preflight(tmp_path / "nothing.onnx")


@pytest.mark.parametrize(
    ("error", "attempts"), [(httpx.ReadTimeout("late"), 1), (httpx.ReadError("reset"), 4)]
)
def test_preflight_is_sent_again_when_the_line_breaks_but_not_when_time_is_up(
    files: dict[str, Path], error: httpx.TransportError, attempts: int
) -> None:
    timeouts: list[float] = []

    def handler(request: httpx.Request) -> httpx.Response:
        timeouts.append(request.extensions["timeout"]["read"])
        raise error

    with connect(handler) as client, pytest.raises(Unavailable):
        client.preflight(files["model_path"], timeout_s=77)
    assert timeouts == [77] * attempts

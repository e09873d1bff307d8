"""What the service adds to the engine: latency of predictions, wall time of jobs, memory.

Run from the repository's root: ``python -m benchmarks.service_overhead --out FILE``. The service
and one worker run as processes of their own on loopback, over an empty data folder with one model
published, for each engine another; the client is this process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks import environment, tables
from benchmarks.local import await_answer, free_port
from zkserve import publish, recipe
from zkserve.client import Client, JobEvent
from zkserve.engines.base import FloatArray, Progress
from zkserve.node import Node
from zkserve.processes import Processes
from zkserve.types import JobState

ROOT = Path(__file__).resolve().parent.parent
MODELS = ("breast_cancer", "breast_cancer_boosted")
"""The first is proved by the native engine, the second by ezkl, for seconds on all cores."""
WARM_UP = 5
_START_TIMEOUT_S = 60.0
_JOB_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Running:
    """A service and a worker with one model published."""

    url: str
    model: str
    held_out: FloatArray
    serve: psutil.Process
    work: psutil.Process

    @property
    def infer_path(self) -> str:
        """Where predictions are asked for."""
        return f"/v2/models/{self.model}/infer"

    def sample(self, number: int) -> list[float]:
        """Return a held-out sample."""
        return [float(value) for value in self.held_out[number % len(self.held_out)]]

    def body(self, number: int) -> dict[str, Any]:
        """Return a request to predict a held-out sample without proving it."""
        data = self.sample(number)
        tensor = {"name": "features", "shape": [1, len(data)], "datatype": "FP32", "data": data}
        return {"inputs": [tensor], "parameters": {"prove": False}}


@contextmanager
def running(data_dir: Path, say: Progress, name: str = MODELS[0]) -> Iterator[Running]:
    """Publish, then run service and worker until the context is left."""
    database_url = f"sqlite:///{data_dir / 'zkserve.db'}"
    model = recipe.load(ROOT / "circuits" / name)
    node = Node.open(data_dir=data_dir, database_url=database_url)
    node.database.upgrade()
    publish.publish(
        node, model, publish.SrsSource(development_folder=data_dir / "srs"), progress=say
    )
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Processes(data_dir / "logs") as processes, Client(url) as client:
        settings = {
            "ZKSERVE_DATA_DIR": str(data_dir),
            "ZKSERVE_DATABASE_URL": database_url,
            "ZKSERVE_PORT": str(port),
            "ZKSERVE_RPC_URL": "",
        }
        say("starting service and worker")
        for program in ("serve", "work"):
            command = [sys.executable, "-m", "zkserve", program]
            processes.start(program, command, environment=settings)
        await_answer(processes, "serve", lambda: client.ready() or None, timeout_s=_START_TIMEOUT_S)
        yield Running(
            url=url,
            model=name,
            held_out=recipe.samples(model).held_out,
            serve=_child("serve"),
            work=_child("work"),
        )
        processes.require_running("work")


def peak_rss_bytes(process: psutil.Process) -> int:
    """Return the most resident memory that a process ever had."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the process has no peak memory: it ended")


def _child(program: str) -> psutil.Process:
    command = ["-m", "zkserve", program]
    (found,) = (child for child in psutil.Process().children() if child.cmdline()[-3:] == command)
    return found


def infer_ms(http: httpx.Client, service: Running, number: int) -> float:
    """Return how long one prediction takes, as a client on a kept connection sees it."""
    started = time.perf_counter()
    http.post(service.infer_path, json=service.body(number)).raise_for_status()
    return (time.perf_counter() - started) * 1000


class _Proofs(threading.Thread):
    """Has one prediction after the other proved until it is told to stop."""

    def __init__(self, service: Running) -> None:
        super().__init__()
        self._service = service
        self.begun, self.stop = threading.Event(), threading.Event()
        self.proved = 0

    def run(self) -> None:
        try:
            with Client(self._service.url) as client:
                while not self.stop.is_set():
                    sample = self._service.sample(self.proved)
                    prediction = client.infer(self._service.model, sample)
                    client.wait(
                        str(prediction.proof_id), timeout_s=_JOB_TIMEOUT_S, on_event=self._note
                    )
                    self.proved += 1
        finally:
            self.begun.set()

    def _note(self, event: JobEvent) -> None:
        if event.state is JobState.PROVING:
            self.begun.set()


def while_proving(service: Running, http: httpx.Client, wanted: int) -> list[float]:
    """Return latencies of predictions while the worker proves, always with a job waiting."""
    askers = [_Proofs(service) for _ in range(2)]
    for asker in askers:
        asker.start()
    try:
        askers[0].begun.wait(_JOB_TIMEOUT_S)
        return [infer_ms(http, service, number) for number in range(wanted)]
    finally:
        for asker in askers:
            asker.stop.set()
        for asker in askers:
            asker.join()
        if not all(asker.proved for asker in askers):
            raise RuntimeError("a job that was to keep the worker busy failed")


def job(service: Running, client: Client, number: int) -> dict[str, float]:
    """Return the wall time of a job, from sending the request to its end, and the engine's part."""
    started = time.monotonic()
    prediction = client.infer(service.model, service.sample(number))
    ended = client.wait(str(prediction.proof_id), timeout_s=_JOB_TIMEOUT_S)
    job_s = time.monotonic() - started
    if ended.state is not JobState.DONE or ended.prove_s is None:
        raise RuntimeError(f"a job ended {ended.state.value}: {ended.error_message}")
    return {"job_s": job_s, "prove_s": ended.prove_s}


def measure(name: str, requests: int, jobs: int) -> dict[str, Any]:
    """Measure all there is of the service with one model."""

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    with (
        tempfile.TemporaryDirectory(prefix="zkserve-benchmark-") as folder,
        running(Path(folder), say, name) as service,
        httpx.Client(base_url=service.url, timeout=60.0, trust_env=False) as http,
        Client(service.url) as client,
    ):
        for number in range(WARM_UP):
            infer_ms(http, service, number)
        say(f"{name}: {requests} predictions while idle")
        idle = [infer_ms(http, service, number) for number in range(requests)]
        done = []
        for number in range(jobs):
            say(f"job {number + 1} of {jobs}")
            done.append(job(service, client, number))
        say(f"{requests} predictions while proofs run")
        proving = while_proving(service, http, requests)
        children = service.serve.children(recursive=True)
        return {
            "model": name,
            "engine": client.metadata(name)["parameters"]["engine"],
            "infer_ms": {"idle": idle, "proving": proving},
            "jobs": done,
            "api_peak_rss_bytes": peak_rss_bytes(service.serve),
            "api_children_peak_rss_bytes": sum(peak_rss_bytes(child) for child in children),
            "worker_peak_rss_bytes": peak_rss_bytes(service.work),
        }


def main() -> None:
    """Measure, or write the README's table anew from what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, help="only this one")
    parser.add_argument("--requests", type=int, default=100, help="predictions of each kind")
    parser.add_argument("--jobs", type=int, default=5, help="proved predictions, one at a time")
    parser.add_argument("--json", action="store_true", help="print raw results, not the table")
    parser.add_argument("--out", type=Path, help="write raw results to this file")
    parser.add_argument("--table", action="store_true", help="only rewrite the README's table")
    arguments = parser.parse_args()
    if arguments.table:
        tables.rewrite("service_overhead")
        return
    if min(arguments.requests, arguments.jobs) < 1:
        parser.error("--requests and --jobs must be at least 1")
    result = {"benchmark": "service_overhead", **environment.describe()}
    names = [arguments.model] if arguments.model else MODELS
    result["services"] = [measure(name, arguments.requests, arguments.jobs) for name in names]
    raw = json.dumps(result, indent=2) + "\n"
    if arguments.out:
        arguments.out.write_text(raw)
    print(raw if arguments.json else tables.service_overhead(result))


if __name__ == "__main__":
    main()

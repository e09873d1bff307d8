"""A worker in a process of its own, on the fake engine: what the kill tests kill."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

from tests import fakes
from zkserve import log
from zkserve.engines.base import Limits, Proof
from zkserve.errors import EngineFailed
from zkserve.node import Node
from zkserve.store import jobs
from zkserve.types import JobState
from zkserve.worker import Worker


class _Engine(fakes.FakeEngine):
    """Slow on one input only, if told which."""

    slow_input: float | None = None

    def prove(self, bundle: Any, claim: Any, opening: bytes, **options: Any) -> Proof:
        patience = self.prove_s
        values = self.check_opening(bundle, claim, opening)
        if self.slow_input is not None and values[0] != self.slow_input:
            self.prove_s = 0.0
        try:
            return super().prove(bundle, claim, opening, **options)
        finally:
            self.prove_s = patience


def _die_at(state: JobState) -> None:
    """Die by SIGKILL right after VERIFIED was committed, or inside the transaction to STORED."""
    transition = jobs.transition

    def deadly(session: Any, job: Any, following: JobState, **detail: Any) -> None:
        if state is JobState.VERIFIED and following is JobState.STORED:
            os.kill(os.getpid(), signal.SIGKILL)
        transition(session, job, following, **detail)
        if following is state and state is not JobState.VERIFIED:
            os.kill(os.getpid(), signal.SIGKILL)

    jobs.transition = deadly


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--executor-id", default="worker-1")
    parser.add_argument("--prove-s", type=float, default=0.0)
    parser.add_argument("--slow-input", type=float)
    parser.add_argument("--failures", type=int, default=0)
    parser.add_argument("--die-at", type=JobState)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    log.configure("INFO")
    if options.die_at:
        _die_at(options.die_at)
    failures: list[Exception] = [EngineFailed("it broke.")] * options.failures
    engine = _Engine(prove_s=options.prove_s, log=options.log, failures=failures)
    engine.slow_input = options.slow_input
    node = Node.open(data_dir=options.data_dir, database_url=options.database_url)
    with fakes.use(engine):
        Worker(
            node,
            executor_id=options.executor_id,
            application_version="1",
            threads=1,
            limits=Limits(time_s=60),
            attempts=3,
        ).run()


if __name__ == "__main__":
    main()

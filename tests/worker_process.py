"""A worker in a process of its own, on the fake engine: what the kill tests kill."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests import fakes
from zkserve import log
from zkserve.engines.base import Limits
from zkserve.node import Node
from zkserve.worker import Worker


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--database-url", required=True)
    parser.add_argument("--executor-id", default="worker-1")
    parser.add_argument("--prove-s", type=float, default=0.0)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    log.configure("INFO")
    node = Node.open(data_dir=options.data_dir, database_url=options.database_url)
    with fakes.use(fakes.FakeEngine(prove_s=options.prove_s, log=options.log)):
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

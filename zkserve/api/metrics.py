"""Prometheus metrics: HTTP from this process, jobs and proofs from the database they live in."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from zkserve.store import jobs
from zkserve.store.database import Database
from zkserve.store.tables import JobRow


class Metrics:
    """A registry of its own, so that several apps fit in one process."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Jobs(database))
        self.http = Histogram(
            "zkserve_http_request_seconds",
            "Seconds from a request to the end of its answer.",
            ["method", "route", "status"],
            registry=self.registry,
        )

    def exposition(self) -> bytes:
        """Return all metrics as text; asks the database."""
        return generate_latest(self.registry)


class _Jobs(Collector):
    """Workers are other processes: what they did is counted from their rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Iterator[Metric]:
        """Return nothing: registering must not ask the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Count jobs by state and sum up what their proofs cost."""
        with self._database.snapshot() as session:
            states = jobs.count_by_state(session)
            proofs, seconds, cpu_seconds = session.execute(
                select(func.count(), func.sum(JobRow.prove_s), func.sum(JobRow.prove_cpu_s)).where(
                    JobRow.prove_s.is_not(None)
                )
            ).one()
        by_state = GaugeMetricFamily("zkserve_jobs", "Jobs by state.", labels=["state"])
        for state, number in states.items():
            by_state.add_metric([state.value], number)
        yield by_state
        yield CounterMetricFamily("zkserve_proofs", "Proofs made and verified.", value=proofs)
        yield SummaryMetricFamily(
            "zkserve_prove_seconds",
            "Seconds spent proving.",
            count_value=proofs,
            sum_value=seconds or 0.0,
        )
        yield CounterMetricFamily(
            "zkserve_prove_cpu_seconds", "CPU seconds spent proving.", value=cpu_seconds or 0.0
        )

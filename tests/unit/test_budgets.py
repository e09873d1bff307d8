"""No proof is promised or released past a leak budget: not in a race, not after a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sqlalchemy import update

from tests import fakes
from zkserve import budgets, fulfil, prove
from zkserve.engines.base import Limits
from zkserve.errors import ChildKilled, InputOutOfRange, LeakBudgetSpent
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict, manifest_to_dict
from zkserve.store import jobs
from zkserve.store.queue import JobQueue
from zkserve.store.tables import JobRow, VersionRow
from zkserve.types import InputMode, JobState, LeakBudget

LIMITS = Limits(time_s=30)
INPUT = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
TWO = LeakBudget(bits_per_proof=3302, secret_bits=50_000, proofs=2)
SHARED = ["aa" * 32, "bb" * 32]
both_databases = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def leaking(node: Node) -> VersionRow:
    return fakes.publish(node, "leaking", leak=TWO, weights_digests=SHARED)


def accept(node: Node, queue: JobQueue, version: VersionRow) -> JobRow:
    return prove.accept(
        node,
        queue,
        version,
        prove.predict(node, version, INPUT),
        tenant="acme",
        idempotency_key=None,
        request_sha256=None,
        max_open_jobs=100,
    )


def finish(node: Node, queue: JobQueue, job: JobRow) -> JobRow:
    prove.prove(node, job.id, limits=LIMITS, cancelled=lambda: False)
    prove.deliver(node, queue, job.id)
    return row(node, job)


def row(node: Node, job: JobRow) -> JobRow:
    with node.database.snapshot() as session:
        return jobs.get(session, job.id)


def made(node: Node, version: VersionRow) -> int | None:
    with node.database.snapshot() as session:
        return budgets.proofs_made(session, version)


@one_database
def test_proofs_past_the_budget_are_refused_for_good(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    for number in (1, 2):
        assert finish(node, queue, accept(node, queue, leaking)).state == JobState.DONE
        assert made(node, leaking) == number
    for _ in range(2):
        with pytest.raises(LeakBudgetSpent, match="6604 of the 6604 bits") as refused:
            accept(node, queue, leaking)
    assert refused.value.code == "leak-budget-spent"
    assert "rekey" in str(refused.value.remedy)
    prove.predict(node, leaking, INPUT)  # predictions without a proof reveal none of it


@one_database
def test_a_promise_holds_its_share_before_it_is_proven(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    first, _ = accept(node, queue, leaking), accept(node, queue, leaking)
    with pytest.raises(LeakBudgetSpent):
        accept(node, queue, leaking)
    prove.cancel(node, queue, first.id)
    accept(node, queue, leaking)


@one_database
def test_versions_without_a_budget_are_not_counted(
    node: Node, queue: JobQueue, version: VersionRow
) -> None:
    assert made(node, version) is None
    for _ in range(3):
        finish(node, queue, accept(node, queue, version))


@one_database
def test_a_new_circuit_of_the_same_weights_refreshes_nothing(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    again = fakes.publish(node, "again", leak=TWO, weights_digests=[SHARED[1]])
    finish(node, queue, accept(node, queue, leaking))
    finish(node, queue, accept(node, queue, again))
    for version in (leaking, again):
        assert made(node, version) == 2
        with pytest.raises(LeakBudgetSpent):
            accept(node, queue, version)


@one_database
def test_proofs_that_reveal_more_use_up_more_of_a_shared_budget(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    little = LeakBudget(bits_per_proof=254, secret_bits=50_000, proofs=20)
    cheap = fakes.publish(node, "cheap", leak=little, weights_digests=SHARED)
    finish(node, queue, accept(node, queue, cheap))
    assert (made(node, cheap), made(node, leaking)) == (1, 1)
    finish(node, queue, accept(node, queue, leaking))
    assert made(node, cheap) == 1 + 13
    with pytest.raises(LeakBudgetSpent):  # 254 bits are gone of two proofs' worth
        accept(node, queue, leaking)
    finish(node, queue, accept(node, queue, cheap))


@one_database
def test_other_weights_have_a_budget_of_their_own(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    for _ in range(2):
        finish(node, queue, accept(node, queue, leaking))
    retrained = fakes.publish(node, "retrained", leak=TWO, weights_digests=["cc" * 32])
    finish(node, queue, accept(node, queue, retrained))
    hidden = fakes.publish(node, "hidden")
    finish(node, queue, accept(node, queue, hidden))


@one_database
def test_a_version_whose_weights_tell_nothing_counts_by_itself(node: Node, queue: JobQueue) -> None:
    first, second = (fakes.publish(node, name, leak=TWO) for name in ("first", "second"))
    for _ in range(2):
        finish(node, queue, accept(node, queue, first))
    with pytest.raises(LeakBudgetSpent):
        accept(node, queue, first)
    finish(node, queue, accept(node, queue, second))


@both_databases
def test_of_many_at_once_only_the_budget_is_accepted(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    finish(node, queue, accept(node, queue, leaking))
    prediction = prove.predict(node, leaking, INPUT)
    together = threading.Barrier(6)

    def race(_: int) -> bool:
        together.wait()
        try:
            prove.accept(
                node,
                queue,
                leaking,
                prediction,
                tenant="acme",
                idempotency_key=None,
                request_sha256=None,
                max_open_jobs=100,
            )
        except LeakBudgetSpent:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(race, range(6))) == 1
    assert made(node, leaking) == 2


@both_databases
def test_of_two_workers_that_race_for_the_last_proof_one_releases_it(
    node: Node, queue: JobQueue, engine: fakes.FakeEngine, leaking: VersionRow
) -> None:
    """Two jobs were accepted; then the budget shrank to one proof, as by a version beside it."""
    first, second = accept(node, queue, leaking), accept(node, queue, leaking)
    shrink(node, leaking, proofs=1)
    together = threading.Barrier(2)
    real = engine.check_opening

    def at_once(*arguments: object) -> list[float]:
        together.wait()
        return real(*arguments)  # type: ignore[arg-type]

    engine.check_opening = at_once  # type: ignore[method-assign]

    def work(job: JobRow) -> JobRow:
        return finish(node, queue, job)

    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(work, [first, second]))
    assert {job.state for job in ended} == {JobState.DONE, JobState.FAILED}
    (failed,) = [job for job in ended if job.state == JobState.FAILED]
    assert (failed.proof, failed.error_code) == (None, "leak-budget-spent")
    assert made(node, leaking) == 1


def shrink(node: Node, version: VersionRow, proofs: int) -> None:
    leak = LeakBudget(bits_per_proof=3302, secret_bits=50_000, proofs=proofs)
    manifest = manifest_from_dict(version.manifest)
    changed = manifest_to_dict(manifest) | {
        "leak": {
            "bits_per_proof": leak.bits_per_proof,
            "secret_bits": leak.secret_bits,
            "proofs": leak.proofs,
        }
    }
    with node.database.session() as session:
        session.execute(
            update(VersionRow).where(VersionRow.id == version.id).values(manifest=changed)
        )


@one_database
def test_a_worker_killed_over_its_proof_keeps_the_share_and_counts_once(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    accepted = accept(node, queue, leaking)
    other = accept(node, queue, leaking)
    code = f"""
import os, signal
from pathlib import Path
from tests import fakes
from zkserve import prove
from zkserve.engines.base import Limits
from zkserve.node import Node

class Dies(fakes.FakeEngine):
    def prove(self, *arguments, **options):
        super().prove(*arguments, **options)  # the proof exists now, in this process alone
        os.kill(os.getpid(), signal.SIGKILL)

node = Node.open(data_dir=Path({str(node.artifacts.folder.parent)!r}),
                 database_url={node.database.url!r})
with fakes.use(Dies()):
    prove.prove(node, {accepted.id!r}, limits=Limits(time_s=30), cancelled=lambda: False)
"""
    died = subprocess.run([sys.executable, "-c", code], check=False)
    assert died.returncode == -signal.SIGKILL
    assert row(node, accepted).state == JobState.PROVING
    assert made(node, leaking) == 2
    with pytest.raises(LeakBudgetSpent):
        accept(node, queue, leaking)
    assert finish(node, queue, accepted).state == JobState.DONE  # another worker took over
    assert made(node, leaking) == 2
    finish(node, queue, other)
    assert made(node, leaking) == 2


@one_database
def test_a_repeated_attempt_counts_once_and_a_failure_frees_its_share(
    node: Node, queue: JobQueue, engine: fakes.FakeEngine, leaking: VersionRow
) -> None:
    job = accept(node, queue, leaking)
    engine.failures = [ChildKilled("killed.")]
    with pytest.raises(ChildKilled):
        finish(node, queue, job)
    prove.record_failure(node, queue, job.id, ChildKilled("killed."), attempts=3)
    assert (row(node, job).state, made(node, leaking)) == (JobState.RETRY, 1)
    finish(node, queue, job)
    assert made(node, leaking) == 1
    failing = accept(node, queue, leaking)
    prove.record_failure(node, queue, failing.id, InputOutOfRange("no."), attempts=3)
    assert (row(node, failing).state, made(node, leaking)) == (JobState.FAILED, 1)


@one_database
def test_an_operators_retry_needs_its_share_again(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    failing = accept(node, queue, leaking)
    prove.record_failure(node, queue, failing.id, InputOutOfRange("no."), attempts=3)
    for _ in range(2):
        finish(node, queue, accept(node, queue, leaking))
    with pytest.raises(LeakBudgetSpent):
        prove.retry(node, queue, failing.id)
    assert row(node, failing).state == JobState.FAILED


@one_database
def test_a_cancelled_job_that_was_proven_stays_counted(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    job = accept(node, queue, leaking)
    prove.prove(node, job.id, limits=LIMITS, cancelled=lambda: False)
    prove.cancel(node, queue, job.id)
    assert made(node, leaking) == 1


@one_database
def test_requests_on_chain_past_the_budget_are_not_proved(node: Node, queue: JobQueue) -> None:
    """They fail before they are proved; the market pays the requesters back."""
    version = fakes.publish(
        node, "open", input_mode=InputMode.PUBLIC, leak=TWO, weights_digests=SHARED
    )
    packed = prove.predict(node, version, INPUT).claim.input
    with node.database.session() as session:
        orders = [
            fakes.requested(session, version, packed=packed, request_id=number)
            for number in range(3)
        ]
    assert made(node, version) == 0, "what was not prepared holds nothing"
    for order in orders[:2]:
        assert fulfil.prepare(node, order.id)
    with pytest.raises(LeakBudgetSpent):
        fulfil.prepare(node, orders[2].id)
    refused = row(node, orders[2])
    assert (refused.opening, made(node, version)) == (None, 2)
    for order in orders[:2]:
        prove.prove(node, order.id, limits=LIMITS, cancelled=lambda: False)
    assert made(node, version) == 2
    assert fulfil.prepare(node, orders[0].id), "a repeated step asks for no further share"

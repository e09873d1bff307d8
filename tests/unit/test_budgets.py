"""No proof is promised past a leak budget; what is promised is proved: in races, after crashes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import Queue

import numpy as np
import pytest
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from tests import fakes
from zkserve import budgets, fulfil, prove, register
from zkserve.engines.base import Limits, Prediction
from zkserve.errors import ChildKilled, InputOutOfRange, LeakBudgetSpent, VersionDeprecated
from zkserve.node import Node
from zkserve.receipt import manifest_from_dict
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
def test_one_request_sent_twice_at_once_takes_the_last_proof_once(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    finish(node, queue, accept(node, queue, leaking))
    predictions = [prove.predict(node, leaking, INPUT) for _ in range(4)]

    def ask(prediction: Prediction) -> str:
        return prove.accept(
            node,
            queue,
            leaking,
            prediction,
            tenant="acme",
            idempotency_key="one",
            request_sha256="aa",
            max_open_jobs=100,
        ).id

    with ThreadPoolExecutor(4) as threads:
        with node.database.session() as session:  # all of them come to wait for the budget
            node.database.lock(session, budgets._LOCK)
            asked = [threads.submit(ask, prediction) for prediction in predictions]
            time.sleep(0.3)
        assert len({job.result() for job in asked}) == 1
    assert made(node, leaking) == 2


@one_database
@pytest.mark.parametrize("first_done", ["coarse", "fine"])
def test_what_was_promised_is_proved_whatever_overtakes_it(
    node: Node, queue: JobQueue, first_done: str
) -> None:
    coarse = fakes.publish(node, "coarse", leak=one_of(100), weights_digests=SHARED)
    fine = fakes.publish(node, "fine", leak=one_of(100, proofs=3), weights_digests=SHARED)
    promised = {"coarse": accept(node, queue, coarse), "fine": accept(node, queue, fine)}
    with pytest.raises(LeakBudgetSpent):
        accept(node, queue, coarse)
    for name in sorted(promised, reverse=first_done == "fine"):
        assert finish(node, queue, promised[name]).state == JobState.DONE
    assert made(node, fine) == 2
    with pytest.raises(LeakBudgetSpent):
        accept(node, queue, coarse)
    finish(node, queue, accept(node, queue, fine))
    with pytest.raises(LeakBudgetSpent):
        accept(node, queue, fine)


def one_of(bits_per_proof: int, *, proofs: int = 1) -> LeakBudget:
    return LeakBudget(
        bits_per_proof=bits_per_proof, secret_bits=4 * bits_per_proof * proofs, proofs=proofs
    )


@both_databases
def test_promises_hold_and_budgets_too_while_versions_are_asked_and_proved_at_once(
    node: Node, queue: JobQueue
) -> None:
    """Requests of three versions of the same weights race, and so do the workers behind them.

    The jobs of the smallest budget are proved last, when more is revealed than it allows.
    """
    coarse = fakes.publish(node, "coarse", leak=one_of(100, proofs=3), weights_digests=SHARED)
    offered = [
        coarse,
        fakes.publish(node, "middle", leak=one_of(70, proofs=8), weights_digests=SHARED),
        fakes.publish(node, "fine", leak=one_of(200, proofs=5), weights_digests=SHARED),
    ]
    predictions = {version.id: prove.predict(node, version, INPUT) for version in offered}
    asked = [version for _ in range(6) for version in offered]
    random.Random(1).shuffle(asked)
    promised: Queue[JobRow | None] = Queue()
    overtaken = accept(node, queue, coarse)
    together = threading.Barrier(4)

    def ask(mine: list[VersionRow]) -> list[JobRow]:
        together.wait()
        jobs_of_mine = []
        for version in mine:
            try:
                job = prove.accept(
                    node,
                    queue,
                    version,
                    predictions[version.id],
                    tenant="acme",
                    idempotency_key=None,
                    request_sha256=None,
                    max_open_jobs=100,
                )
            except LeakBudgetSpent:
                continue
            jobs_of_mine.append(job)
            if version is not coarse:
                promised.put(job)
        return jobs_of_mine

    def work() -> None:
        while (job := promised.get()) is not None:
            finish(node, queue, job)

    with ThreadPoolExecutor(8) as threads:
        workers = [threads.submit(work) for _ in range(4)]
        asking = [threads.submit(ask, asked[number::4]) for number in range(4)]
        accepted = [overtaken, *(job for some in asking for job in some.result())]
        for job in accepted:
            if job.version_id == coarse.id:
                promised.put(job)
        for _ in workers:
            promised.put(None)
        for worker in workers:
            worker.result()
    ended = [row(node, job) for job in accepted]
    assert {job.state for job in ended} == {JobState.DONE}
    bits = {version.id: leak_of(version).bits_per_proof for version in offered}
    revealed = sum(bits[job.version_id] for job in ended)
    assert 1000 - 200 < revealed <= 1000, "what the finest allows, to the last whole proof of it"
    with node.database.snapshot() as session:
        for version in offered:
            assert budgets.spent_bits(session, version) == revealed
    # In the order in which they were promised each was within the budget of its own version.
    total = 0
    for job in sorted(ended, key=lambda job: job.created_at):
        total += bits[job.version_id]
        assert total <= leak_of(next(v for v in offered if v.id == job.version_id)).bits


def leak_of(version: VersionRow) -> LeakBudget:
    leak = manifest_from_dict(version.manifest).leak
    assert leak is not None
    return leak


@both_databases
def test_a_share_freed_and_taken_by_another_is_not_had_twice(
    node: Node, queue: JobQueue, engine: fakes.FakeEngine, leaking: VersionRow
) -> None:
    """A proof that comes late, of a job that failed meanwhile, goes nowhere."""
    finish(node, queue, accept(node, queue, leaking))
    late = accept(node, queue, leaking)
    proved, taken = threading.Event(), threading.Event()
    real = engine.check_opening

    def slowly(*arguments: object) -> list[float]:
        if not proved.is_set():
            proved.set()
            assert taken.wait(30)
        return real(*arguments)  # type: ignore[arg-type]

    engine.check_opening = slowly  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as threads:
        work = threads.submit(finish, node, queue, late)
        assert proved.wait(30)
        prove.record_failure(node, queue, late.id, InputOutOfRange("no."), attempts=1)
        other = accept(node, queue, leaking)
        taken.set()
        work.result()
    assert (row(node, late).state, row(node, late).proof) == (JobState.FAILED, None)
    assert finish(node, queue, other).state == JobState.DONE
    with pytest.raises(LeakBudgetSpent):
        prove.retry(node, queue, late.id)
    assert made(node, leaking) == 2


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


@one_database
def test_what_was_promised_on_chain_before_a_version_was_deprecated_is_proved(
    node: Node, queue: JobQueue
) -> None:
    version = fakes.publish(
        node, "open", input_mode=InputMode.PUBLIC, leak=TWO, weights_digests=SHARED
    )
    packed = prove.predict(node, version, INPUT).claim.input
    with node.database.session() as session:
        order = fakes.requested(session, version, packed=packed)
    failed = accept(node, queue, version)
    prove.record_failure(node, queue, failed.id, InputOutOfRange("no."), attempts=3)
    register.deprecate(node, None, "open", 1)
    with pytest.raises(VersionDeprecated):
        accept(node, queue, version)
    assert fulfil.prepare(node, order.id)
    assert finish(node, queue, order).state == JobState.STORED
    prove.retry(node, queue, failed.id)
    assert finish(node, queue, failed).state == JobState.DONE
    assert made(node, version) == 2


@one_database
def test_a_job_cancelled_over_its_proof_shows_nothing_and_frees_its_share(
    node: Node, queue: JobQueue, engine: fakes.FakeEngine, leaking: VersionRow
) -> None:
    """The proof was made, in memory; nobody gets it."""
    job = accept(node, queue, leaking)
    real = engine.check_opening

    def cancelled_meanwhile(*arguments: object) -> list[float]:
        prove.cancel(node, queue, job.id)
        return real(*arguments)  # type: ignore[arg-type]

    engine.check_opening = cancelled_meanwhile  # type: ignore[method-assign]
    stored = set(node.artifacts.folder.rglob("*"))
    prove.prove(node, job.id, limits=LIMITS, cancelled=lambda: False)
    assert (row(node, job).state, row(node, job).proof) == (JobState.CANCELLED, None)
    assert set(node.artifacts.folder.rglob("*")) <= stored
    assert made(node, leaking) == 0


@both_databases
def test_a_restart_and_another_name_of_the_same_weights_begin_nothing_anew(
    node: Node, queue: JobQueue, leaking: VersionRow
) -> None:
    for _ in range(2):
        finish(node, queue, accept(node, queue, leaking))
    restarted = Node.open(data_dir=node.artifacts.folder.parent, database_url=node.database.url)
    renamed = fakes.publish(restarted, "renamed", leak=TWO, weights_digests=SHARED)
    for version in (leaking, renamed):
        assert made(restarted, version) == 2
        with pytest.raises(LeakBudgetSpent):
            accept(restarted, queue, version)


@both_databases
@pytest.mark.parametrize("table", [JobRow, VersionRow])
def test_the_database_lets_no_row_that_counts_be_deleted_by_mistake(
    node: Node, queue: JobQueue, leaking: VersionRow, table: type[JobRow | VersionRow]
) -> None:
    """Not as it is: whoever deletes all that refers to it as well begins anew."""
    finish(node, queue, accept(node, queue, leaking))
    with pytest.raises(IntegrityError), node.database.session() as session:
        session.execute(delete(table))
    assert made(node, leaking) == 1

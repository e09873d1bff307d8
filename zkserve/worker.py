"""Runs jobs: proves, and where there is a chain follows and settles its requests.

Three workflows, each a stage that may be cut off anywhere and begun again::

    prove   on "proofs"   attempt → deliver                (HTTP jobs start here)
    fulfil  on "chain"    find the input → enqueue prove   (on-chain requests start here)
    settle  on "settle"   sign, send, watch until final

They share no memory: each stage enqueues the next in the transaction that ends it, and the job's
row says what is left to do. A workflow of an earlier attempt finds that out and does nothing. An
request whose input is not here has no workflow: the watcher begins one when the input comes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from dbos import DBOS

from zkserve import follow, fulfil, log, openings, prove, storage
from zkserve.chain.rpc import Chain
from zkserve.encoding import sha256_hex
from zkserve.engines import sandbox
from zkserve.engines.base import Limits
from zkserve.errors import (
    ChainError,
    Conflict,
    EngineFailed,
    JobCancelled,
    Unavailable,
    Unprofitable,
    ZkserveError,
)
from zkserve.node import Node
from zkserve.settings import Settings
from zkserve.store import jobs
from zkserve.store.queue import APPLICATION, CHAIN, PROOFS, SETTLE, JobQueue
from zkserve.types import JobState

_QUEUE_POLL_S = 0.25
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 60.0
_STOP_WITHIN_S = 8
_TIDY_EVERY_S = 3600.0
_PREPARED_AT_ONCE = 4
_SETTLED_AT_ONCE = 200
"""Proven requests watched at once, each in a thread that mostly sleeps."""
_UNPROFITABLE_PAUSE_S = 600
"""Between looks at a request that pays less than its gas costs; no thread is held meanwhile."""
_SHORTAGES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
)
_UNPREPARED = frozenset({JobState.ACCEPTED, JobState.AWAITING_INPUT, JobState.RETRY})

_T = TypeVar("_T")
_log = log.get("worker")


class _Stopped(BaseException):
    """Ends a workflow's thread with no outcome recorded, so that it resumes at the next start."""


class Worker:
    """One worker process.

    Args:
        executor_id: Stable name: a restart under it resumes the jobs it held.
        application_version: Only jobs enqueued under this version are taken.
        threads: Proofs made at once.
        limits: Bounds of one proof; a version's own may be tighter.
        attempts: Prover errors after which a job fails for good.
        chain: Where requests are followed and settled; None: only HTTP jobs are served.
        market: Address of the PredictionMarket on ``chain``.
        confirmations: Blocks to stay behind the head, on chains without a safe tag.
        poll_s: Seconds between looks at the chain.
        inputs_kept_s: How long an input handed in ahead of an on-chain order is kept, in seconds.
        at_a_loss: Settle requests whose gas costs more than their price.

    """

    def __init__(
        self,
        node: Node,
        *,
        executor_id: str,
        application_version: str,
        threads: int,
        limits: Limits,
        attempts: int,
        chain: Chain | None = None,
        market: str = "",
        confirmations: int = 0,
        poll_s: float = 1.0,
        inputs_kept_s: float = 31 * 86_400.0,
        at_a_loss: bool = False,
    ) -> None:
        self._node = node
        self._executor_id = executor_id
        self._application_version = application_version
        self._threads = threads
        self._limits = limits
        self._attempts = attempts
        self._chain = chain
        self._market = market
        self._confirmations = confirmations
        self._poll_s = poll_s
        self._inputs_kept_s = inputs_kept_s
        self._at_a_loss = at_a_loss
        self._queue = JobQueue(node.database, application_version)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then stop the children and leave the jobs to a restart.

        Raises:
            Conflict: another worker runs under this executor id on this machine.
            StorageKeyWrong: another key took the place of this one.
            Unavailable: the database cannot be reached, or the disk refuses to seal what lies in
                clear.

        """
        walls = str(sandbox.in_force())
        with self._sole():
            # Before any job is taken; until then signals end this at once, and nothing is lost.
            _log.info("sealed", files=storage.seal_clear(self._node))
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: self._stopping.set())
            self._register()
            DBOS.launch()
            try:
                self._listen()
                threading.Thread(target=self._tidy, name="tidy", daemon=True).start()
                _log.info(
                    "worker_started",
                    executor=self._executor_id,
                    threads=self._threads,
                    sandbox=walls,
                )
                self._stopping.wait()
            finally:
                self._stopping.set()
                DBOS.destroy(workflow_completion_timeout_sec=_STOP_WITHIN_S)
                _log.info("worker_stopped", executor=self._executor_id)

    def _register(self) -> None:
        DBOS(
            config={
                "name": APPLICATION,
                "system_database_engine": self._node.database.engine,
                "application_version": self._application_version,
                "executor_id": self._executor_id,
                "run_migrations": False,
                "log_level": "WARNING",
            }
        )
        workflows = {"prove": self._prove, "fulfil": self._fulfil, "settle": self._settle}
        for name, method in workflows.items():
            # A worker's death is not the job's fault, however often it happens.
            DBOS.workflow(name=name, max_recovery_attempts=None)(_function(method))
        DBOS.listen_queues([PROOFS] if self._chain is None else [PROOFS, CHAIN, SETTLE])

    def _listen(self) -> None:
        at_once = {PROOFS: self._threads}
        if self._chain is not None:
            at_once |= {CHAIN: _PREPARED_AT_ONCE, SETTLE: _SETTLED_AT_ONCE}
        for name, number in at_once.items():
            DBOS.register_queue(
                name,
                worker_concurrency=number,
                polling_interval_sec=_QUEUE_POLL_S,
                on_conflict="always_update",
            )
        if self._chain is not None:
            watcher = threading.Thread(
                target=self._watch, args=(self._chain,), name="watcher", daemon=True
            )
            watcher.start()

    def _prove(self, job_id: str, attempt: int) -> None:
        if not self._persistently(job_id, lambda: prove.is_current(self._node, job_id, attempt)):
            return
        if self._attempt(
            job_id,
            "prove",
            lambda: prove.prove(
                self._node, job_id, limits=self._limits, cancelled=self._stopping.is_set
            ),
        ):
            self._persistently(job_id, lambda: prove.deliver(self._node, self._queue, job_id))

    def _fulfil(self, job_id: str, attempt: int) -> None:
        ready = False

        def prepare() -> None:
            nonlocal ready
            ready = self._state(job_id) not in _UNPREPARED or fulfil.prepare(self._node, job_id)

        if not self._persistently(job_id, lambda: prove.is_current(self._node, job_id, attempt)):
            return
        if self._attempt(job_id, "fulfil", prepare) and ready:
            self._persistently(job_id, lambda: prove.enqueue(self._node, self._queue, job_id))

    def _settle(self, job_id: str, attempt: int) -> None:
        chain = self._chain
        if chain is None:
            raise Conflict("A worker without a chain took a request to settle.")
        final = unprofitable = False

        def settle() -> None:
            nonlocal final, unprofitable
            try:
                final = fulfil.settle(
                    self._node,
                    chain,
                    job_id,
                    confirmations=self._confirmations,
                    at_a_loss=self._at_a_loss,
                )
            except Unprofitable:
                unprofitable = True
            except (ZkserveError, OSError):
                raise
            except Exception as exc:
                # Money waits behind the request: a fault of ours is no reason to give it up.
                _log.exception("settle_broke", job=job_id)
                raise Unavailable("Settling broke off.", remedy="See the log.") from exc

        while self._persistently(job_id, lambda: prove.is_current(self._node, job_id, attempt)):
            if not self._attempt(job_id, "settle", settle) or final:
                break
            if unprofitable:
                self._persistently(
                    job_id,
                    lambda: prove.settle_later(
                        self._node, self._queue, job_id, pause_s=_UNPROFITABLE_PAUSE_S
                    ),
                )
                return
            self._pause(self._poll_s)
        self._persistently(job_id, lambda: openings.forget_input(self._node, job_id))

    def _watch(self, chain: Chain) -> None:
        delay_s = self._poll_s
        while not self._stopping.wait(delay_s):
            try:
                self._look(chain)
                delay_s = self._poll_s
            except Exception as exc:  # noqa: BLE001 (the watcher outlives whatever goes wrong)
                delay_s = min(2 * delay_s, _LONGEST_BACK_OFF_S)
                _log.warning("follow_failed", error=str(exc), again_in_s=delay_s)

    def _look(self, chain: Chain) -> None:
        # First what needs no chain: a node that is down does not keep inputs waiting.
        resumed = follow.resume(self._node, self._queue)
        found = follow.follow(
            self._node,
            chain,
            self._queue,
            market=self._market,
            confirmations=self._confirmations,
        )
        expired = follow.expire(self._node, chain, confirmations=self._confirmations)
        if resumed or found or expired:
            _log.info("requests_seen", found=found, resumed=resumed, expired=expired)

    def _attempt(self, job_id: str, workflow: str, stage: Callable[[], None]) -> bool:
        """Run a stage; turn its error into the job's next state. True if it went through."""
        try:
            self._persistently(job_id, stage)
        except JobCancelled:
            if self._stopping.is_set():
                raise _Stopped from None
            return False
        except ZkserveError as exc:
            error = exc
        except Exception as exc:  # noqa: BLE001 (a job must end in a state, whatever broke)
            _log.exception("stage_broke", job=job_id, workflow=workflow)
            error = EngineFailed(f"{workflow} broke off: {type(exc).__name__}.")
        else:
            return True
        _log.warning("stage_failed", job=job_id, workflow=workflow, code=error.code)
        self._persistently(
            job_id,
            lambda: prove.record_failure(
                self._node,
                self._queue,
                job_id,
                error,
                attempts=self._attempts,
                workflow=workflow,
            ),
        )
        return False

    def _persistently(self, job_id: str, action: Callable[[], _T]) -> _T:
        """Do an action, again and again while what it depends on is down: no attempt is used."""
        delay_s = _FIRST_BACK_OFF_S
        while True:
            if self._stopping.is_set():
                raise _Stopped
            try:
                return action()
            except (Unavailable, ChainError, OSError) as exc:
                if isinstance(exc, OSError) and exc.errno not in _SHORTAGES:
                    raise
                _log.warning("waiting", job=job_id, reason=str(exc), again_in_s=delay_s)
            self._pause(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_BACK_OFF_S)

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise _Stopped

    def _state(self, job_id: str) -> JobState:
        with self._node.database.snapshot() as session:
            return JobState(jobs.get(session, job_id).state)

    def _tidy(self) -> None:
        """Delete private inputs that nothing needs any more, now and every hour; seal what came."""
        while not self._stopping.is_set():
            try:
                with self._node.database.snapshot() as session:
                    spent = jobs.spent(session)
                for job_id in spent:
                    openings.forget_input(self._node, job_id)
                openings.forget_inputs_ahead(self._node, kept_s=self._inputs_kept_s)
                # An earlier release may run beside this one for a while.
                if sealed := storage.seal_clear(self._node):
                    _log.info("sealed", files=sealed)
            except Exception:  # noqa: BLE001 (a fault today must not keep inputs for ever)
                _log.exception("tidying_failed")
            self._stopping.wait(_TIDY_EVERY_S)

    @contextmanager
    def _sole(self) -> Iterator[None]:
        # Two under one id would take each other's running jobs for abandoned ones.
        name = f".worker-{sha256_hex(self._executor_id.encode())[:16]}"
        lock = os.open(self._node.artifacts.folder / name, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise Conflict(
                    f"A worker already runs under the executor id {self._executor_id!r}.",
                    remedy="Give each worker its own ZKSERVE_EXECUTOR_ID.",
                ) from exc
            yield
        finally:
            os.close(lock)


def _function(method: Callable[[str, int], None]) -> Callable[[str, int], None]:
    """Return a plain function: the job engine marks what it registers; methods bear no marks."""

    def workflow(job_id: str, attempt: int) -> None:
        method(job_id, attempt)

    return workflow


def main(settings: Settings) -> None:
    """Run a worker as the settings say, until SIGTERM or SIGINT.

    Raises:
        ZkserveError: the database is of another version, or another worker has this executor id.

    """
    node = Node.open(
        data_dir=settings.data_dir,
        database_url=settings.database,
        production=settings.production,
        storage_key=settings.storage_key.get_secret_value(),
        storage_key_file=settings.storage_key_file,
    )
    node.database.require_current()
    chain = None
    if settings.rpc_url and settings.market:
        chain = Chain(
            settings.rpc_url,
            signer_key=settings.signer_key.get_secret_value() or None,
            max_fee_gwei=settings.max_fee_gwei,
        )
    Worker(
        node,
        executor_id=settings.executor_id,
        application_version=settings.application_version,
        threads=settings.worker_threads,
        limits=Limits(time_s=settings.prove_time_s, memory_bytes=settings.prove_memory_mb << 20),
        attempts=settings.prove_attempts,
        chain=chain,
        market=settings.market,
        confirmations=settings.confirmations,
        poll_s=settings.poll_s,
        inputs_kept_s=settings.inputs_kept_days * 86_400,
        at_a_loss=settings.fulfil_at_a_loss,
    ).run()

"""Serve on-chain requests: follow the market's events, find the input, settle with a proof.

Each function may be stopped at any line and called again. What the chain says counts: a request is
looked up there before anything is sent for it, and after.
"""

from __future__ import annotations

from dataclasses import asdict

from zkserve import budgets, log, outbox
from zkserve.chain.contracts import Fulfilled, Market, RequestStatus
from zkserve.chain.rpc import Chain
from zkserve.encoding import claim_digest, hex_bytes, sha256_hex, to_hex
from zkserve.engines.base import Prediction
from zkserve.errors import (
    ChainError,
    Conflict,
    NotFound,
    ProofInvalid,
    TransactionReverted,
    Unprofitable,
)
from zkserve.node import Node
from zkserve.receipt import claim_from_dict, claim_to_dict, manifest_from_dict
from zkserve.store import inputs, jobs, requests, versions
from zkserve.store.tables import JobRow, RequestRow, VersionRow, now
from zkserve.types import InputMode, JobState, Settlement

_REVERTS_PER_TRY = 3

_log = log.get("fulfil")


def prepare(node: Node, job_id: str) -> bool:
    """Find the input of a request and compute its claim; True once the job has both.

    False while a committed input was not handed in yet (AWAITING_INPUT), and for a job that is
    final: past its deadline it is EXPIRED.

    Raises:
        InvalidInput: a public input is not one of this circuit.
        ProofInvalid: the prediction does not show the input that was requested.
        LeakBudgetSpent: a proof would reveal more of the weights than may be. Nothing is settled:
            the market pays the requester back past the deadline.
        EngineFailed: the engine broke; try again.

    """
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if JobState(job.state).final:
            return False
        if job.claim is not None and job.opening is not None:
            return True
        request = requests.get_by_job(session, job_id)
        if now().timestamp() > request.deadline:
            jobs.transition(session, job, JobState.EXPIRED, deadline=request.deadline)
            return False
        _, version = versions.get(session, job.version_id)
        found = inputs.find(session, version.id, request.input)
        committed = manifest_from_dict(version.manifest).input_mode is InputMode.COMMITTED
        if committed and found is None:
            if JobState(job.state) is not JobState.AWAITING_INPUT:
                jobs.transition(session, job, JobState.AWAITING_INPUT, input=request.input)
            return False
    opening = node.artifacts.get(found.opening) if committed and found is not None else None
    prediction = _predict(node, version, request, opening)
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if JobState(job.state).final:
            return False
        budgets.require(node.database, session, version)
        digest = sha256_hex(prediction.opening)
        node.database.lock(session, digest)
        job.opening = node.artifacts.seal(prediction.opening)
        job.claim = claim_to_dict(prediction.claim)
        if JobState(job.state) is JobState.AWAITING_INPUT:
            jobs.transition(session, job, JobState.ACCEPTED)
    return True


def _predict(
    node: Node, version: VersionRow, request: RequestRow, opening: bytes | None
) -> Prediction:
    manifest = manifest_from_dict(version.manifest)
    engine, bundle = node.engine(manifest), node.bundle(manifest)
    if opening is not None:
        prediction = engine.reopen(bundle, opening)
    else:
        packed = hex_bytes(request.input)
        prediction = engine.predict(bundle, engine.unpack_input(bundle, packed))
    if to_hex(prediction.claim.input) != request.input:
        raise ProofInvalid("The prediction does not show the input that was requested.")
    return prediction


def settle(
    node: Node, chain: Chain, job_id: str, *, confirmations: int = 0, at_a_loss: bool = False
) -> bool:
    """Take a proven request one step towards its settlement; True once the job is final.

    DONE with a settlement when the market holds the request as fulfilled, by us or by anybody;
    EXPIRED past the deadline; FAILED where the market refuses what we know to be proven. Only what
    lies ``confirmations`` deep counts (see :meth:`Chain.settled`).

    Raises:
        Unprofitable: gas costs more than the request's price, and ``at_a_loss`` is not set; an
            event of the job says so once. Fees may fall before its deadline: call again.
        Unavailable, ChainError: the node is down, gas is too dear, the signer's funds are short, or
            it is another chain; nothing was lost, call again.

    """
    chain.check()
    with node.database.snapshot() as session:
        job = jobs.get(session, job_id)
        if JobState(job.state).final:
            return True
        request = requests.get_by_job(session, job_id)
    if request.chain_id != chain.chain_id:
        raise ChainError(f"Job {job_id} is of chain {request.chain_id}, not {chain.chain_id}.")
    market = Market(chain, request.market)
    settled = chain.settled(confirmations)
    status = market.request_of(request.request_id).status
    if status is RequestStatus.FULFILLED:
        event = market.fulfilled_event(request.request_id, request.block)
        if event is None:
            raise ChainError(f"The node lacks the event that settled {request.request_id}.")
        if event.block > settled:
            _advance(node, job_id, JobState.MINED, transaction=event.transaction)
            return False
        return _conclude(node, chain, market, job, event)
    if chain.head().timestamp > request.deadline:
        return _expire(node, chain, job_id, request, settled)
    # Gas is paid only for a request that is itself safe; its proof could start before.
    begun = JobState(job.state) is not JobState.STORED
    safe = begun or request.block <= chain.settled(confirmations, tag="safe")
    if status is RequestStatus.OPEN and safe:
        worth_wei = None if at_a_loss else int(request.price_wei)
        return _submit(node, chain, market, job, request, confirmations, worth_wei)
    return False  # too young; or reorganised away: it may return, or its deadline will pass


def _submit(
    node: Node,
    chain: Chain,
    market: Market,
    job: JobRow,
    request: RequestRow,
    confirmations: int,
    worth_wei: int | None,
) -> bool:
    if job.proof is None or job.claim is None:
        raise NotFound(f"Job {job.id} has no proof to settle with.")
    claim = claim_from_dict(job.claim)
    calldata = market.fulfil_calldata(
        request.request_id, claim.input, claim.outputs, node.artifacts.get(job.proof)
    )
    try:
        for attempt in range(1, _REVERTS_PER_TRY * (job.attempts + 1) + 1):
            purpose = f"fulfil/{job.id}" + (f"/{attempt}" if attempt > 1 else "")
            row = outbox.sign(
                node.database,
                chain,
                purpose=purpose,
                to=market.address,
                data=calldata,
                worth_wei=worth_wei,
            )
            if row.state == "signed":
                _advance(node, job.id, JobState.SIGNED, transaction=row.hash)
            found = outbox.confirm(node.database, chain, purpose, depth=confirmations)
            if found is None:
                _advance(node, job.id, JobState.BROADCAST, transaction=row.hash)
                return False
            if found.state == "mined":
                return False  # the next look finds the request fulfilled
    except TransactionReverted as exc:
        if market.request_of(request.request_id).status is not RequestStatus.OPEN:
            return False  # somebody else was first: the next look finds that
        refused = exc
    except Unprofitable as exc:
        _note_loss(node, job.id, exc)
        raise
    else:
        refused = TransactionReverted(f"Fulfilling reverted {attempt} times on chain.")
    with node.database.session() as session:
        jobs.fail(session, jobs.get(session, job.id), refused)
    return True


def _note_loss(node: Node, job_id: str, loss: Unprofitable) -> None:
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        told = any(
            event.detail.get("code") == loss.code for event in jobs.events_after(session, job_id)
        )
        if not told and not JobState(job.state).final:
            jobs.note(session, job, code=loss.code, message=loss.message)


def _conclude(
    node: Node,
    chain: Chain,
    market: Market,
    job: JobRow,
    event: Fulfilled,
) -> bool:
    inclusion = chain.inclusion(event.transaction)
    if inclusion is None:
        raise ChainError(f"The node lacks the transaction {event.transaction}.")
    settlement = Settlement(
        chain_id=chain.chain_id,
        registry=market.registry(),
        market=market.address,
        verifier=market.request_of(event.request_id).verifier,
        version_id=event.version_id,
        request_id=event.request_id,
        transaction=event.transaction,
        block=event.block,
        gas=inclusion.gas_used,
        callback_ok=event.callback_ok,
    )
    with node.database.session() as session:
        row = jobs.get(session, job.id, lock=True)
        if JobState(row.state).final:
            return True
        if row.claim is None or event.claim_digest != claim_digest(claim_from_dict(row.claim)):
            jobs.fail(session, row, Conflict("The request was settled with another claim."))
            return True
        row.settlement = asdict(settlement)
        jobs.transition(
            session,
            row,
            JobState.DONE,
            transaction=event.transaction,
            gas=settlement.gas,
            callback_ok=settlement.callback_ok,
        )
    return True


def _expire(node: Node, chain: Chain, job_id: str, request: RequestRow, settled: int) -> bool:
    block = chain.block(settled) if settled >= 0 else None
    if block is None or block.timestamp <= request.deadline:
        return False
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if not JobState(job.state).final:
            jobs.transition(session, job, JobState.EXPIRED, deadline=request.deadline)
    return True


def _advance(node: Node, job_id: str, state: JobState, **detail: str) -> None:
    """Move a job to a state of its transaction, if it is not there and that may follow."""
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if job.state != state and state in jobs.NEXT[JobState(job.state)]:
            jobs.transition(session, job, state, **detail)

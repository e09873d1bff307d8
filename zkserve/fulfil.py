"""Serve on-chain requests: follow the market's events, find the input, settle with a proof.

Each function may be stopped at any line and called again. What the chain says counts: a request is
looked up there before anything is sent for it, and after.
"""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy.orm import Session

from zkserve import log, outbox
from zkserve.chain.contracts import LOG_BLOCKS, Fulfilled, Market, Requested, RequestStatus
from zkserve.chain.rpc import Block, Chain
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
from zkserve.store import inputs, jobs, keys, requests, versions
from zkserve.store.queue import CHAIN, JobQueue
from zkserve.store.tables import JobRow, RequestRow, VersionRow, now
from zkserve.types import InputMode, JobState, Settlement

_REWIND_BLOCKS = 128
_REVERTS_PER_TRY = 3
_BATCH = 100

_log = log.get("fulfil")


def follow(node: Node, chain: Chain, queue: JobQueue, *, market: str, confirmations: int) -> int:
    """Read the market's new events once; return how many jobs they started.

    Jobs, cursor and enqueueing commit together, a chunk of blocks at a time, up to
    ``confirmations`` behind the head. Where the chain replaced blocks already read, they are read
    again: a request already known stays one job. Requests for versions that are not ours are
    passed. The first time starts at the market's creation, or now where the node does not know
    when.

    Raises:
        Unavailable, ChainError: the node is down, lies, reorganised meanwhile, or serves another
            chain of the same id; nothing was skipped, call again.

    """
    chain.check()
    contract = Market(chain, market)
    genesis_hash = _genesis(node, chain, contract)
    contract.require_code()
    head = chain.head().number - confirmations
    first = _first_unread(node, chain, contract, head)
    started = 0
    for start in range(first, head + 1, LOG_BLOCKS):
        end = _block(chain, min(start + LOG_BLOCKS - 1, head))
        events = contract.requested_events(start, end.number)
        if _block(chain, end.number).hash != end.hash:
            raise ChainError("The chain reorganised while its events were read.")
        with node.database.session() as session:
            for event in events:
                started += _take(session, queue, chain.chain_id, contract.address, event)
            requests.move_cursor(
                session,
                chain.chain_id,
                contract.address,
                block=end.number,
                block_hash=end.hash,
                genesis_hash=genesis_hash,
            )
    return started


def _genesis(node: Node, chain: Chain, market: Market) -> str:
    """Return the hash of the chain's first block, which must be the one met before, if any was."""
    found = _block(chain, 0).hash
    with node.database.snapshot() as session:
        cursor = requests.cursor(session, chain.chain_id, market.address)
    if cursor is not None and cursor.genesis_hash != found:
        raise ChainError(
            f"This is another chain {chain.chain_id} than before: it begins with block {found},"
            f" that one with {cursor.genesis_hash}.",
            remedy="Point ZKSERVE_RPC_URL at the chain of before. Of a chain begun anew, as by a"
            " restart of anvil, start with a new ZKSERVE_DATA_DIR and database.",
        )
    return found


def _block(chain: Chain, number: int) -> Block:
    block = chain.block(number)
    if block is None:
        raise ChainError(f"The node has no block {number} any more.")
    return block


def _first_unread(node: Node, chain: Chain, market: Market, head: int) -> int:
    with node.database.snapshot() as session:
        cursor = requests.cursor(session, chain.chain_id, market.address)
        if cursor is None:
            return _creation(chain, market.address, head)
        if cursor.block > head:
            return head + 1  # a node that lags behind, or a reorganisation not yet overtaken
        if _block(chain, cursor.block).hash == cursor.block_hash:
            return cursor.block + 1
        block = max(cursor.block - _REWIND_BLOCKS, -1)
        while (row := requests.newest(session, chain.chain_id, market.address, up_to=block)) and (
            _block(chain, row.block).hash != row.block_hash
        ):
            block = row.block - 1
        _log.warning("rewound", market=market.address, from_block=cursor.block, to_block=block)
        return block + 1


def _creation(chain: Chain, address: str, head: int) -> int:
    """Return the block that created a contract, by bisection; ``head`` where history is pruned."""
    low, high = 0, head
    try:
        while low < high:
            middle = (low + high) // 2
            if chain.code(address, middle):
                high = middle
            else:
                low = middle + 1
    except ChainError:
        _log.warning("history_pruned", market=address, following_from=head)
        return head
    return low


def _take(session: Session, queue: JobQueue, chain_id: int, market: str, event: Requested) -> bool:
    """Start the job of a request, unless it is known or not for us."""
    version = requests.version_on_chain(
        session, chain_id, to_hex(event.version_id.to_bytes(32, "big"))
    )
    known = requests.find(session, chain_id, market, event.request_id)
    row = RequestRow(
        chain_id=chain_id,
        market=market,
        request_id=event.request_id,
        input=to_hex(event.input),
        requester=event.requester,
        price_wei=str(event.price_wei),
        deadline=event.deadline,
        block=event.block,
        block_hash=event.block_hash,
    )
    if known is not None:
        job = jobs.get(session, known.job_id)
        if version is not None and job.version_id == version.id and _same(known, row):
            known.block, known.block_hash = row.block, row.block_hash
            return False
        _drop(session, job, known)
    if version is None:
        return False
    job = jobs.add(session, version_id=version.id, tenant=keys.ON_CHAIN)
    row.job_id = job.id
    session.add(row)
    session.flush()
    queue.enqueue(session, "fulfil", CHAIN, job.id)
    return True


def _same(known: RequestRow, found: RequestRow) -> bool:
    fields = ("input", "requester", "price_wei", "deadline")
    return all(getattr(known, field) == getattr(found, field) for field in fields)


def _drop(session: Session, job: JobRow, known: RequestRow) -> None:
    """Give up a request that a reorganisation replaced by another of the same number."""
    if not JobState(job.state).final:
        jobs.fail(
            session, job, Conflict(f"The chain replaced request {known.request_id} by another.")
        )
    session.delete(known)
    session.flush()


def prepare(node: Node, job_id: str) -> bool:
    """Find the input of a request and compute its claim; True once the job has both.

    False while a committed input was not handed in yet (AWAITING_INPUT), and for a job that is
    final: past its deadline it is EXPIRED.

    Raises:
        InvalidInput: a public input is not one of this circuit.
        ProofInvalid: the prediction does not show the input that was requested.
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
        digest = sha256_hex(prediction.opening)
        node.database.lock(session, digest)
        job.opening = node.artifacts.put(prediction.opening)
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
        prediction = engine.predict(bundle, engine.unpack_input(manifest, packed))
    if to_hex(prediction.claim.input) != request.input:
        raise ProofInvalid("The prediction does not show the input that was requested.")
    return prediction


def resume(node: Node, queue: JobQueue) -> int:
    """Have jobs whose awaited input was handed in prepared again; return how many.

    At most a batch of them: call again. However many await theirs, that is one query.
    """
    with node.database.snapshot() as session:
        found = requests.answered(session, limit=_BATCH)
    return sum(_resume(node, queue, job_id) for job_id in found)


def _resume(node: Node, queue: JobQueue, job_id: str) -> bool:
    with node.database.session() as session:
        job = jobs.get(session, job_id, lock=True)
        if JobState(job.state) is not JobState.AWAITING_INPUT:
            return False  # cancelled, or another worker was first
        event = jobs.transition(session, job, JobState.ACCEPTED)
        queue.enqueue(
            session,
            "fulfil",
            CHAIN,
            job.id,
            attempt=job.attempts,
            first=False,
            occasion=event.id,
        )
    return True


def expire(node: Node, chain: Chain, *, confirmations: int = 0) -> int:
    """End jobs that still await their input past the deadline, a batch at most; return how many.

    The time is that of the newest block that lies ``confirmations`` deep (see
    :meth:`Chain.settled`).

    Raises:
        Unavailable, ChainError: the node is down or is another chain.

    """
    settled = chain.settled(confirmations)
    block = chain.block(settled) if settled >= 0 else None
    if block is None:
        return 0
    with node.database.snapshot() as session:
        found = requests.overdue(session, chain.chain_id, block.timestamp, limit=_BATCH)
    for job_id in found:
        with node.database.session() as session:
            job = jobs.get(session, job_id, lock=True)
            if JobState(job.state) is JobState.AWAITING_INPUT:
                deadline = requests.get_by_job(session, job_id).deadline
                jobs.transition(session, job, JobState.EXPIRED, deadline=deadline)
    return len(found)


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

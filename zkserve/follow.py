"""Follow the market: its events become jobs, and jobs that wait for an input go on or end.

Each function may be stopped at any line and called again.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from zkserve import log
from zkserve.chain.contracts import LOG_BLOCKS, Market, Requested
from zkserve.chain.rpc import Block, Chain
from zkserve.encoding import to_hex
from zkserve.errors import (
    ChainError,
    Conflict,
)
from zkserve.node import Node
from zkserve.store import jobs, keys, requests
from zkserve.store.queue import CHAIN, JobQueue
from zkserve.store.tables import JobRow, RequestRow
from zkserve.types import JobState

_REWIND_BLOCKS = 128
_BATCH = 100

_log = log.get("follow")


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


def resume(node: Node, queue: JobQueue) -> int:
    """Have jobs whose awaited input was handed in prepared again; return how many.

    At most a batch of them: call again. However many await theirs, that is one query.
    """
    with node.database.snapshot() as session:
        found = requests.answered(session, limit=_BATCH)
    return sum(_resume(node, queue, job_id) for job_id in found)


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

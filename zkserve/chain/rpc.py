"""One node's JSON-RPC, as few calls as we need; every error of it is wrapped here.

The signer's key and the path of the RPC URL (which often holds a key too) are never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

import requests
from eth_account import Account
from eth_account.signers.local import LocalAccount
from hexbytes import HexBytes
from web3 import HTTPProvider, Web3
from web3.exceptions import (
    BlockNotFound,
    ContractLogicError,
    TransactionIndexingInProgress,
    TransactionNotFound,
    Web3Exception,
    Web3RPCError,
)
from web3.types import FilterParams, LogReceipt, TxParams, Wei

from zkserve.chain.interfaces import describe_revert
from zkserve.chain.transaction import Fees, Signed, Transaction, checksum
from zkserve.encoding import hex_bytes, to_hex
from zkserve.errors import ChainError, TransactionReverted, Unavailable

DEVELOPMENT_CHAIN_ID = 31337
"""anvil's and hardhat's. It answers the ``safe`` and ``finalized`` tags, but makes blocks only
when somebody transacts: waiting for a tag there is waiting for ever."""
GWEI = 10**9
_ALREADY_SENT = (
    "already known",
    "already imported",
    "nonce too low",
    "old nonce",
    "replacement transaction underpriced",  # another attempt of the same nonce bids more
)
"""What nodes answer to bytes that they have, or that they can no longer need."""

Tag = Literal["latest", "safe", "finalized"]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block header; ``timestamp`` in Unix seconds."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    base_fee_wei: int


@dataclass(frozen=True, kw_only=True)
class Inclusion:
    """Where a transaction stands in the chain and what became of it."""

    hash: str
    block: int
    block_hash: str
    succeeded: bool
    gas_used: int
    contract: str | None
    logs: Sequence[LogReceipt]


class Chain:
    """A node of one chain, and who signs there. Nothing is connected before the first call.

    Args:
        rpc_url: JSON-RPC over HTTP(S).
        signer_key: private key as hex; None: read only.
        chain_id: the chain it must be; None: whatever the node first says, which then holds.
        max_fee_gwei: highest fee per gas ever bid.
        timeout_s: limit of one call.

    """

    def __init__(
        self,
        rpc_url: str,
        *,
        signer_key: str | None = None,
        chain_id: int | None = None,
        max_fee_gwei: float = 200.0,
        timeout_s: float = 20.0,
    ) -> None:
        self._node = urlsplit(rpc_url).hostname or "the node"
        self._expected_id = chain_id
        self._account = _account(signer_key) if signer_key else None
        self.max_fee_wei = int(max_fee_gwei * GWEI)
        provider = HTTPProvider(
            rpc_url,
            request_kwargs={"timeout": timeout_s, "allow_redirects": False},
            exception_retry_configuration=None,  # our callers retry, durably
        )
        provider.global_ccip_read_enabled = False  # a contract shall not make us fetch URLs
        self._web3 = Web3(provider, middleware=[])

    def __repr__(self) -> str:
        return f"Chain(node={self._node!r}, signer={self._account and self._account.address!r})"

    @cached_property
    def chain_id(self) -> int:
        """The chain's id, checked against the expected one.

        Raises:
            ChainError: the node serves another chain.
            Unavailable: it does not answer.

        """
        with self.wrapped():
            found = self._web3.eth.chain_id
        if self._expected_id not in (None, found):
            raise self._wrong_chain(found, self._expected_id)
        return found

    def check(self) -> None:
        """Ask the node again which chain it serves: it may have been replaced since.

        Raises:
            ChainError: it serves another chain now.
            Unavailable: it does not answer.

        """
        expected = self.chain_id
        with self.wrapped():
            found = self._web3.eth.chain_id
        if found != expected:
            raise self._wrong_chain(found, expected)

    def _wrong_chain(self, found: int, expected: int | None) -> ChainError:
        return ChainError(
            f"{self._node} serves chain {found}, expected chain {expected}.",
            remedy="Point ZKSERVE_RPC_URL at a node of the right chain.",
        )

    @property
    def signer(self) -> str:
        """The signer's checksummed address.

        Raises:
            ChainError: there is none.

        """
        return self._signing_account().address

    def _signing_account(self) -> LocalAccount:
        if self._account is None:
            raise ChainError("Nobody can sign transactions here.", remedy="Set ZKSERVE_SIGNER_KEY.")
        return self._account

    def contract(self, address: str, abi: Sequence[dict[str, Any]]) -> Any:
        """Return web3's contract object at an address; use it within :meth:`wrapped`."""
        return self._web3.eth.contract(address=checksum(address), abi=abi)

    def code(self, address: str, block: int | None = None) -> bytes:
        """Return the code at an address, empty where there is none; now or at a past block."""
        with self.wrapped():
            return bytes(self._web3.eth.get_code(checksum(address), block))

    def would_create(self, creation: bytes) -> bytes:
        """Return the code that creation bytes would leave on this chain now; nothing is sent.

        Raises:
            TransactionReverted: the constructor refuses.

        """
        with self.wrapped():
            return bytes(self._web3.eth.call({"data": HexBytes(creation)}))

    def balance(self, address: str) -> int:
        """Return a balance in wei."""
        with self.wrapped():
            return self._web3.eth.get_balance(checksum(address))

    def block(self, which: int | Tag = "latest") -> Block | None:
        """Return a block's header, or None where the node has no such block."""
        with self.wrapped():
            try:
                raw = self._web3.eth.get_block(which)
            except BlockNotFound:
                return None
            return Block(
                number=raw["number"],
                hash=to_hex(raw["hash"]),
                parent_hash=to_hex(raw["parentHash"]),
                timestamp=raw["timestamp"],
                base_fee_wei=raw.get("baseFeePerGas", 0),
            )

    def head(self) -> Block:
        """Return the newest block's header.

        Raises:
            ChainError: the node has none.

        """
        block = self.block("latest")
        if block is None:
            raise ChainError(f"{self._node} has no blocks.")
        return block

    def settled(
        self, confirmations: int, *, tag: Literal["safe", "finalized"] = "finalized"
    ) -> int:
        """Return the number of the newest block that is held to stay; negative where none is.

        That is the one of the tag; on a development chain, or where the node knows no such tag,
        the one ``confirmations`` behind the head.
        """
        if self.chain_id != DEVELOPMENT_CHAIN_ID:
            try:
                block = self.block(tag)
            except ChainError:  # the tag is unknown to this node
                block = None
            if block is not None:
                return block.number
        return self.head().number - confirmations

    def logs(
        self, address: str, topics: Sequence[str | None], first: int, last: int
    ) -> Sequence[LogReceipt]:
        """Return the logs of a contract in blocks ``first`` to ``last``, both included."""
        parameters: FilterParams = {
            "address": checksum(address),
            "topics": [None if topic is None else HexBytes(topic) for topic in topics],
            "fromBlock": first,
            "toBlock": last,
        }
        with self.wrapped():
            return self._web3.eth.get_logs(parameters)

    def estimate_gas(self, to: str | None, data: bytes, value_wei: int = 0) -> int:
        """Return the gas the signer's call would need; this simulates it.

        Raises:
            TransactionReverted: it would revert.

        """
        call: TxParams = {
            "from": checksum(self.signer),
            "data": HexBytes(data),
            "value": Wei(value_wei),
        }
        if to is not None:
            call["to"] = checksum(to)
        with self.wrapped():
            return self._web3.eth.estimate_gas(call)

    def fees(self) -> Fees:
        """Return bids fit for the next blocks: the node's tip, and room for the base fee to double.

        Raises:
            Unavailable: the base fee and the tip exceed the highest fee allowed.

        """
        base, tip = self._base_and_tip()
        if base + tip > self.max_fee_wei:
            raise Unavailable(
                f"Gas costs {(base + tip) / GWEI:.3g} gwei, more than the highest fee allowed,"
                f" {self.max_fee_wei / GWEI:.3g} gwei.",
                remedy="Wait, or raise ZKSERVE_MAX_FEE_GWEI.",
            )
        return Fees(tip_wei=tip, cap_wei=min(2 * base + tip, self.max_fee_wei))

    def gas_price_wei(self) -> int:
        """Return what a unit of gas is expected to cost in the next block: base fee and tip."""
        return sum(self._base_and_tip())

    def _base_and_tip(self) -> tuple[int, int]:
        base = self.head().base_fee_wei
        with self.wrapped():
            return base, self._web3.eth.max_priority_fee

    def nonce(self, address: str, block: int | Literal["latest", "pending"] = "pending") -> int:
        """Return an account's next nonce as the node sees it at a block."""
        with self.wrapped():
            return self._web3.eth.get_transaction_count(checksum(address), block)

    def sign(self, transaction: Transaction) -> Signed:
        """Sign an EIP-1559 transaction for this chain alone."""
        signed = self._signing_account().sign_transaction(transaction.fields(self.chain_id))
        return Signed(raw=bytes(signed.raw_transaction), hash=to_hex(signed.hash))

    def broadcast(self, raw: bytes) -> None:
        """Hand signed bytes to the node; those it already knows, or no longer needs, are fine.

        Raises:
            ChainError: the node refuses them.
            Unavailable: it does not answer, or the signer cannot pay.

        """
        with self.wrapped():
            try:
                self._web3.eth.send_raw_transaction(HexBytes(raw))
            except Web3RPCError as exc:
                said = _said(exc).lower().replace(" ", "")  # some nodes write AlreadyKnown
                if "insufficientfunds" in said:
                    raise self.out_of_funds() from exc
                if not any(phrase.replace(" ", "") in said for phrase in _ALREADY_SENT):
                    raise

    def out_of_funds(self) -> Unavailable:
        """Return the error for a signer that cannot pay."""
        return Unavailable(
            f"The signer {self.signer} has not enough funds on chain {self.chain_id}.",
            remedy=f"Send it some; it has {self.balance(self.signer)} wei.",
        )

    def inclusion(self, transaction_hash: str) -> Inclusion | None:
        """Return where a transaction stands, or None while it is in no block."""
        with self.wrapped():
            try:
                raw = self._web3.eth.get_transaction_receipt(HexBytes(transaction_hash))
            except (TransactionNotFound, TransactionIndexingInProgress):
                return None
            return Inclusion(
                hash=to_hex(raw["transactionHash"]),
                block=raw["blockNumber"],
                block_hash=to_hex(raw["blockHash"]),
                succeeded=raw["status"] == 1,
                gas_used=raw["gasUsed"],
                contract=raw["contractAddress"],
                logs=raw["logs"],
            )

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Turn whatever web3 and the network raise within into our errors.

        Raises:
            TransactionReverted: a call reverts.
            Unavailable: the node does not answer.
            ChainError: it refuses, or answers nonsense.

        """
        try:
            yield
        except ContractLogicError as exc:
            raise TransactionReverted(f"The call reverts: {_reason(exc)}.") from exc
        except requests.RequestException as exc:
            # Its text holds the whole URL, and that may hold an access key.
            raise Unavailable(
                f"{self._node} did not answer: {type(exc).__name__}.",
                remedy="Check ZKSERVE_RPC_URL and that the node runs; nothing was lost.",
            ) from None
        except (Web3Exception, ValueError, KeyError, TypeError) as exc:
            raise ChainError(f"{self._node} answered: {_said(exc)}.") from exc


def _account(key: str) -> LocalAccount:
    try:
        account: LocalAccount = Account.from_key(key)
    except Exception:  # noqa: BLE001 - many types, and the texts of some hold the key
        raise ChainError(
            "The signer's key is not a private key.",
            remedy="Set ZKSERVE_SIGNER_KEY to 0x and 64 hex digits.",
        ) from None
    return account


def _reason(exc: ContractLogicError) -> str:
    if isinstance(exc.data, str) and exc.data.startswith("0x"):
        return describe_revert(hex_bytes(exc.data.lower()))
    return exc.message or "no reason given"


def _said(exc: Exception) -> str:
    response = getattr(exc, "rpc_response", None)
    error = response.get("error") if isinstance(response, dict) else None
    if isinstance(error, dict):
        return str(error.get("message"))[:200]
    return f"{type(exc).__name__}: {str(exc)[:200]}"

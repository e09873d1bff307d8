"""Registry and Market as Python objects: typed reads, and the bytes of calls to send.

Nothing here sends a transaction; see :mod:`zkserve.outbox`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum
from typing import Any, cast

from eth_typing import ABIEvent
from eth_utils.abi import event_abi_to_log_topic
from web3.types import LogReceipt

from zkserve.chain.interfaces import interface
from zkserve.chain.rpc import Chain
from zkserve.chain.transaction import checksum
from zkserve.encoding import bytes32, hex_bytes, to_hex
from zkserve.errors import ChainError, ProofInvalid, TransactionReverted, Unavailable
from zkserve.types import Claim

LOG_BLOCKS = 2_000
"""Blocks asked for in one ``eth_getLogs`` at first: what public nodes commonly allow."""


class RequestStatus(IntEnum):
    """As ``IPredictionMarket.Status``."""

    NONE = 0
    OPEN = 1
    FULFILLED = 2
    REFUNDED = 3


@dataclass(frozen=True, kw_only=True)
class ModelCommitment:
    """As ``IModelRegistry.ModelCommitment``; the four digests are 32 bytes each."""

    model_hash: bytes
    circuit_id: bytes
    vk_hash: bytes
    proof_system_id: bytes
    uri: str


@dataclass(frozen=True, kw_only=True)
class Binding:
    """As ``IModelRegistry.Binding``; ``agreement_ppb`` in billionths of the output's unit."""

    verifier: str
    weights: bytes
    output_multiplier: int
    output_shift: int
    agreement_ppb: int
    development_srs: bool


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion(ModelCommitment, Binding):
    """A version as the registry holds it; ``published_at`` in Unix seconds."""

    lineage: str
    number: int
    published_at: int
    deprecated: bool


@dataclass(frozen=True, kw_only=True)
class MarketRequest:
    """A ProofRequest as the market holds it; ``deadline`` in Unix seconds."""

    requester: str
    deadline: int
    callback_gas: int
    payee: str
    status: RequestStatus
    callback_pending: bool
    price_wei: int
    verifier: str
    version_id: int
    circuit_id: bytes
    weights: bytes
    input_hash: bytes
    outputs_hash: bytes


@dataclass(frozen=True, kw_only=True)
class Requested:
    """The event of a new ProofRequest."""

    request_id: int
    version_id: int
    requester: str
    input: bytes
    price_wei: int
    deadline: int
    callback_gas: int
    block: int
    block_hash: str


@dataclass(frozen=True, kw_only=True)
class Fulfilled:
    """The event of a settled ProofRequest."""

    request_id: int
    version_id: int
    fulfiller: str
    claim_digest: str
    outputs: tuple[int, ...]
    callback_ok: bool
    transaction: str
    block: int


class Contract:
    """An address, and calls to it by the names of an interface."""

    def __init__(self, chain: Chain, address: str, name: str) -> None:
        self._chain = chain
        self.address: str = checksum(address)
        self._name = name
        self._contract = chain.contract(address, interface(name).abi)

    def require_code(self) -> None:
        """Check that there is a contract at all: a call to an empty address succeeds.

        Raises:
            ChainError: the address holds no code.

        """
        if not self._chain.code(self.address):
            raise ChainError(
                f"There is no contract at {self.address} on chain {self._chain.chain_id}.",
                remedy=f"Check the address of the {self._name}.",
            )

    def _read(self, function: str, *arguments: Any) -> Any:
        with self._chain.wrapped():
            return self._contract.functions[function](*arguments).call()

    def _calldata(self, function: str, *arguments: Any) -> bytes:
        with self._chain.wrapped():
            return hex_bytes(self._contract.encode_abi(function, list(arguments)))


class Registry(Contract):
    """The ModelRegistry at an address."""

    def __init__(self, chain: Chain, address: str) -> None:
        super().__init__(chain, address, "ModelRegistry")

    def register_calldata(self, name: str, commitment: ModelCommitment, binding: Binding) -> bytes:
        """Return the call that registers version 1 of a new model of the sender's."""
        return self._calldata("registerModel", name, _tuple(commitment), _tuple(binding))

    def update_calldata(
        self, previous_id: int, commitment: ModelCommitment, binding: Binding
    ) -> bytes:
        """Return the call that registers the next version after any earlier one."""
        return self._calldata("updateModel", previous_id, _tuple(commitment), _tuple(binding))

    def deprecate_calldata(self, version_id: int) -> bytes:
        """Return the call that marks a version as no longer offered."""
        return self._calldata("deprecateModel", version_id)

    def get_version(self, version_id: int) -> RegisteredVersion:
        """Return a version.

        Raises:
            TransactionReverted: ``UnknownModel``, there is none.

        """
        lineage, number, published_at, deprecated, commitment, binding = self._read(
            "getVersion", version_id
        )
        model_hash, circuit_id, vk_hash, proof_system_id, uri = commitment
        verifier, weights, multiplier, shift, agreement_ppb, development_srs = binding
        return RegisteredVersion(
            lineage=to_hex(lineage),
            number=number,
            published_at=published_at,
            deprecated=deprecated,
            model_hash=model_hash,
            circuit_id=circuit_id,
            vk_hash=vk_hash,
            proof_system_id=proof_system_id,
            uri=uri,
            verifier=verifier,
            weights=weights,
            output_multiplier=multiplier,
            output_shift=shift,
            agreement_ppb=agreement_ppb,
            development_srs=development_srs,
        )

    def owner_of(self, version_id: int) -> str:
        """Return who owns a version's model."""
        return str(self._read("ownerOf", version_id))

    def latest(self, lineage: str) -> int:
        """Return the id of a model's newest version, 0 where there is none."""
        return int(self._read("latest", bytes32(lineage)))

    def version_id(self, lineage: str, number: int) -> int:
        """Return the id that a version has or will have."""
        return int(self._read("versionId", bytes32(lineage), number))

    def lineage_of(self, owner: str, name: str) -> str:
        """Return the id of a model: of its first owner and its name."""
        return to_hex(self._read("lineageOf", checksum(owner), name))

    def verify_inference(self, version_id: int, claim: Claim, proof: bytes) -> None:
        """Return if the version's verifier accepts a claim's input and outputs; costs no gas.

        Raises:
            ProofInvalid: it refuses, or the claim names another circuit or other weights.

        """
        version = self.get_version(version_id)
        pinned = (to_hex(version.circuit_id), to_hex(version.weights))
        if pinned != (claim.circuit_id, claim.weights):
            raise ProofInvalid(f"Version {version_id:#x} pins another circuit or other weights.")
        try:
            self._read("verifyInference", version_id, claim.input, list(claim.outputs), proof)
        except TransactionReverted as exc:
            raise ProofInvalid(f"The registered verifier refuses: {exc.message}") from exc


class Market(Contract):
    """The PredictionMarket at an address."""

    def __init__(self, chain: Chain, address: str) -> None:
        super().__init__(chain, address, "PredictionMarket")
        self._topics = {
            entry["name"]: to_hex(event_abi_to_log_topic(cast("ABIEvent", entry)))
            for entry in interface("PredictionMarket").abi
            if entry["type"] == "event"
        }

    def registry(self) -> str:
        """Return the address of the registry whose versions are offered here."""
        return str(self._read("registry"))

    def request_of(self, request_id: int) -> MarketRequest:
        """Return a request as it stands; its status is NONE where there is none."""
        raw = self._read("getRequest", request_id)
        fields = list(MarketRequest.__dataclass_fields__)
        values = dict(zip(fields, raw, strict=True))
        return MarketRequest(**{**values, "status": RequestStatus(values["status"])})

    def price_of(self, version_id: int) -> tuple[int, bool]:
        """Return a version's price in wei and whether it is offered."""
        price, offered = self._read("priceOf", version_id)
        return int(price), bool(offered)

    def owed(self, account: str) -> int:
        """Return what an account can withdraw, in wei."""
        return int(self._read("owed", checksum(account)))

    def set_price_calldata(self, version_id: int, price_wei: int, *, offered: bool = True) -> bytes:
        """Return the call by which a version's owner offers it."""
        return self._calldata("setPrice", version_id, price_wei, offered)

    def request_calldata(
        self, version_id: int, packed_input: bytes, *, callback_gas: int, deadline: int
    ) -> bytes:
        """Return the call that orders a prediction; it must carry exactly the price."""
        return self._calldata("request", version_id, packed_input, callback_gas, deadline)

    def fulfil_calldata(
        self, request_id: int, packed_input: bytes, outputs: tuple[int, ...], proof: bytes
    ) -> bytes:
        """Return the call that settles a request."""
        return self._calldata("fulfil", request_id, packed_input, list(outputs), proof)

    def refund_calldata(self, request_id: int) -> bytes:
        """Return the call that refunds a request past its deadline."""
        return self._calldata("refund", request_id)

    def withdraw_calldata(self, to: str) -> bytes:
        """Return the call that pays out what the sender is owed."""
        return self._calldata("withdraw", checksum(to))

    def requested_events(self, first: int, last: int) -> list[Requested]:
        """Return the requests made in blocks ``first`` to ``last``, both included, in order."""
        found = []
        for log in self._logs("Requested", [], first, last):
            event = self._decode("Requested", log)
            found.append(
                Requested(
                    request_id=event["requestId"],
                    version_id=event["modelId"],
                    requester=event["requester"],
                    input=bytes(event["input"]),
                    price_wei=event["price"],
                    deadline=event["deadline"],
                    callback_gas=event["callbackGas"],
                    block=log["blockNumber"],
                    block_hash=to_hex(log["blockHash"]),
                )
            )
        return found

    def fulfilled_event(self, request_id: int, first: int) -> Fulfilled | None:
        """Return how a request was settled, looked for from block ``first`` to the head."""
        topics = [to_hex(request_id.to_bytes(32, "big"))]
        for log in self._logs("Fulfilled", topics, first, self._chain.head().number):
            event = self._decode("Fulfilled", log)
            return Fulfilled(
                request_id=event["requestId"],
                version_id=event["modelId"],
                fulfiller=event["fulfiller"],
                claim_digest=to_hex(event["claimDigest"]),
                outputs=tuple(event["outputs"]),
                callback_ok=event["callbackOk"],
                transaction=to_hex(log["transactionHash"]),
                block=log["blockNumber"],
            )
        return None

    def _logs(self, event: str, topics: list[str], first: int, last: int) -> Iterator[LogReceipt]:
        for start in range(first, last + 1, LOG_BLOCKS):
            end = min(start + LOG_BLOCKS - 1, last)
            for log in self._halving([self._topics[event], *topics], start, end):
                if log["address"] != self.address or not start <= log["blockNumber"] <= end:
                    raise ChainError("The node answered with logs that were not asked for.")
                yield log

    def _halving(self, topics: list[str], first: int, last: int) -> Iterator[LogReceipt]:
        """Yield logs of a range; one that the node refuses as too much is halved, down to a block.

        Anybody may fill a range with events. How nodes say that it is too much differs: an error, a
        status of HTTP, or no answer in time.
        """
        try:
            found = self._chain.logs(self.address, topics, first, last)
        except (ChainError, Unavailable):
            if first == last:
                raise
            middle = (first + last) // 2
            yield from self._halving(topics, first, middle)
            yield from self._halving(topics, middle + 1, last)
        else:
            yield from found

    def _decode(self, event: str, log: LogReceipt) -> dict[str, Any]:
        with self._chain.wrapped():
            decoded = self._contract.events[event]().process_log(log)
            return dict(decoded["args"])


def _tuple(struct: ModelCommitment | Binding) -> tuple[Any, ...]:
    return tuple(asdict(struct).values())

"""What is signed and sent: EIP-1559 transactions, and what they bid for gas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.address import to_checksum_address
from hexbytes import HexBytes

from zkserve.encoding import to_hex
from zkserve.errors import ChainError


@dataclass(frozen=True, kw_only=True)
class Fees:
    """EIP-1559 bids per gas, in wei."""

    tip_wei: int
    cap_wei: int

    def bumped(self, market: Fees) -> Fees:
        """Return bids that replace these: each +12.5 %, or the market's where that is higher.

        Nodes want +10 % on both the tip and the cap.
        """
        tip = max(_eighth_more(self.tip_wei), market.tip_wei)
        return Fees(tip_wei=tip, cap_wei=max(_eighth_more(self.cap_wei), market.cap_wei, tip))


def _eighth_more(wei: int) -> int:
    return wei + -(-wei // 8)


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """What is signed; ``to`` is None for the creation of a contract."""

    nonce: int
    to: str | None
    data: bytes
    value_wei: int
    gas: int
    fees: Fees

    @classmethod
    def read(cls, raw: bytes) -> Transaction:
        """Read signed bytes back."""
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        return cls(
            nonce=int(fields["nonce"]),
            to=checksum(to_hex(fields["to"])) if fields["to"] else None,
            data=bytes(fields["data"]),
            value_wei=int(fields["value"]),
            gas=int(fields["gas"]),
            fees=Fees(
                tip_wei=int(fields["maxPriorityFeePerGas"]), cap_wei=int(fields["maxFeePerGas"])
            ),
        )

    def fields(self, chain_id: int) -> dict[str, Any]:
        """Return the fields to sign, valid on one chain alone (EIP-155)."""
        return {
            "type": 2,
            "chainId": chain_id,
            "nonce": self.nonce,
            "to": "" if self.to is None else checksum(self.to),
            "data": to_hex(self.data),
            "value": self.value_wei,
            "gas": self.gas,
            "maxFeePerGas": self.fees.cap_wei,
            "maxPriorityFeePerGas": self.fees.tip_wei,
        }


@dataclass(frozen=True, kw_only=True)
class Signed:
    """Signed bytes, fit to be sent any number of times, and their hash."""

    raw: bytes
    hash: str


def checksum(address: str) -> Any:
    """Return an address with its checksum.

    Raises:
        ChainError: it is not an address.

    """
    try:
        return to_checksum_address(address)
    except ValueError as exc:
        raise ChainError(f"{address[:80]!r} is not an address.") from exc

"""The typed adapter over one generated ezkl verifier: what it was set to, and what it accepts."""

from __future__ import annotations

from dataclasses import dataclass

from zkserve.chain.contracts import Contract
from zkserve.chain.interfaces import interface
from zkserve.chain.rpc import Chain
from zkserve.encoding import bytes32, to_hex
from zkserve.errors import ChainError, ProofInvalid, TransactionReverted
from zkserve.types import CircuitManifest, Claim, InputMode, WeightsMode

ADAPTER = "EzklVerifier"
WEIGHTS_MODES = (WeightsMode.HASHED, WeightsMode.FIXED, WeightsMode.POLYCOMMIT)
"""In the order of the contract's enum."""


@dataclass(frozen=True, kw_only=True)
class AdapterTerms:
    """What an adapter holds every proof to, for good; the raw verifier's address aside.

    ``input_count`` is 1 for a committed input, else the number of elements. ``weights_points`` is
    the number of points at the start of a proof whose digest ``weights`` is; 0 where it is not.
    """

    circuit_id: str
    weights: str
    weights_mode: WeightsMode
    weights_points: int
    committed_input: bool
    input_count: int
    output_count: int
    proof_bytes: int

    @classmethod
    def of(cls, manifest: CircuitManifest) -> AdapterTerms:
        """Return the terms that a circuit calls for."""
        committed = manifest.input_mode is InputMode.COMMITTED
        return cls(
            circuit_id=manifest.circuit_id,
            weights=manifest.weights,
            weights_mode=manifest.weights_mode,
            weights_points=manifest.parameters.get("weights_points", 0),
            committed_input=committed,
            input_count=1 if committed else sum(spec.size for spec in manifest.inputs),
            output_count=manifest.output.size,
            proof_bytes=manifest.parameters["proof_bytes"],
        )


class Adapter(Contract):
    """The EzklVerifier at an address."""

    def __init__(self, chain: Chain, address: str) -> None:
        super().__init__(chain, address, ADAPTER)

    def require_ours(self) -> None:
        """Check that the code is that of our adapter, whatever it was set to.

        Raises:
            ChainError: it is other code, or there is none.

        """
        self.require_code()
        if not interface(ADAPTER).is_code(self._chain.code(self.address)):
            raise ChainError(f"The code at {self.address} is not that of {ADAPTER}.")

    def raw(self) -> str:
        """Return the address of the generated verifier."""
        return str(self._read("raw"))

    def terms(self) -> AdapterTerms:
        """Return what the adapter was set to."""
        return AdapterTerms(
            circuit_id=to_hex(self._read("circuitId")),
            weights=to_hex(self._read("weights")),
            weights_mode=WEIGHTS_MODES[int(self._read("weightsMode"))],
            weights_points=int(self._read("weightsPoints")),
            committed_input=bool(self._read("committedInput")),
            input_count=int(self._read("inputCount")),
            output_count=int(self._read("outputCount")),
            proof_bytes=int(self._read("proofLength")),
        )

    def verify(self, claim: Claim, proof: bytes) -> None:
        """Return if the adapter accepts a claim; costs no gas.

        Raises:
            ProofInvalid: it refuses.
            ChainError: there is no contract at the address.

        """
        self.require_code()
        arguments = (
            bytes32(claim.circuit_id),
            bytes32(claim.weights),
            claim.input,
            list(claim.outputs),
        )
        try:
            self._read("verify", arguments, proof)
        except TransactionReverted as exc:
            raise ProofInvalid(f"The verifier at {self.address} refuses: {exc.message}") from exc

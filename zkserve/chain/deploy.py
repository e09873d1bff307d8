"""Deploy our contracts, and keep a ledger of what was deployed that is checked against the chain.

Ledgers of public chains are committed under ``zkserve/chain/deployments/<chain>.toml``; that of a
development chain lies in the data folder. Worked example::

    chain_id = 31337

    [ModelRegistry]
    address = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    code_sha256 = "3866a108…"

    [PredictionMarket]
    address = "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"
    code_sha256 = "902ce7c9…"
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eth_abi.abi import encode

from zkserve.chain.adapter import ADAPTER, WEIGHTS_MODES, AdapterTerms
from zkserve.chain.interfaces import interface
from zkserve.chain.rpc import Chain
from zkserve.chain.transaction import checksum
from zkserve.encoding import bytes32, sha256_hex
from zkserve.errors import ChainError, InvalidInput, NotFound

REGISTRY = "ModelRegistry"
MARKET = "PredictionMarket"

Create = Callable[[str, bytes], str]
"""Creates a contract once per purpose from its creation code; returns its address."""


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A contract on a chain; ``code_sha256`` is of its code there, immutables included."""

    address: str
    code_sha256: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What was deployed on a chain, by the contract's name."""

    chain_id: int
    contracts: Mapping[str, Deployed]

    def address(self, name: str) -> str:
        """Return a contract's address.

        Raises:
            NotFound: it is not in the ledger.

        """
        if name not in self.contracts:
            raise NotFound(f"The ledger of chain {self.chain_id} has no {name}.")
        return self.contracts[name].address

    def check(self, chain: Chain) -> None:
        """Compare with the chain.

        Raises:
            ChainError: it is another chain, or other code lies at an address.

        """
        if chain.chain_id != self.chain_id:
            raise ChainError(f"The ledger is of chain {self.chain_id}, not {chain.chain_id}.")
        for name, deployed in self.contracts.items():
            if sha256_hex(chain.code(deployed.address)) != deployed.code_sha256:
                raise ChainError(
                    f"The code at {deployed.address} is not the {name} of the ledger.",
                    remedy="Deploy again, or correct the ledger.",
                )

    def write(self, path: Path) -> None:
        """Write the ledger as TOML."""
        lines = [f"chain_id = {self.chain_id}"]
        for name, deployed in self.contracts.items():
            lines += ["", f"[{name}]", f'address = "{deployed.address}"']
            lines += [f'code_sha256 = "{deployed.code_sha256}"']
        path.write_text("\n".join(lines) + "\n")

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """Read a ledger.

        Raises:
            NotFound: there is none.
            InvalidInput: it is malformed.

        """
        try:
            raw = tomllib.loads(path.read_text())
            chain_id = raw.pop("chain_id")
            if type(chain_id) is not int:
                raise InvalidInput(f"{path} has no numeric chain_id.")
            contracts = {name: Deployed(**fields) for name, fields in raw.items()}
        except FileNotFoundError as exc:
            raise NotFound(f"There is no deployment ledger at {path}.") from exc
        except (ValueError, KeyError, TypeError) as exc:
            raise InvalidInput(f"{path} is not a deployment ledger: {exc}.") from exc
        return cls(chain_id=chain_id, contracts=contracts)


def deploy(chain: Chain, create: Create) -> Ledger:
    """Deploy the registry, then the market on it.

    Raises:
        ChainError: what came to lie on the chain is not what was sent.

    """
    registry = create(*_creation(chain, REGISTRY, [], []))
    market = create(*_creation(chain, MARKET, ["address"], [registry]))
    contracts = {REGISTRY: registry, MARKET: market}
    for name, address in contracts.items():
        _require(chain, name, address)
    return Ledger(
        chain_id=chain.chain_id,
        contracts={
            name: Deployed(address=address, code_sha256=sha256_hex(chain.code(address)))
            for name, address in contracts.items()
        },
    )


def deploy_verifier(chain: Chain, create: Create, raw_creation: bytes, terms: AdapterTerms) -> str:
    """Deploy a generated verifier and the typed adapter over it; return the adapter's address.

    ``raw_creation`` is from :func:`zkserve.chain.evm.compile_verifier`.

    Raises:
        ChainError: what came to lie on the chain is not what was sent.

    """
    raw = create(f"deploy/{chain.chain_id}/raw/{terms.circuit_id}", raw_creation)
    adapter = create(
        *_creation(
            chain,
            ADAPTER,
            ["address", "(bytes32,bytes32,uint8,uint256,bool,uint256,uint256,uint256)"],
            [
                raw,
                (
                    bytes32(terms.circuit_id),
                    bytes32(terms.weights),
                    WEIGHTS_MODES.index(terms.weights_mode),
                    terms.weights_points,
                    terms.committed_input,
                    terms.input_count,
                    terms.output_count,
                    terms.proof_bytes,
                ),
            ],
            of=terms.circuit_id,
        )
    )
    _require(chain, ADAPTER, adapter)
    return adapter


def _creation(
    chain: Chain, name: str, types: list[str], arguments: list[Any], *, of: str = ""
) -> tuple[str, bytes]:
    """Return the purpose and the creation code of a contract of ours."""
    code = interface(name).bytecode + encode(types, arguments)
    subject = of or sha256_hex(code)[:16]
    return f"deploy/{chain.chain_id}/{name}/{subject}", code


def _require(chain: Chain, name: str, address: str) -> None:
    if not interface(name).is_code(chain.code(checksum(address))):
        raise ChainError(
            f"The code at {address} is not that of {name}.",
            remedy="Build the contracts again: their interfaces may be older than they are.",
        )

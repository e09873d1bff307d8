"""How the verifier contracts of each engine are put on a chain, and recognised there.

What lies on a chain is never taken at its word: it is compared, byte for byte, with what the source
made from public artifacts gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from eth_abi.abi import encode

from zkserve.chain import deploy
from zkserve.chain.adapter import Adapter, AdapterTerms
from zkserve.chain.deploy import Create
from zkserve.chain.evm import compile_verifier
from zkserve.chain.rpc import Chain
from zkserve.encoding import bytes32, sha256_hex
from zkserve.errors import BundleMismatch, ChainError, NotFound
from zkserve.types import CircuitManifest

_REMEDY = "Do not rely on this version on chain."


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a verifier is for: a circuit, the Solidity source it gives, and a registered version.

    ``source`` is the engine's ``export_verifier``; ``version_id`` is the registry's, known before
    the version is registered.
    """

    manifest: CircuitManifest
    source: str
    registry: str
    version_id: int


class Verifiers(Protocol):
    """The contracts of one engine."""

    def deploy(self, chain: Chain, create: Create, subject: Subject, solc: str) -> str:
        """Put a verifier on the chain, each contract of it once; return its address.

        Raises:
            ModelRejected: it is larger than a chain takes.
            ChainError: what came to lie on the chain is not what was sent.

        """
        ...

    def check(self, chain: Chain, address: str, subject: Subject, solc: str) -> tuple[str, ...]:
        """Return what was established of the contract at an address, a sentence each.

        Raises:
            BundleMismatch, ChainError: it is not the verifier of this subject.

        """
        ...


class AdaptedVerifiers:
    """A generated verifier of raw calldata, and the typed adapter in front of it."""

    def deploy(self, chain: Chain, create: Create, subject: Subject, solc: str) -> str:
        """Put both on the chain; see :meth:`Verifiers.deploy`."""
        raw = compile_verifier(subject.source, solc).creation
        return deploy.deploy_verifier(chain, create, raw, AdapterTerms.of(subject.manifest))

    def check(self, chain: Chain, address: str, subject: Subject, solc: str) -> tuple[str, ...]:
        """Compare both with what they should be; see :meth:`Verifiers.check`."""
        adapter = Adapter(chain, address)
        adapter.require_ours()
        expected, found = AdapterTerms.of(subject.manifest), adapter.terms()
        if expected != found:
            raise BundleMismatch(
                f"The adapter's terms on chain are {found}; the artifacts give {expected}.",
                remedy=_REMEDY,
            )
        if chain.code(adapter.raw()) != compile_verifier(subject.source, solc).runtime:
            raise BundleMismatch(
                f"The raw verifier at {adapter.raw()} has other code than the pinned source gives.",
                remedy=_REMEDY,
            )
        return (
            f"The contract at {adapter.raw()} is that source, compiled.",
            f"The contract at {adapter.address} is this product's adapter, set to this circuit.",
        )


class GeneratedVerifiers:
    """One generated contract, which knows its circuit, its weights and its registration.

    Its constructor takes (bytes32 circuitId, bytes32 weights, address registry, uint256 versionId).
    """

    def deploy(self, chain: Chain, create: Create, subject: Subject, solc: str) -> str:
        """Put it on the chain; see :meth:`Verifiers.deploy`."""
        creation = _creation(subject, solc)
        purpose = f"deploy/{chain.chain_id}/verifier/{sha256_hex(creation)[:32]}"
        address = create(purpose, creation)
        if chain.code(address) != chain.would_create(creation):
            raise ChainError(
                f"The code at {address} is not that of the verifier that was sent.",
                remedy="Ask another node, then publish again.",
            )
        return address

    def check(self, chain: Chain, address: str, subject: Subject, solc: str) -> tuple[str, ...]:
        """Compare it with what its source and constructor give; see :meth:`Verifiers.check`."""
        if chain.code(address) != chain.would_create(_creation(subject, solc)):
            raise BundleMismatch(
                f"The verifier at {address} has other code than the pinned source gives for this "
                "circuit, these weights and this version.",
                remedy=_REMEDY,
            )
        return (
            f"The contract at {address} is that source, compiled, for this circuit and weights.",
            "It accepts only proofs that were made for this version of this registry and chain.",
        )


VERIFIERS: Mapping[str, Verifiers] = MappingProxyType(
    {"ezkl": AdaptedVerifiers(), "native": GeneratedVerifiers()}
)
"""By the engine's name."""


def verifiers(engine: str) -> Verifiers:
    """Return the contracts of an engine.

    Raises:
        NotFound: there are none.

    """
    if engine not in VERIFIERS:
        raise NotFound(f"There are no contracts of an engine {engine!r}.")
    return VERIFIERS[engine]


def _creation(subject: Subject, solc: str) -> bytes:
    manifest = subject.manifest
    return compile_verifier(subject.source, solc).creation + encode(
        ["bytes32", "bytes32", "address", "uint256"],
        [
            bytes32(manifest.circuit_id),
            bytes32(manifest.weights),
            subject.registry,
            subject.version_id,
        ],
    )

"""Gas of verifying a proof in a transaction of its own, on a fresh local chain."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from eth_abi.abi import encode
from eth_account import Account
from eth_utils.abi import function_signature_to_4byte_selector

from benchmarks.local import POLL_S, await_answer, free_port
from zkserve.chain import deploy, evm
from zkserve.chain.adapter import ADAPTER, AdapterTerms
from zkserve.chain.interfaces import interface
from zkserve.chain.rpc import Chain, Inclusion
from zkserve.chain.transaction import Transaction
from zkserve.chain.verifiers import Subject, verifiers
from zkserve.encoding import bytes32, context, hex_bytes, to_hex
from zkserve.processes import Processes
from zkserve.types import CircuitManifest, Claim

ROOT = Path(__file__).resolve().parent.parent
SOLC = str(ROOT / "contracts/tools/solc")
CHAIN_ID = 31337
REGISTRY, VERSION_ID = "0x" + 19 * "00" + "01", 1
"""A registration that no contract here asks for, but that native proofs are bound to."""
CONTEXT = context(CHAIN_ID, REGISTRY, VERSION_ID)
_GAS_LIMIT = 12_000_000
_FUNDS_WEI = 10**20
_TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class LocalChain:
    """A fresh anvil; ``hardfork`` prices the gas."""

    chain: Chain
    hardfork: str

    def verify_raw(self, source: str, proof: bytes, instances: list[int]) -> dict[str, int]:
        """Deploy a generated verifier and let it verify."""
        deployed = self._send(None, evm.compile_verifier(source, SOLC).creation)
        address = _created(deployed)
        return {
            "deploy_gas": deployed.gas_used,
            "code_bytes": len(self.chain.code(address)),
            "verify_raw_gas": self._send(address, _raw_call(proof, instances)).gas_used,
        }

    def verify_registered(
        self, manifest: CircuitManifest, source: str, claim: Claim, proof: bytes
    ) -> dict[str, int]:
        """Deploy an engine's contracts for :data:`CONTEXT` as publishing does, and verify."""
        created: list[Inclusion] = []

        def create(_: str, code: bytes) -> str:
            created.append(self._send(None, code))
            return _created(created[-1])

        subject = Subject(
            manifest=manifest, source=source, registry=REGISTRY, version_id=VERSION_ID
        )
        verifier = verifiers(manifest.engine).deploy(self.chain, create, subject, SOLC)
        return {
            "deploy_gas": sum(inclusion.gas_used for inclusion in created),
            "code_bytes": len(self.chain.code(verifier)),
            "verify_gas": self._send(verifier, self._call(verifier, claim, proof)).gas_used,
        }

    def verify_through_adapter(
        self,
        source: str,
        manifest: CircuitManifest,
        claim: Claim,
        proof: bytes,
        instances: list[int],
    ) -> dict[str, int]:
        """Deploy a generated verifier and our adapter over it; verify by both."""
        created: list[tuple[str, Inclusion]] = []

        def create(_: str, code: bytes) -> str:
            inclusion = self._send(None, code)
            created.append((_created(inclusion), inclusion))
            return created[-1][0]

        adapter = deploy.deploy_verifier(
            self.chain,
            create,
            evm.compile_verifier(source, SOLC).creation,
            AdapterTerms.of(manifest),
        )
        raw = created[0][0]
        return {
            "deploy_gas": sum(inclusion.gas_used for _, inclusion in created),
            "code_bytes": len(self.chain.code(raw)),
            "verify_raw_gas": self._send(raw, _raw_call(proof, instances)).gas_used,
            "verify_gas": self._send(adapter, self._call(adapter, claim, proof)).gas_used,
        }

    def _call(self, verifier: str, claim: Claim, proof: bytes) -> bytes:
        """Return the call that every verifier of a market takes."""
        stated = (
            bytes32(claim.circuit_id),
            bytes32(claim.weights),
            claim.input,
            list(claim.outputs),
        )
        contract = self.chain.contract(verifier, interface(ADAPTER).abi)
        return hex_bytes(contract.encode_abi("verify", [stated, proof]))

    def _send(self, to: str | None, data: bytes) -> Inclusion:
        signed = self.chain.sign(
            Transaction(
                nonce=self.chain.nonce(self.chain.signer),
                to=to,
                data=data,
                value_wei=0,
                gas=_GAS_LIMIT,
                fees=self.chain.fees(),
            )
        )
        self.chain.broadcast(signed.raw)
        end = time.monotonic() + _TIMEOUT_S
        while (inclusion := self.chain.inclusion(signed.hash)) is None:
            if time.monotonic() > end:
                raise TimeoutError("a transaction was not mined")
            time.sleep(POLL_S)
        if not inclusion.succeeded:
            raise RuntimeError("a transaction reverted: the proof did not verify on chain")
        return inclusion


@contextmanager
def running(folder: Path) -> Iterator[LocalChain]:
    """Run anvil on loopback with a funded account; ``folder`` takes its log."""
    anvil = shutil.which("anvil", path=str(ROOT / "contracts/node_modules/.bin"))
    if anvil is None:
        raise FileNotFoundError("anvil is missing: run `make setup`")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    account = Account.create()
    with Processes(folder) as processes, httpx.Client(base_url=url, trust_env=False) as http:
        processes.start(
            "anvil",
            [
                *(anvil, "--host", "127.0.0.1", "--port", str(port)),
                *("--accounts", "1", "--chain-id", str(CHAIN_ID)),
            ],
        )

        def call(method: str, *parameters: object) -> Any:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
            try:
                return http.post("/", json=body).json().get("result")
            except httpx.TransportError:
                return None

        node = await_answer(
            processes, "anvil", lambda: call("anvil_nodeInfo"), timeout_s=_TIMEOUT_S
        )
        call("anvil_setBalance", account.address, hex(_FUNDS_WEI))
        chain = Chain(url, signer_key=to_hex(bytes(account.key)))
        yield LocalChain(chain=chain, hardfork=str(node["hardFork"]).lower())


def _created(inclusion: Inclusion) -> str:
    if inclusion.contract is None:
        raise RuntimeError("no contract was created")
    return inclusion.contract


def _raw_call(proof: bytes, instances: list[int]) -> bytes:
    selector = function_signature_to_4byte_selector("verifyProof(bytes,uint256[])")
    return selector + encode(["bytes", "uint256[]"], [proof, instances])

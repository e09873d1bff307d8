"""The whole product on one machine: a chain, a service, a worker, and two proven predictions.

Everything is real: a node of anvil, the service and the worker as processes of their own, proofs
of a circuit of ``circuits/breast_cancer`` for held-out patients. Only the SRS is a development one.
Keys are drawn fresh and funded by the node; nothing is left running, whatever happens.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from eth_abi.abi import encode
from eth_account import Account
from eth_account.signers.local import LocalAccount

from zkserve import audit, outbox, publish, recipe, register, runtime, verify
from zkserve.chain import deploy
from zkserve.chain.contracts import Market, Registry
from zkserve.chain.interfaces import interface
from zkserve.chain.rpc import Chain, Inclusion
from zkserve.chain.transaction import Transaction
from zkserve.client import Client, ProofJob
from zkserve.encoding import hex_bytes, to_hex
from zkserve.engines.base import Progress
from zkserve.errors import (
    ChainError,
    EngineFailed,
    NotFound,
    TransactionReverted,
    Unavailable,
)
from zkserve.node import Node
from zkserve.processes import Processes
from zkserve.receipt import receipt_to_dict
from zkserve.types import JobState, Receipt

_T = TypeVar("_T")

MODEL = "breast_cancer"
PRICE_WEI = 10**16
_DEPOSIT_WEI = 5 * 10**15
_FUNDS_WEI = 10**20
_START_TIMEOUT_S = 60.0
_PROOF_TIMEOUT_S = 240.0
_ANSWER_WITHIN_S = 3600
_ROOT = Path(__file__).resolve().parent.parent


def run(folder: Path, progress: Progress) -> dict[str, Any]:
    """Run the demo; write ``demo.json`` into ``folder`` and receipts into ``folder/demo``.

    Raises:
        NotFound: this is no checkout, or `make setup` has not run.
        ZkserveError: a step failed; nothing keeps running.

    """
    anvil = _required(_ROOT / "contracts/node_modules/.bin/anvil")
    circuit = _required(_ROOT / "circuits" / MODEL)
    shown = folder / "demo"
    shutil.rmtree(shown, ignore_errors=True)
    shown.mkdir(mode=0o700, parents=True)  # it will hold private openings
    with ExitStack() as stack:
        data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zkserve-demo-")))
        stack.enter_context(_runtime_folder())
        processes = stack.enter_context(Processes(shown / "logs"))
        accounts = {name: Account.create() for name in ("owner", "clinic", "patient")}
        progress("starting a chain")
        rpc_url = _start_chain(processes, anvil, accounts)
        chains = {
            name: Chain(rpc_url, signer_key=_key(account)) for name, account in accounts.items()
        }
        demo = _Demo(
            folder=shown,
            data_dir=data_dir,
            rpc_url=rpc_url,
            chains=chains,
            accounts=accounts,
            processes=processes,
            progress=progress,
        )
        result = demo.run(circuit)
    (folder / "demo.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


@dataclass(frozen=True, kw_only=True)
class _Demo:
    folder: Path
    data_dir: Path
    rpc_url: str
    chains: dict[str, Chain]
    accounts: dict[str, LocalAccount]
    processes: Processes
    progress: Progress

    def run(self, circuit: Path) -> dict[str, Any]:
        owner = self.chains["owner"]
        self.progress("deploying registry and market")
        node = Node.open(data_dir=self.data_dir, database_url=self._database_url)
        node.database.upgrade()
        contracts = deploy.deploy(
            owner,
            lambda purpose, code: outbox.create(node.database, owner, purpose=purpose, code=code),
        )
        url = f"http://127.0.0.1:{_free_port()}"
        published, version_id = self._publish(node, circuit, contracts, url)
        self.progress("deploying the clinic's contract")
        clinic = self._deploy_clinic(contracts.address(deploy.MARKET), version_id)
        self.progress("starting service and worker")
        self._start_service(contracts, url)
        patients = recipe.samples(recipe.load(circuit)).held_out
        with Client(url) as client:
            self._await("serve", client.ready)
            artifacts = self.folder / "artifacts"
            client.download_artifacts(published.manifest.circuit_id, artifacts)
            registered = Registry(owner, contracts.address(deploy.REGISTRY)).get_version(version_id)
            circuit_id = to_hex(registered.circuit_id)
            http = self._over_http(client, patients[0].tolist(), artifacts, circuit_id)
            on_chain = self._on_chain(
                client, patients[1].tolist(), artifacts, circuit_id, contracts, clinic
            )
        manifest = published.manifest
        common = {
            "model": published.model,
            "engine": f"{manifest.engine} {manifest.engine_version}",
            "weights_mode": manifest.weights_mode.value,
            "rows": manifest.rows,
        }
        agreement = manifest.agreement
        return {
            "titles": ["over HTTP", "on chain"],
            "development_srs": manifest.development_srs,
            "circuit_id": circuit_id,
            "predictions": [
                common | row | {"agreement_max_abs": agreement.max_abs if agreement else None}
                for row in (http, on_chain)
            ],
        }

    @property
    def _database_url(self) -> str:
        return f"sqlite:///{self.data_dir / 'zkserve.db'}"

    def _publish(
        self, node: Node, circuit: Path, contracts: deploy.Ledger, url: str
    ) -> tuple[publish.Published, int]:
        published = publish.publish(
            node,
            recipe.load(circuit),
            publish.SrsSource(development_folder=self.data_dir / "srs"),
            progress=self.progress,
        )
        place = register.Place(
            chain=self.chains["owner"],
            registry=contracts.address(deploy.REGISTRY),
            market=contracts.address(deploy.MARKET),
            solc=str(_ROOT / "contracts/tools/solc"),
        )
        version_id = register.register(
            node,
            place,
            published.model,
            published.number,
            price_wei=PRICE_WEI,
            uri=url,
            progress=self.progress,
        )
        return published, version_id

    def _deploy_clinic(self, market: str, version_id: int) -> str:
        code = interface("SecondOpinion").bytecode
        arguments = encode(["address", "uint256"], [market, version_id])
        created = _transact(self.chains["clinic"], to=None, data=code + arguments)
        if created.contract is None:
            raise ChainError("The clinic's contract was not created.")
        return created.contract

    def _start_service(self, contracts: deploy.Ledger, url: str) -> None:
        environment = {
            "ZKSERVE_DATA_DIR": str(self.data_dir),
            runtime.VARIABLE: str(runtime.root()),
            "ZKSERVE_DATABASE_URL": self._database_url,
            "ZKSERVE_PORT": url.rpartition(":")[2],
            "ZKSERVE_RPC_URL": self.rpc_url,
            "ZKSERVE_REGISTRY": contracts.address(deploy.REGISTRY),
            "ZKSERVE_MARKET": contracts.address(deploy.MARKET),
        }
        program = [sys.executable, "-m", "zkserve"]
        self.processes.start("serve", [*program, "serve"], environment=environment)
        key = {"ZKSERVE_SIGNER_KEY": _key(self.accounts["owner"])}
        self.processes.start("work", [*program, "work"], environment=environment | key)

    def _over_http(
        self, client: Client, patient: list[float], artifacts: Path, circuit_id: str
    ) -> dict[str, Any]:
        self.progress("predicting over HTTP")
        prediction = client.infer(MODEL, patient)
        job = self._await_proof(client, str(prediction.proof_id))
        receipt = client.receipt(job.id)
        self._keep("http", receipt, prediction.opening)
        self.progress("verifying the receipt offline, from public artifacts alone")
        self._verify("http", artifacts, circuit_id)
        return _row(job, receipt)

    def _on_chain(
        self,
        client: Client,
        patient: list[float],
        artifacts: Path,
        circuit_id: str,
        contracts: deploy.Ledger,
        clinic: str,
    ) -> dict[str, Any]:
        self.progress("asking on chain, with a commitment instead of the patient's features")
        asker = self.chains["patient"]
        market = Market(asker, contracts.address(deploy.MARKET))
        committed = client.commit_input(MODEL, patient)
        second_opinion = asker.contract(clinic, interface("SecondOpinion").abi)
        deadline = asker.head().timestamp + _ANSWER_WITHIN_S
        call = second_opinion.encode_abi("ask", [committed.input, deadline])
        asked = _transact(
            asker, to=clinic, data=hex_bytes(call), value_wei=PRICE_WEI + _DEPOSIT_WEI
        )
        (request,) = market.requested_events(asked.block, asked.block)
        self.progress("waiting for the worker to see the request")
        seen = self._await(
            "work", lambda: _find(client, asker.chain_id, market.address, request.request_id)
        )
        job = self._await_proof(client, seen.id)
        receipt = client.receipt(job.id)
        self._keep("on-chain", receipt, committed.opening)
        self.progress("verifying the settled receipt offline and by asking the chain")
        self._verify("on-chain", artifacts, circuit_id)
        verify.verify_on_chain(
            receipt,
            Chain(self.rpc_url),
            contracts.address(deploy.REGISTRY),
            request.version_id,
            market=market.address,
        )
        self.progress("auditing the registered verifier from public artifacts")
        audit.audit(
            Chain(self.rpc_url),
            contracts.address(deploy.REGISTRY),
            request.version_id,
            verify.read_bundle(artifacts),
            str(_ROOT / "contracts/tools/solc"),
        )
        self._pay_out(market.address)
        return _row(job, receipt)

    def _pay_out(self, market_address: str) -> None:
        self.progress("paying the owner out")
        owner = self.chains["owner"]
        market = Market(owner, market_address)
        owed_wei = market.owed(owner.signer)
        if owed_wei != PRICE_WEI:
            raise ChainError(f"The owner is owed {owed_wei} wei, expected {PRICE_WEI}.")
        _transact(owner, to=market.address, data=market.withdraw_calldata(owner.signer))

    def _await_proof(self, client: Client, proof_id: str) -> ProofJob:
        job = client.wait(
            proof_id,
            timeout_s=_PROOF_TIMEOUT_S,
            on_event=lambda event: self.progress(f"proof {event.state.value}"),
        )
        if job.state is not JobState.DONE:
            raise EngineFailed(f"The proof ended {job.state.value}: {job.error_message}")
        return job

    def _await(self, program: str, attempt: Callable[[], _T | None]) -> _T:
        """Try until something comes of it, as long as the program it depends on lives."""
        end = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < end:
            self.processes.require_running(program)
            found = attempt()
            if found:
                return found
            time.sleep(0.2)
        raise Unavailable(f"{program} did not answer within {_START_TIMEOUT_S:g} s.")

    def _keep(self, name: str, receipt: Receipt, opening: bytes | None) -> None:
        path = self.folder / f"{name}.receipt.json"
        path.write_text(json.dumps(receipt_to_dict(receipt), indent=2) + "\n")
        if opening is not None:
            (self.folder / f"{name}.opening.json").write_bytes(opening)

    def _verify(self, name: str, artifacts: Path, circuit_id: str) -> None:
        """Verify as a stranger would: from files alone, the circuit id known from the registry."""
        verify.verify_offline(
            verify.read_receipt(self.folder / f"{name}.receipt.json"),
            artifacts,
            expected_circuit=circuit_id,
            opening=(self.folder / f"{name}.opening.json").read_bytes(),
        )


@contextmanager
def _runtime_folder() -> Iterator[None]:
    """Have what lies in clear in a folder of this demo alone, which goes with it whoever is killed.

    It is in the runtime folder that was set, if one was.
    """
    before = os.environ.get(runtime.VARIABLE)
    with runtime.private_folder() as folder:
        os.environ[runtime.VARIABLE] = str(folder)
        try:
            yield
        finally:
            del os.environ[runtime.VARIABLE]
            if before is not None:
                os.environ[runtime.VARIABLE] = before


def _start_chain(processes: Processes, anvil: Path, accounts: dict[str, LocalAccount]) -> str:
    port = _free_port()
    command = [str(anvil), "--host", "127.0.0.1", "--port", str(port), "--accounts", "1"]
    processes.start("anvil", command)
    rpc_url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=rpc_url) as http:

        def call(method: str, *parameters: object) -> bool:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
            try:
                return "result" in http.post("/", json=body).json()
            except httpx.TransportError:
                return False

        end = time.monotonic() + _START_TIMEOUT_S
        while not call("eth_chainId"):
            processes.require_running("anvil")
            if time.monotonic() > end:
                raise Unavailable("anvil did not answer.")
            time.sleep(0.05)
        for account in accounts.values():
            call("anvil_setBalance", account.address, hex(_FUNDS_WEI))
    return rpc_url


def _transact(chain: Chain, *, to: str | None, data: bytes, value_wei: int = 0) -> Inclusion:
    """Send a transaction as any outsider would, and wait until it is mined."""
    estimate = chain.estimate_gas(to, data, value_wei)
    signed = chain.sign(
        Transaction(
            nonce=chain.nonce(chain.signer),
            to=to,
            data=data,
            value_wei=value_wei,
            gas=estimate + estimate // 5,
            fees=chain.fees(),
        )
    )
    chain.broadcast(signed.raw)
    end = time.monotonic() + _START_TIMEOUT_S
    while (inclusion := chain.inclusion(signed.hash)) is None:
        if time.monotonic() > end:
            raise Unavailable(f"Transaction {signed.hash} was not mined.")
        time.sleep(0.05)
    if not inclusion.succeeded:
        raise TransactionReverted(f"Transaction {signed.hash} reverted.")
    return inclusion


def _find(client: Client, chain_id: int, market: str, request_id: int) -> ProofJob | None:
    try:
        return client.request(chain_id, market, request_id)
    except NotFound:
        return None


def _row(job: ProofJob, receipt: Receipt) -> dict[str, Any]:
    settlement = receipt.settlement
    return {
        "prove_s": round(job.prove_s or 0, 2),
        "peak_rss_mb": round((job.peak_rss_bytes or 0) / 2**20),
        "proof_bytes": len(receipt.proof),
        "gas_fulfil": settlement.gas if settlement else None,
        "verified_offline": True,  # _verify raised otherwise
        "settled_on_chain": settlement is not None,
        "callback_ok": settlement.callback_ok if settlement else None,
    }


def _required(path: Path) -> Path:
    if not path.exists():
        raise NotFound(
            f"{path} is missing.", remedy="Run the demo in a checkout, after `make setup`."
        )
    return path


def _key(account: LocalAccount) -> str:
    return to_hex(bytes(account.key))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port

"""Generated verifiers on a real chain: proofs of all features, and every kind of alteration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from tests.chain.anvil_node import Node, running
from tests.chain.world import SOLC
from tests.native_proofs import development_srs
from tests.native_random import WEIGHT, random_circuit
from tests.native_vectors import ProofVector, altered, files, parts, read
from zkserve.chain.evm import Bytecode, compile_verifier
from zkserve.engines.native import core
from zkserve.engines.native.evm.solidity import generate
from zkserve.engines.native.protocol.description import decode as decode_description
from zkserve.engines.native.protocol.transcript import context

pytestmark = pytest.mark.chain

CIRCUIT = bytes([0x11] * 32)
OTHER = bytes([0x22] * 32)
GAS = 5_000_000
PROOF_INVALID = keccak(b"ProofInvalid(bytes32)")[:4] + CIRCUIT
WRONG_CIRCUIT = keccak(b"WrongCircuit(bytes32,bytes32)")[:4] + CIRCUIT
CLAIM = "(bytes32,bytes32,bytes,int256[])"
VERIFY = keccak(f"verify({CLAIM},bytes)".encode())[:4]
CONSTRUCTOR = ["bytes32", "bytes32", "address", "uint256"]


@dataclass
class Deployed:
    """A vector's verifier on a node."""

    vector: ProofVector
    node: Node
    bytecode: Bytecode
    address: str

    def revert_of(self, circuit: bytes = CIRCUIT, **edits: Any) -> bytes | None:
        """Return what a call reverts with; None if the claim is accepted."""
        given = {**self.vector.arguments(), **edits}
        claim = (circuit, given["weights"], given["input"], given["outputs"])
        data = VERIFY + encode(
            ["(bytes32,bytes32,bytes,int256[])", "bytes"], [claim, given["proof"]]
        )
        call = {"to": self.address, "data": "0x" + data.hex(), "gas": hex(GAS)}
        answer = self.node.web3.provider.make_request("eth_call", [call, "latest"])
        if "error" in answer:
            return bytes.fromhex(answer["error"]["data"][2:])
        assert answer["result"] == "0x"
        return None

    def constant(self, name: str) -> bytes:
        call = {"to": self.address, "data": keccak(f"{name}()".encode())[:4]}
        return bytes(self.node.web3.eth.call(call))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with running() as started:
        yield started


def deploy(node: Node, vector: ProofVector, bytecode: Bytecode, **terms: Any) -> Deployed:
    given = {"weights": vector.weights, "version": vector.version_id, **terms}
    arguments = encode(CONSTRUCTOR, [CIRCUIT, given["weights"], vector.registry, given["version"]])
    sent = {"from": node.web3.eth.accounts[0], "data": bytecode.creation + arguments}
    receipt = node.web3.eth.wait_for_transaction_receipt(node.web3.eth.send_transaction(sent))
    assert receipt["status"] == 1
    return Deployed(vector, node, bytecode, receipt["contractAddress"])


@pytest.fixture(scope="module", params=files(), ids=lambda path: path.stem)
def deployed(node: Node, request: pytest.FixtureRequest) -> Deployed:
    vector = read(request.param)
    source = generate(
        vector.description, srs_digest=vector.srs_digest, g2_s=vector.g2_s, mode=vector.mode
    )
    return deploy(node, vector, compile_verifier(source, SOLC))


def test_an_honest_proof_is_accepted(deployed: Deployed) -> None:
    assert deployed.revert_of() is None


def test_the_cases_of_the_vector_are_rejected(deployed: Deployed) -> None:
    for case in deployed.vector.cases:
        if case.field != "context":  # the verifier's own: see below
            found = deployed.revert_of(**_claimed(deployed.vector.arguments(case)))
            assert found == PROOF_INVALID, case.name


def _claimed(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: arguments[key] for key in ("weights", "input", "outputs", "proof")}


def test_no_part_of_a_proof_can_be_another(deployed: Deployed) -> None:
    proof = deployed.vector.proof
    d = decode_description(deployed.vector.description)
    for part in parts(d, hidden=bool(deployed.vector.mode)):
        for what, data in altered(proof, part):
            edited = proof[: part.at] + data + proof[part.at + part.size :]
            assert deployed.revert_of(proof=edited) == PROOF_INVALID, (part.name, what)


def test_no_point_off_the_curve_is_taken(deployed: Deployed) -> None:
    proof = deployed.vector.proof
    d = decode_description(deployed.vector.description)
    for part in parts(d, hidden=bool(deployed.vector.mode)):
        if part.kind == "point":
            y = int.from_bytes(proof[part.at + 32 : part.at + 64], "big") ^ 2
            edited = proof[: part.at + 32] + y.to_bytes(32, "big") + proof[part.at + 64 :]
            assert deployed.revert_of(proof=edited) == PROOF_INVALID, part.name


def test_no_byte_of_the_input_can_be_another(deployed: Deployed) -> None:
    packed = deployed.vector.input
    for at in range(len(packed)):
        edited = packed[:at] + bytes([packed[at] ^ 0x80]) + packed[at + 1 :]
        assert deployed.revert_of(input=edited) == PROOF_INVALID, at


def test_no_output_can_be_another(deployed: Deployed) -> None:
    outputs = deployed.vector.outputs
    for at, value in enumerate(outputs):
        for other in (value + 1, value - 1, -value - 1, value + (1 << 64)):
            edited = [*outputs[:at], other, *outputs[at + 1 :]]
            assert deployed.revert_of(outputs=edited) == PROOF_INVALID, at
    if outputs[0] != outputs[-1]:
        swapped = [outputs[-1], *outputs[1:-1], outputs[0]]
        assert deployed.revert_of(outputs=swapped) == PROOF_INVALID


def test_another_circuit_is_named(deployed: Deployed) -> None:
    assert deployed.revert_of(circuit=OTHER) == WRONG_CIRCUIT + OTHER


def test_a_proof_is_good_for_one_registration(deployed: Deployed) -> None:
    vector = deployed.vector
    copy = deploy(deployed.node, vector, deployed.bytecode, version=vector.version_id + 1)
    assert copy.revert_of() == PROOF_INVALID
    # With its own context in front, the proof is one that was made for another transcript.
    own = copy.constant("context")
    assert own != vector.context
    assert copy.revert_of(proof=own + vector.proof[32:]) == PROOF_INVALID


def test_weights_are_those_of_the_deployment(deployed: Deployed) -> None:
    weights = bytes(32)
    other = deploy(deployed.node, deployed.vector, deployed.bytecode, weights=weights)
    assert other.revert_of() == PROOF_INVALID
    assert other.revert_of(weights=weights) == PROOF_INVALID


def test_a_verifier_shows_what_it_is_pinned_to(deployed: Deployed) -> None:
    vector = deployed.vector
    assert deployed.constant("DESCRIPTION") == keccak(vector.description)
    assert deployed.constant("SRS") == vector.srs_digest
    assert deployed.constant("circuitId") == CIRCUIT
    assert deployed.constant("weights") == vector.weights
    assert deployed.constant("context") == vector.context


@pytest.mark.prover
@pytest.mark.skipif(not core.available(), reason="the compiled core is not installed")
@pytest.mark.parametrize("seed", [3, 4, 5, 10, 18, 34])
def test_random_circuits_are_verified(node: Node, tmp_path: Path, seed: int) -> None:
    """Seed 10 has ten tiles of rows: its first message is the longest."""
    circuit, srs = random_circuit(seed), development_srs(tmp_path)
    d, rng, mode = circuit.description, np.random.default_rng(seed), seed % 2
    cells = rng.integers(-WEIGHT, WEIGHT + 1, d.header.weight_tiles << d.header.k, dtype=np.int32)
    blinds = b"".join(rng.bytes(31).rjust(32, b"\0") for _ in range(d.header.weight_tiles))
    multipliers = list(circuit.multipliers)
    prover = core.load().Prover(srs, d.encode(), mode, cells, blinds, multipliers, 1)
    shape = (d.header.batch, d.tensors[0].channels, d.tensors[0].height, d.tensors[0].width)
    values = rng.integers(0, 256**d.header.input_bytes, shape, dtype=np.int32)
    registry, version = "0x" + "ab" * 20, 3
    where = context(chain_id=31337, registry=registry, version_id=version)
    blind = bytes(31) + b"\7" if mode else None
    claimed, outputs, proof = prover.prove(where, values, blind, rng.bytes(32))
    vector = ProofVector(
        name=f"random {seed}",
        description=d.encode(),
        srs_digest=srs.digest,
        g2_s=srs.g2_s,
        chain_id=31337,
        registry=registry,
        version_id=version,
        context=where,
        mode=mode,
        weights=prover.weights,
        input=claimed,
        outputs=tuple(outputs),
        proof=proof,
        cases=(),
    )
    source = generate(d.encode(), srs_digest=srs.digest, g2_s=srs.g2_s, mode=mode)
    deployed = deploy(node, vector, compile_verifier(source, SOLC))
    assert deployed.revert_of() is None
    wrong = [*outputs[:-1], outputs[-1] + 1]
    assert deployed.revert_of(outputs=wrong) == PROOF_INVALID

"""What of the chain needs no node: fees, bytes, errors, secrets, the compiler."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector
from hypothesis import given
from hypothesis import strategies as st

from zkserve.chain.evm import SOLC_VERSION, compile_verifier, verifier_bytes
from zkserve.chain.interfaces import describe_revert, interface
from zkserve.chain.rpc import Chain
from zkserve.chain.transaction import Fees, Transaction, checksum
from zkserve.errors import ChainError, ModelRejected, NotFound, Unavailable

KEY = "0x" + "4c" * 32
SECRET = "s3cret-access-key"
WEI = st.integers(min_value=0, max_value=10**13)


@given(tip=WEI, cap=WEI, market_tip=WEI, market_cap=WEI)
def test_replacement_bids_an_eighth_more_on_both(
    tip: int, cap: int, market_tip: int, market_cap: int
) -> None:
    new = Fees(tip_wei=tip, cap_wei=cap).bumped(Fees(tip_wei=market_tip, cap_wei=market_cap))
    assert new.tip_wei * 8 >= tip * 9
    assert new.cap_wei * 8 >= cap * 9
    assert new.tip_wei >= market_tip
    assert new.cap_wei >= market_cap
    assert new.cap_wei >= new.tip_wei


@given(
    nonce=st.integers(min_value=0, max_value=2**63),
    to=st.none() | st.binary(min_size=20, max_size=20),
    data=st.binary(max_size=100),
    value=st.integers(min_value=0, max_value=2**128),
)
def test_signed_transaction_reads_back(
    nonce: int, to: bytes | None, data: bytes, value: int
) -> None:
    from eth_account import Account

    transaction = Transaction(
        nonce=nonce,
        to=None if to is None else checksum("0x" + to.hex()),
        data=data,
        value_wei=value,
        gas=21_000,
        fees=Fees(tip_wei=3, cap_wei=7),
    )
    signed = Account.from_key(KEY).sign_transaction(transaction.fields(5))
    assert Transaction.read(bytes(signed.raw_transaction)) == transaction


def test_neither_key_nor_url_is_shown() -> None:
    chain = Chain(f"http://127.0.0.1:1/{SECRET}", signer_key=KEY)
    assert SECRET not in repr(chain)
    assert "4c4c" not in repr(chain)
    assert "127.0.0.1" in repr(chain)
    with pytest.raises(Unavailable) as caught:
        chain.check()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_bad_key_is_refused_without_being_shown() -> None:
    for key in ("0x" + SECRET, "0x12", "0x" + "00" * 32, "4c" * 31 + "zz"):
        with pytest.raises(ChainError, match="not a private key") as caught:
            Chain("http://127.0.0.1:1", signer_key=key)
        assert key not in str(caught.value)
        assert caught.value.__suppress_context__


def test_address_that_is_none() -> None:
    with pytest.raises(ChainError, match="not an address"):
        checksum("0x1234")


def _revert(signature: str, *values: object) -> bytes:
    types = signature[signature.index("(") + 1 : -1].split(",")
    return function_signature_to_4byte_selector(signature) + encode(types, values)


def test_reverts_are_told_by_name() -> None:
    assert describe_revert(_revert("NotOpen(uint256,uint8)", 7, 2)) == "NotOpen(7, 2)"
    assert describe_revert(_revert("Error(string)", "no")) == "Error(no)"
    assert describe_revert(_revert("Panic(uint256)", 17)) == "Panic(17)"
    circuit = b"\x11" * 32
    assert describe_revert(_revert("ProofInvalid(bytes32)", circuit)) == (
        f"ProofInvalid(0x{circuit.hex()})"
    )


def test_reverts_that_nobody_knows() -> None:
    assert describe_revert(b"") == "no reason given"
    assert describe_revert(bytes.fromhex("deadbeef01")) == "0xdeadbeef01"
    assert len(describe_revert(b"\xff" * 10_000)) < 150
    assert describe_revert(_revert("NotOpen(uint256,uint8)", 7, 2)[:20]) == "NotOpen(undecodable)"


def test_unknown_interface() -> None:
    with pytest.raises(NotFound, match="Nonesuch"):
        interface("Nonesuch")


def test_the_api_and_the_client_load_no_web3() -> None:
    code = (
        "import sys, zkserve.api, zkserve.client, zkserve.node\n"
        "print([name for name in ('web3', 'zkserve.chain', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _compiler(folder: Path, answer: object, *, status: int = 0) -> str:
    """A command that answers like a compiler would."""
    script = folder / "solc"
    said = answer if isinstance(answer, str) else json.dumps(answer)
    (folder / "answer").write_text(said)
    script.write_text(
        f"#!/bin/sh\ncat > {folder}/request-$$\ncat {folder}/answer\n"
        f"echo broken >&2\nexit {status}\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def _compiled(size_bytes: int, *, version: str = SOLC_VERSION, contracts: int = 1) -> object:
    contract = {
        "evm": {"bytecode": {"object": "6000"}, "deployedBytecode": {"object": "00" * size_bytes}},
        "metadata": json.dumps({"compiler": {"version": f"{version}+commit.0"}}),
    }
    return {"contracts": {"Verifier.sol": {f"C{n}": contract for n in range(contracts)}}}


def test_verifier_that_fits_is_compiled_once(tmp_path: Path) -> None:
    code = compile_verifier("contract C {}", _compiler(tmp_path, _compiled(24_576)))
    assert code.creation == b"\x60\x00"
    assert len(code.runtime) == 24_576
    (request,) = [json.loads(path.read_text()) for path in tmp_path.glob("request-*")]
    assert request["sources"]["Verifier.sol"]["content"] == "contract C {}"
    assert request["settings"]["optimizer"]["enabled"] is True
    assert "viaIR" not in request["settings"]


def test_verifier_too_large_is_tried_smaller_then_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="24577 bytes, a chain takes 24576"):
        compile_verifier("", _compiler(tmp_path, _compiled(24_577)))
    requests = [json.loads(path.read_text()) for path in tmp_path.glob("request-*")]
    assert sorted(r["settings"]["optimizer"]["runs"] for r in requests) == [1, 10_000]


def test_compiler_is_missing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be run"):
        compile_verifier("", str(tmp_path / "none"))


def test_compiler_of_another_version(tmp_path: Path) -> None:
    with pytest.raises(ChainError, match=r"version 0\.8\.30"):
        compile_verifier("", _compiler(tmp_path, _compiled(10, version="0.8.30")))


def test_compiler_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ChainError, match="broken"):
        compile_verifier("", _compiler(tmp_path, "", status=3))
    with pytest.raises(ChainError, match="standard JSON"):
        compile_verifier("", _compiler(tmp_path, "hello"))
    error = {"severity": "error", "formattedMessage": "ParserError: no"}
    with pytest.raises(ChainError, match="ParserError: no"):
        compile_verifier("", _compiler(tmp_path, {"errors": [error]}))
    with pytest.raises(ChainError, match="2 contracts"):
        compile_verifier("", _compiler(tmp_path, _compiled(10, contracts=2)))


def test_the_size_of_a_verifier_is_told_also_where_no_chain_takes_it(tmp_path: Path) -> None:
    assert verifier_bytes("", _compiler(tmp_path, _compiled(24_576))) == 24_576
    assert verifier_bytes("", _compiler(tmp_path, _compiled(30_000))) == 30_000

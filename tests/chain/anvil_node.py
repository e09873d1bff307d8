"""A real anvil node: loopback, a free port, watched, killed."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from web3 import HTTPProvider, Web3

from zkserve.chain.rpc import Chain

_PACKAGES = Path(__file__).parents[2] / "contracts/node_modules/@foundry-rs"
Account.enable_unaudited_hdwallet_features()
_MNEMONIC = "test test test test test test test test test test test junk"


def account(index: int) -> Any:
    """One of anvil's public, funded development accounts."""
    return Account.from_mnemonic(_MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")


class Node:
    """A running anvil and its test-only methods."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process = process
        self.web3 = Web3(HTTPProvider(url, exception_retry_configuration=None))

    def rpc(self, method: str, *parameters: Any) -> Any:
        answer = self.web3.provider.make_request(method, list(parameters))
        assert "error" not in answer, answer
        return answer.get("result")

    def mine(self, blocks: int = 1) -> None:
        self.rpc("anvil_mine", hex(blocks))

    def automine(self, on: bool) -> None:
        self.rpc("evm_setAutomine", on)

    def chain(self, index: int = 0, **options: Any) -> Chain:
        return Chain(self.url, signer_key=account(index).key.hex(), **options)

    def sent_by(self, index: int = 0) -> list[Any]:
        """All mined transactions of an account, in order."""
        blocks = range(self.web3.eth.block_number + 1)
        found = [tx for n in blocks for tx in self.web3.eth.get_block(n, True)["transactions"]]
        return [tx for tx in found if tx["from"] == account(index).address]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def running(*options: str, port: int | None = None) -> Iterator[Node]:
    # The native binary, not npm's launcher: killing that one would leave the node running.
    binary = next(_PACKAGES.glob("anvil-*/bin/anvil"), None)
    assert binary, "anvil is missing: install the npm packages in contracts/"
    port = port or free_port()
    process = subprocess.Popen(
        [binary, "--host", "127.0.0.1", "--port", str(port), "--silent", *options]
    )
    try:
        node = Node(f"http://127.0.0.1:{port}", process)
        for _ in range(200):
            assert process.poll() is None, "anvil died: is the port taken?"
            if node.web3.is_connected():
                break
            time.sleep(0.05)
        else:
            pytest.fail("anvil did not answer")
        yield node
        assert process.poll() is None or process.returncode < 0, "anvil died during the test"
    finally:
        process.kill()
        process.wait()

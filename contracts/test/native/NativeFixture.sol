// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Claim, IProofVerifier} from "../../src/interfaces/IProofVerifier.sol";
import {Test} from "../base/Test.sol";
import {NativeVerifier as HiddenVerifier} from "../fixtures/NativeDenseHidden.sol";
import {NativeVerifier as PublicVerifier} from "../fixtures/NativeDensePublic.sol";

/// @dev One edit of a vector that every verifier rejects.
struct Case {
    uint256 at;
    bytes data;
    string field;
    string name;
}

interface VmNative {
    function chainId(uint256 id) external;
    function parseJsonAddress(string calldata json, string calldata key) external pure returns (address);
    function parseJsonTypeArray(string calldata json, string calldata key, string calldata description)
        external
        pure
        returns (bytes memory);
}

/// @dev Real proofs of small networks, and the verifiers that `fixtures/make_native.py` writes for them.
abstract contract NativeFixture is Test {
    VmNative internal constant vmNative = VmNative(address(vm));
    bytes32 internal constant CIRCUIT = keccak256("circuit");
    string private constant CASE = "Case(uint256 at,bytes data,string field,string name)";

    string internal publicJson = vm.readFile("../tests/vectors/native/dense-public.json");
    string internal hiddenJson = vm.readFile("../tests/vectors/native/dense-hidden.json");

    function claimOf(string memory json) internal pure returns (Claim memory) {
        return Claim({
            circuitId: CIRCUIT,
            weights: vm.parseJsonBytes32(json, ".weights"),
            input: vm.parseJsonBytes(json, ".input"),
            outputs: vm.parseJsonIntArray(json, ".outputs")
        });
    }

    function proofOf(string memory json) internal pure returns (bytes memory) {
        return vm.parseJsonBytes(json, ".proof");
    }

    function casesOf(string memory json) internal pure returns (Case[] memory) {
        return abi.decode(vmNative.parseJsonTypeArray(json, ".cases", CASE), (Case[]));
    }

    function registryOf(string memory json) internal pure returns (address) {
        return vmNative.parseJsonAddress(json, ".chain.registry");
    }

    function versionOf(string memory json) internal pure returns (uint256) {
        return vm.parseJsonUint(json, ".chain.version");
    }

    function deployPublic(address registry, uint256 version) internal returns (IProofVerifier) {
        bytes32 weights = vm.parseJsonBytes32(publicJson, ".weights");
        return IProofVerifier(address(new PublicVerifier(CIRCUIT, weights, registry, version)));
    }

    function deployHidden() internal returns (IProofVerifier) {
        bytes32 weights = vm.parseJsonBytes32(hiddenJson, ".weights");
        address registry = registryOf(hiddenJson);
        return IProofVerifier(address(new HiddenVerifier(CIRCUIT, weights, registry, versionOf(hiddenJson))));
    }
}

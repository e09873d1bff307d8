// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Claims} from "../src/libraries/Claims.sol";
import {Test} from "./base/Test.sol";

contract ClaimsHarness {
    function hashOutputs(int256[] calldata outputs) external pure returns (bytes32) {
        return Claims.hashOutputs(outputs);
    }
}

/// @dev Python writes the vectors (`tests/unit/test_vectors.py`); the same digests must come out here.
contract ClaimsTest is Test {
    function test_DigestsOfPythonsVectors() public {
        ClaimsHarness harness = new ClaimsHarness();
        string memory json = vm.readFile("../tests/vectors/claims.json");
        uint256 count;
        for (; vm.keyExistsJson(json, _at(count, "")); ++count) {
            bytes32 digest = Claims.digest(
                vm.parseJsonBytes32(json, _at(count, ".circuit_id")),
                vm.parseJsonBytes32(json, _at(count, ".weights")),
                keccak256(vm.parseJsonBytes(json, _at(count, ".input"))),
                harness.hashOutputs(vm.parseJsonIntArray(json, _at(count, ".outputs")))
            );
            vm.assertEq(digest, vm.parseJsonBytes32(json, _at(count, ".digest")));
        }
        vm.assertEq(count, vm.parseJsonUint(json, ".count"));
    }

    function testFuzz_EveryPartIsBound(bytes32[4] calldata parts, uint256 index, bytes32 other) public pure {
        index = bound(index, 0, 3);
        vm.assume(parts[index] != other);
        bytes32[4] memory mutated = parts;
        mutated[index] = other;
        vm.assertNotEq(
            uint256(Claims.digest(parts[0], parts[1], parts[2], parts[3])),
            uint256(Claims.digest(mutated[0], mutated[1], mutated[2], mutated[3]))
        );
    }

    function _at(uint256 index, string memory field) private pure returns (string memory) {
        return string.concat(".claims[", vm.toString(index), "]", field);
    }
}

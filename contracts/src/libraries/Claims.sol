// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The digest that names a claim, the same in Solidity and in Python (`claim_digest`).
library Claims {
    bytes32 internal constant TAG = keccak256("zkserve/claim/v1");

    /// @param inputHash keccak256 of the claim's input.
    /// @param outputsHash What `hashOutputs` gives for the claim's outputs.
    function digest(bytes32 circuitId, bytes32 weights, bytes32 inputHash, bytes32 outputsHash)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(TAG, circuitId, weights, inputHash, outputsHash));
    }

    /// @notice keccak256 of the outputs as 32-byte two's complement words, without a length.
    function hashOutputs(int256[] calldata outputs) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(outputs));
    }
}

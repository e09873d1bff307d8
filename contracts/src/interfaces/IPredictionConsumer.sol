// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @title What a contract implements to be called back with a verified prediction.
interface IPredictionConsumer {
    /// @notice Called last in `fulfil`, with at most the gas the request named.
    /// @dev Check that `msg.sender` is the market. A revert never blocks the payment; the callback
    /// can be retried.
    /// @param outputs Quantised integers; the registry holds their unit.
    function onPrediction(uint256 requestId, uint256 modelId, int256[] calldata outputs) external;
}

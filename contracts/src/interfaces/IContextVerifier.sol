// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IProofVerifier} from "./IProofVerifier.sol";

/// @title A verifier that serves one registered version alone, as the native engine's do.
/// @dev Optional. The registry refuses a verifier with this function for any other version.
interface IContextVerifier is IProofVerifier {
    /// @notice The version that proofs must be made for, with T = keccak256("zkserve/native/context/v1"):
    /// keccak256(abi.encode(T, chain id, registry, version id)).
    function context() external view returns (bytes32);
}

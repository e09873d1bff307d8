// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @notice What a proof proves: the circuit, with these weights, maps this input to these outputs.
/// @dev Engine-neutral. How `input` is packed is the adapter's affair: the packed quantised input of
/// a public-input circuit, or the 32-byte commitment of a committed one.
struct Claim {
    bytes32 circuitId;
    bytes32 weights;
    bytes input;
    int256[] outputs;
}

/// @title One proof system's on-chain verifier, behind a typed adapter.
interface IProofVerifier {
    /// @notice The proof does not prove the claim, or the claim is malformed for this circuit.
    error ProofInvalid(bytes32 circuitId);
    /// @notice The adapter serves another circuit.
    error WrongCircuit(bytes32 expected, bytes32 given);

    /// @notice Returns if, and only if, `proof` proves `claim`.
    /// @dev Reverts otherwise; there is no boolean to ignore. Warning: a call with too little gas
    /// reverts too, so a revert is no evidence that a proof is invalid.
    function verify(Claim calldata claim, bytes calldata proof) external view;
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Claim, IProofVerifier} from "./interfaces/IProofVerifier.sol";
import {FixedPoint} from "./libraries/FixedPoint.sol";

/// @notice The verifier that ezkl generates for one verifying key.
interface IHalo2Verifier {
    function verifyProof(bytes calldata proof, uint256[] calldata instances) external view returns (bool);
}

/// @title Typed adapter over one generated ezkl verifier.
/// @notice Builds the instances from the claim and calls with calldata that the compiler encodes;
/// bytes of a caller's choosing never reach the generated verifier, which can be forged that way.
/// @dev The order of instances is that of ezkl 23.0.5 with hashed weights:
/// committed input: [input commitment, weights hash, outputs…];
/// public input: [weights hash, inputs…, outputs…].
/// Assumes of `raw` that it is the patched verifier of the circuit's verifying key. Whoever relies
/// on a version recomputes that from its public artifacts.
contract EzklVerifier is IProofVerifier {
    address public immutable raw;
    bytes32 public immutable circuitId;
    /// @notice The Poseidon hash of the weights that every proof must show.
    bytes32 public immutable weights;
    /// @notice Whether the input is a 32-byte commitment rather than packed 8-byte integers.
    bool public immutable committedInput;
    uint256 public immutable inputCount;
    uint256 public immutable outputCount;
    /// @notice Exact size of a proof in bytes.
    uint256 public immutable proofLength;

    error InvalidConfiguration(string field);

    constructor(
        address raw_,
        bytes32 circuitId_,
        bytes32 weights_,
        bool committedInput_,
        uint256 inputCount_,
        uint256 outputCount_,
        uint256 proofLength_
    ) {
        require(raw_.code.length > 0, InvalidConfiguration("raw"));
        require(uint256(weights_) < FixedPoint.R, InvalidConfiguration("weights"));
        require(inputCount_ > 0 && (!committedInput_ || inputCount_ == 1), InvalidConfiguration("inputCount"));
        require(outputCount_ > 0, InvalidConfiguration("outputCount"));
        require(proofLength_ > 0, InvalidConfiguration("proofLength"));
        raw = raw_;
        circuitId = circuitId_;
        weights = weights_;
        committedInput = committedInput_;
        inputCount = inputCount_;
        outputCount = outputCount_;
        proofLength = proofLength_;
    }

    /// @inheritdoc IProofVerifier
    function verify(Claim calldata claim, bytes calldata proof) external view {
        require(claim.circuitId == circuitId, WrongCircuit(circuitId, claim.circuitId));
        require(claim.weights == weights && proof.length == proofLength, ProofInvalid(circuitId));
        try IHalo2Verifier(raw).verifyProof(proof, _instances(claim)) returns (bool valid) {
            require(valid, ProofInvalid(circuitId));
        } catch {
            revert ProofInvalid(circuitId);
        }
    }

    function _instances(Claim calldata claim) private view returns (uint256[] memory instances) {
        uint256 inputs = inputCount;
        uint256 outputs = outputCount;
        require(
            claim.outputs.length == outputs && claim.input.length == (committedInput ? 32 : 8 * inputs),
            ProofInvalid(circuitId)
        );
        instances = new uint256[](1 + inputs + outputs);
        if (committedInput) {
            uint256 commitment = uint256(bytes32(claim.input));
            require(commitment < FixedPoint.R, ProofInvalid(circuitId));
            instances[0] = commitment;
            instances[1] = uint256(weights);
        } else {
            instances[0] = uint256(weights);
            for (uint256 i = 0; i < inputs; ++i) {
                int64 word = int64(uint64(bytes8(claim.input[8 * i:8 * i + 8])));
                instances[1 + i] = FixedPoint.toField(word);
            }
        }
        for (uint256 i = 0; i < outputs; ++i) {
            int256 value = claim.outputs[i];
            require(
                value > -FixedPoint.OUTPUT_BOUND && value < FixedPoint.OUTPUT_BOUND, ProofInvalid(circuitId)
            );
            instances[1 + inputs + i] = FixedPoint.toField(value);
        }
    }
}

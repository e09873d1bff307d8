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
/// @dev The order of instances is that of ezkl 23.0.5:
/// committed input: [input commitment, weights hash, outputs…];
/// public input: [weights hash, inputs…, outputs…].
/// The weights hash is an instance where `Weights` is `Hashed` only. `Fixed` weights are constants of
/// the verifying key, which `raw` is made from: a claim names a digest of the key. `Polycommit` weights
/// are committed to by the first points of the proof, which `raw` compares with nothing: this does.
/// How many points those are follows from the circuit's pinned settings; none would bind nothing.
/// Assumes of `raw` that it is the patched verifier of the circuit's verifying key, and of
/// `weightsPoints` that it is what the settings give. Whoever relies on a version recomputes both from
/// its public artifacts.
/// Warning: no contract and no public artifact shows that what a mode's name says of the weights is so.
/// An owner can make a key, labelled `Fixed`, whose constants decide nothing and which proves any
/// weights; points that commit to numbers which the circuit does not use; a hash of other numbers than
/// it computes with. Only compiling the private model again under the pinned settings shows it.
contract EzklVerifier is IProofVerifier {
    /// @notice How proofs are tied to the weights.
    enum Weights {
        Hashed,
        Fixed,
        Polycommit
    }

    /// @notice What an adapter holds every proof to, for good; each field as the getter of its name.
    struct Terms {
        bytes32 circuitId;
        bytes32 weights;
        Weights weightsMode;
        uint256 weightsPoints;
        bool committedInput;
        uint256 inputCount;
        uint256 outputCount;
        uint256 proofLength;
    }

    /// @dev Begins what commitments to weights are hashed with.
    bytes32 private constant POLYCOMMIT_TAG = keccak256("zkserve/ezkl/polycommit/v1");
    uint256 private constant POINT_SIZE = 64;

    address public immutable raw;
    bytes32 public immutable circuitId;
    /// @notice What every claim must name: the Poseidon hash of the weights, a digest of the verifying
    /// key that holds them, or one of the points that every proof must begin with.
    bytes32 public immutable weights;
    Weights public immutable weightsMode;
    /// @notice Points at the start of a proof that commit to the weights; 0 but for `Polycommit`.
    uint256 public immutable weightsPoints;
    /// @notice Whether the input is a 32-byte commitment rather than packed 8-byte integers.
    bool public immutable committedInput;
    uint256 public immutable inputCount;
    uint256 public immutable outputCount;
    /// @notice Exact size of a proof in bytes.
    uint256 public immutable proofLength;

    error InvalidConfiguration(string field);

    constructor(address raw_, Terms memory terms) {
        bool hashed = terms.weightsMode == Weights.Hashed;
        bool polycommit = terms.weightsMode == Weights.Polycommit;
        require(raw_.code.length > 0, InvalidConfiguration("raw"));
        require(!hashed || uint256(terms.weights) < FixedPoint.R, InvalidConfiguration("weights"));
        require(polycommit == (terms.weightsPoints > 0), InvalidConfiguration("weightsPoints"));
        require(
            terms.inputCount > 0 && (!terms.committedInput || terms.inputCount == 1),
            InvalidConfiguration("inputCount")
        );
        require(terms.outputCount > 0, InvalidConfiguration("outputCount"));
        require(
            terms.proofLength > 0 && terms.weightsPoints <= terms.proofLength / POINT_SIZE,
            InvalidConfiguration("proofLength")
        );
        raw = raw_;
        circuitId = terms.circuitId;
        weights = terms.weights;
        weightsMode = terms.weightsMode;
        weightsPoints = terms.weightsPoints;
        committedInput = terms.committedInput;
        inputCount = terms.inputCount;
        outputCount = terms.outputCount;
        proofLength = terms.proofLength;
    }

    /// @inheritdoc IProofVerifier
    function verify(Claim calldata claim, bytes calldata proof) external view {
        require(claim.circuitId == circuitId, WrongCircuit(circuitId, claim.circuitId));
        require(claim.weights == weights && proof.length == proofLength, ProofInvalid(circuitId));
        if (weightsMode == Weights.Polycommit) {
            bytes calldata points = proof[:POINT_SIZE * weightsPoints];
            require(keccak256(bytes.concat(POLYCOMMIT_TAG, points)) == weights, ProofInvalid(circuitId));
        }
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
        uint256 hashes = weightsMode == Weights.Hashed ? 1 : 0;
        instances = new uint256[](hashes + inputs + outputs);
        if (hashes > 0) instances[committedInput ? 1 : 0] = uint256(weights);
        if (committedInput) {
            uint256 commitment = uint256(bytes32(claim.input));
            require(commitment < FixedPoint.R, ProofInvalid(circuitId));
            instances[0] = commitment;
        } else {
            for (uint256 i = 0; i < inputs; ++i) {
                int64 word = int64(uint64(bytes8(claim.input[8 * i:8 * i + 8])));
                instances[hashes + i] = FixedPoint.toField(word);
            }
        }
        for (uint256 i = 0; i < outputs; ++i) {
            int256 value = claim.outputs[i];
            require(
                value > -FixedPoint.OUTPUT_BOUND && value < FixedPoint.OUTPUT_BOUND, ProofInvalid(circuitId)
            );
            instances[hashes + inputs + i] = FixedPoint.toField(value);
        }
    }
}

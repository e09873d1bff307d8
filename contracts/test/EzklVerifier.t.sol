// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EzklVerifier, IHalo2Verifier} from "../src/EzklVerifier.sol";
import {Claim, IProofVerifier} from "../src/interfaces/IProofVerifier.sol";
import {FixedPoint} from "../src/libraries/FixedPoint.sol";
import {EzklFixture} from "./base/EzklFixture.sol";

contract SaysFalse {
    function verifyProof(bytes calldata, uint256[] calldata) external pure returns (bool) {
        return false;
    }
}

contract EzklVerifierTest is EzklFixture {
    EzklVerifier private committed;
    EzklVerifier private open;
    Proven private first;
    Proven private second;
    Proven private otherWeights;
    Proven private openFirst;

    function setUp() public {
        committed = deployCommitted();
        open = deployPublic();
        first = proven(committedJson, "first");
        second = proven(committedJson, "second");
        otherWeights = proven(committedJson, "other_weights");
        openFirst = proven(publicJson, "first");
    }

    function test_AcceptsProofsOfBothInputModes() public view {
        committed.verify(first.claim, first.proof);
        committed.verify(second.claim, second.proof);
        open.verify(openFirst.claim, openFirst.proof);
        Proven memory openSecond = proven(publicJson, "second");
        open.verify(openSecond.claim, openSecond.proof);
    }

    // --- weights

    function test_RevertWhen_ProofIsOfOtherWeights() public {
        // The proof is good, and good under this very verifying key …
        vm.assertTrue(IHalo2Verifier(committed.raw()).verifyProof(otherWeights.proof, otherWeights.instances));
        // … but not of the pinned weights, neither named honestly …
        _refused(committed, otherWeights.claim, otherWeights.proof);
        // … nor passed off as them.
        otherWeights.claim.weights = committed.weights();
        _refused(committed, otherWeights.claim, otherWeights.proof);

        Proven memory openOther = proven(publicJson, "other_weights");
        vm.assertTrue(IHalo2Verifier(open.raw()).verifyProof(openOther.proof, openOther.instances));
        _refused(open, openOther.claim, openOther.proof);
        openOther.claim.weights = open.weights();
        _refused(open, openOther.claim, openOther.proof);
    }

    function testFuzz_RevertWhen_WeightsDiffer(bytes32 weights) public {
        vm.assume(weights != first.claim.weights);
        first.claim.weights = weights;
        _refused(committed, first.claim, first.proof);
    }

    // --- circuit

    function testFuzz_RevertWhen_CircuitDiffers(bytes32 circuitId) public {
        vm.assume(circuitId != CIRCUIT);
        first.claim.circuitId = circuitId;
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.WrongCircuit.selector, CIRCUIT, circuitId));
        committed.verify(first.claim, first.proof);
    }

    // --- input

    function testFuzz_RevertWhen_CommitmentDiffers(bytes32 commitment) public {
        vm.assume(commitment != bytes32(first.claim.input));
        first.claim.input = abi.encode(commitment);
        _refused(committed, first.claim, first.proof);
    }

    function test_RevertWhen_InputIsOfAnotherProof() public {
        first.claim.input = second.claim.input;
        _refused(committed, first.claim, first.proof);
    }

    function test_RevertWhen_CommitmentIsShiftedByTheFieldOrder() public {
        first.claim.input = abi.encode(uint256(bytes32(first.claim.input)) + FixedPoint.R);
        _refused(committed, first.claim, first.proof);
    }

    function test_RevertWhen_CommitmentIsNot32Bytes() public {
        bytes memory input = first.claim.input;
        first.claim.input = abi.encodePacked(input, hex"00");
        _refused(committed, first.claim, first.proof);
        first.claim.input = "";
        _refused(committed, first.claim, first.proof);
        first.claim.input = abi.encodePacked(bytes31(bytes32(input)));
        _refused(committed, first.claim, first.proof);
    }

    function testFuzz_RevertWhen_AnInputWordDiffers(uint256 word, int64 value) public {
        word = bound(word, 0, 3);
        bytes memory input = openFirst.claim.input;
        bytes8 mutated = bytes8(uint64(value));
        bool same = true;
        for (uint256 i = 0; i < 8; ++i) {
            same = same && input[8 * word + i] == mutated[i];
            input[8 * word + i] = mutated[i];
        }
        vm.assume(!same);
        openFirst.claim.input = input;
        _refused(open, openFirst.claim, openFirst.proof);
    }

    function test_RevertWhen_PublicInputHasAnotherLength() public {
        bytes memory input = openFirst.claim.input;
        openFirst.claim.input = abi.encodePacked(input, bytes8(0));
        _refused(open, openFirst.claim, openFirst.proof);
        openFirst.claim.input = abi.encodePacked(input, bytes1(0));
        _refused(open, openFirst.claim, openFirst.proof);
        openFirst.claim.input = abi.encodePacked(bytes24(bytes32(input)));
        _refused(open, openFirst.claim, openFirst.proof);
    }

    // --- outputs

    function testFuzz_RevertWhen_AnOutputDiffers(uint256 index, int256 value) public {
        index = bound(index, 0, 2);
        vm.assume(value != first.claim.outputs[index]);
        first.claim.outputs[index] = value;
        _refused(committed, first.claim, first.proof);
    }

    function test_RevertWhen_AnOutputIsOffByOne() public {
        for (uint256 i = 0; i < 3; ++i) {
            Claim memory claim = proven(committedJson, "first").claim;
            claim.outputs[i] += 1;
            _refused(committed, claim, first.proof);
            claim.outputs[i] -= 2;
            _refused(committed, claim, first.proof);
        }
    }

    function test_RevertWhen_AnOutputIsShiftedByTheFieldOrder() public {
        for (uint256 i = 0; i < 3; ++i) {
            Claim memory claim = proven(committedJson, "first").claim;
            claim.outputs[i] += int256(FixedPoint.R);
            _refused(committed, claim, first.proof);
            claim.outputs[i] -= 2 * int256(FixedPoint.R);
            _refused(committed, claim, first.proof);
        }
    }

    function test_RevertWhen_OutputsAreSwapped() public {
        (first.claim.outputs[0], first.claim.outputs[1]) = (first.claim.outputs[1], first.claim.outputs[0]);
        _refused(committed, first.claim, first.proof);
    }

    function test_RevertWhen_OutputsAreMissingOrExtra() public {
        first.claim.outputs.pop();
        _refused(committed, first.claim, first.proof);
        first.claim.outputs = new int256[](0);
        _refused(committed, first.claim, first.proof);
        first.claim.outputs = proven(committedJson, "first").claim.outputs;
        first.claim.outputs.push(0);
        _refused(committed, first.claim, first.proof);
    }

    // --- proof bytes

    function testFuzz_RevertWhen_AProofByteFlips(uint256 position, uint8 mask) public {
        vm.assume(mask != 0);
        bytes memory proof = first.proof;
        position = bound(position, 0, proof.length - 1);
        proof[position] ^= bytes1(mask);
        _refused(committed, first.claim, proof);
    }

    /// One word of every commitment, evaluation and opening: incremented, zeroed, and moved by the
    /// order of the scalar and of the base field.
    function test_RevertWhen_AProofWordIsMutated() public view {
        uint256 q = 21888242871839275222246405745257275088696311157297823662689037894645226208583;
        uint256 words = first.proof.length / 32;
        bytes memory proof = first.proof;
        for (uint256 i = 0; i < words; ++i) {
            uint256 original = _word(proof, i);
            uint256[4] memory mutants;
            unchecked {
                mutants = [original + 1, 0, original + FixedPoint.R, original + q];
            }
            for (uint256 j = 0; j < 4; ++j) {
                if (mutants[j] == original) continue;
                _setWord(proof, i, mutants[j]);
                vm.assertFalse(_accepts(first.claim, proof));
            }
            _setWord(proof, i, original);
        }
        vm.assertTrue(_accepts(first.claim, proof));
    }

    function test_RevertWhen_ProofIsTruncated() public {
        bytes memory proof = first.proof;
        uint256 size = proof.length;
        uint256[4] memory cuts = [uint256(1), 31, 32, size];
        for (uint256 i = 0; i < cuts.length; ++i) {
            assembly ("memory-safe") {
                mstore(proof, sub(size, mload(add(cuts, mul(i, 0x20)))))
            }
            _refused(committed, first.claim, proof);
        }
    }

    function test_RevertWhen_ProofIsExtended() public {
        _refused(committed, first.claim, abi.encodePacked(first.proof, hex"00"));
        _refused(committed, first.claim, abi.encodePacked(first.proof, bytes32(0)));
        _refused(committed, first.claim, abi.encodePacked(first.proof, first.proof));
    }

    function test_RevertWhen_ProofIsOfAnotherClaim() public {
        _refused(committed, first.claim, second.proof);
        _refused(committed, first.claim, openFirst.proof);
    }

    // --- verifier

    function test_RevertWhen_VerifierReturnsFalse() public {
        EzklVerifier doubtful = adapter(address(new SaysFalse()), committedJson, true);
        _refused(doubtful, first.claim, first.proof);
    }

    /// A revert for want of gas looks like an invalid proof: it is no evidence of one.
    function test_RevertWhen_GasRunsOut() public {
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, CIRCUIT));
        committed.verify{gas: 300_000}(first.claim, first.proof);
        committed.verify(first.claim, first.proof);
    }

    function test_RevertWhen_ConfigurationIsImpossible() public {
        address raw = committed.raw();
        EzklVerifier.Terms memory sound = terms(committedJson, true);
        _impossible("raw", address(1), sound);
        sound.weights = bytes32(FixedPoint.R);
        _impossible("weights", raw, sound);
        sound = terms(committedJson, true);
        sound.inputCount = 2;
        _impossible("inputCount", raw, sound);
        sound.committedInput = false;
        sound.inputCount = 0;
        _impossible("inputCount", raw, sound);
        sound = terms(committedJson, true);
        sound.outputCount = 0;
        _impossible("outputCount", raw, sound);
        sound = terms(committedJson, true);
        sound.proofLength = 0;
        _impossible("proofLength", raw, sound);
        sound = terms(committedJson, true);
        sound.weightsPoints = 1;
        _impossible("weightsPoints", raw, sound);
        sound.weightsMode = EzklVerifier.Weights.Fixed;
        _impossible("weightsPoints", raw, sound);
        sound = terms(polycommitJson, false);
        sound.weightsPoints = 0;
        _impossible("weightsPoints", raw, sound);
        sound.weightsPoints = sound.proofLength / 64 + 1;
        _impossible("proofLength", raw, sound);
        sound.weightsPoints = type(uint256).max;
        _impossible("proofLength", raw, sound);
    }

    function _impossible(string memory field, address raw, EzklVerifier.Terms memory asked) private {
        vm.expectRevert(abi.encodeWithSelector(EzklVerifier.InvalidConfiguration.selector, field));
        new EzklVerifier(raw, asked);
    }

    function _refused(EzklVerifier verifier, Claim memory claim, bytes memory proof) private {
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, CIRCUIT));
        verifier.verify(claim, proof);
    }

    function _accepts(Claim memory claim, bytes memory proof) private view returns (bool) {
        // A failed precompile eats all the gas that it is given.
        try committed.verify{gas: 3_000_000}(claim, proof) {
            return true;
        } catch {
            return false;
        }
    }

    function _word(bytes memory data, uint256 index) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 0x20), mul(index, 0x20)))
        }
    }

    function _setWord(bytes memory data, uint256 index, uint256 word) private pure {
        assembly ("memory-safe") {
            mstore(add(add(data, 0x20), mul(index, 0x20)), word)
        }
    }
}

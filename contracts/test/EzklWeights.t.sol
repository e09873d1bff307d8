// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EzklVerifier, IHalo2Verifier} from "../src/EzklVerifier.sol";
import {Claim, IProofVerifier} from "../src/interfaces/IProofVerifier.sol";
import {EzklFixture} from "./base/EzklFixture.sol";

/// @dev Weights modes that leak bind the weights all the same: real proofs of two models of one
/// architecture. `fixed` has a committed input here, `polycommit` a public one.
contract EzklWeightsTest is EzklFixture {
    EzklVerifier private fixed_;
    EzklVerifier private polycommit;
    Proven private fixedFirst;
    Proven private polycommitFirst;
    Proven private fixedOther;
    Proven private polycommitOther;

    function setUp() public {
        fixed_ = deployFixed();
        polycommit = deployPolycommit();
        fixedFirst = proven(fixedJson, "first");
        polycommitFirst = proven(polycommitJson, "first");
        fixedOther = proven(fixedJson, "other_weights");
        polycommitOther = proven(polycommitJson, "other_weights");
    }

    function test_AcceptsProofsOfBothModes() public view {
        fixed_.verify(fixedFirst.claim, fixedFirst.proof);
        Proven memory second = proven(fixedJson, "second");
        fixed_.verify(second.claim, second.proof);
        polycommit.verify(polycommitFirst.claim, polycommitFirst.proof);
        second = proven(polycommitJson, "second");
        polycommit.verify(second.claim, second.proof);
    }

    /// The generated verifier says yes to any weights: only the first point of the proof tells them.
    function test_RevertWhen_ProofIsOfOtherPolycommitWeights() public {
        IHalo2Verifier raw = IHalo2Verifier(polycommit.raw());
        vm.assertTrue(raw.verifyProof(polycommitOther.proof, polycommitOther.instances));
        vm.assertFalse(polycommitOther.claim.weights == polycommit.weights());
        _refused(polycommit, polycommitOther.claim, polycommitOther.proof);
        polycommitOther.claim.weights = polycommit.weights();
        _refused(polycommit, polycommitOther.claim, polycommitOther.proof);
        // With the pinned point in front of them, the other weights' bytes are no proof at all.
        for (uint256 i = 0; i < 64; ++i) {
            polycommitOther.proof[i] = polycommitFirst.proof[i];
        }
        _refused(polycommit, polycommitOther.claim, polycommitOther.proof);
    }

    /// The other weights' proof is good under its own verifying key, and under no other.
    function test_RevertWhen_ProofIsOfOtherFixedWeights() public {
        vm.assertFalse(fixedOther.claim.weights == fixed_.weights());
        _refused(fixed_, fixedOther.claim, fixedOther.proof);
        fixedOther.claim.weights = fixed_.weights();
        _refused(fixed_, fixedOther.claim, fixedOther.proof);
        IHalo2Verifier raw = IHalo2Verifier(fixed_.raw());
        try raw.verifyProof{gas: 3_000_000}(fixedOther.proof, fixedOther.instances) returns (bool valid) {
            vm.assertFalse(valid);
        } catch {}
    }

    /// An adapter of the same generated verifier that pins other weights refuses what was proven.
    function test_RevertWhen_AdapterPinsOtherWeights() public {
        EzklVerifier.Terms memory asked = terms(polycommitJson, false);
        asked.weights = polycommitOther.claim.weights;
        EzklVerifier other = new EzklVerifier(polycommit.raw(), asked);
        other.verify(polycommitOther.claim, polycommitOther.proof);
        _refused(other, polycommitFirst.claim, polycommitFirst.proof);
        polycommitFirst.claim.weights = asked.weights;
        _refused(other, polycommitFirst.claim, polycommitFirst.proof);
    }

    function testFuzz_RevertWhen_ClaimNamesOtherWeights(bytes32 weights) public {
        vm.assume(weights != fixedFirst.claim.weights && weights != polycommitFirst.claim.weights);
        fixedFirst.claim.weights = weights;
        _refused(fixed_, fixedFirst.claim, fixedFirst.proof);
        polycommitFirst.claim.weights = weights;
        _refused(polycommit, polycommitFirst.claim, polycommitFirst.proof);
    }

    function testFuzz_RevertWhen_AByteOfTheCommitmentFlips(uint256 position, uint8 mask) public {
        vm.assume(mask != 0);
        position = bound(position, 0, 63);
        polycommitFirst.proof[position] ^= bytes1(mask);
        _refused(polycommit, polycommitFirst.claim, polycommitFirst.proof);
    }

    function test_RevertWhen_AnOutputIsOffByOne() public {
        for (uint256 i = 0; i < 3; ++i) {
            Claim memory claim = proven(fixedJson, "first").claim;
            claim.outputs[i] += 1;
            _refused(fixed_, claim, fixedFirst.proof);
            claim = proven(polycommitJson, "first").claim;
            claim.outputs[i] += 1;
            _refused(polycommit, claim, polycommitFirst.proof);
        }
    }

    function test_RevertWhen_InputIsOfAnotherProof() public {
        fixedFirst.claim.input = proven(fixedJson, "second").claim.input;
        _refused(fixed_, fixedFirst.claim, fixedFirst.proof);
        polycommitFirst.claim.input = proven(polycommitJson, "second").claim.input;
        _refused(polycommit, polycommitFirst.claim, polycommitFirst.proof);
    }

    function _refused(EzklVerifier verifier, Claim memory claim, bytes memory proof) private {
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, CIRCUIT));
        verifier.verify{gas: 5_000_000}(claim, proof);
    }
}

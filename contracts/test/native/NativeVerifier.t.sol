// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Claim, IProofVerifier} from "../../src/interfaces/IProofVerifier.sol";
import {Case, NativeFixture} from "./NativeFixture.sol";

contract NativeVerifierTest is NativeFixture {
    /// @dev A precompile that fails takes what it is given.
    uint256 private constant LIMIT = 1_000_000;

    IProofVerifier private open;
    IProofVerifier private hidden;
    Claim private claim;
    bytes private proof;

    function setUp() public {
        open = deployPublic(registryOf(publicJson), versionOf(publicJson));
        hidden = deployHidden();
        claim = claimOf(publicJson);
        proof = proofOf(publicJson);
    }

    function test_AcceptsProofsOfBothInputModes() public {
        open.verify(claim, proof);
        vm.snapshotGasLastCall("gas", "verify_native_public_input");
        hidden.verify(claimOf(hiddenJson), proofOf(hiddenJson));
        vm.snapshotGasLastCall("gas", "verify_native_hidden_input");
    }

    function test_AcceptsAnyEncodingOfTheSameClaim() public view {
        // The proof in front of the claim, and a hole between them: other offsets, the same values.
        bytes memory tail = bytes.concat(_padded(proof), new bytes(64));
        bytes memory encoded = abi.encode(claim);
        bytes memory data = bytes.concat(
            IProofVerifier.verify.selector,
            bytes32(64 + tail.length),
            bytes32(uint256(64)),
            tail,
            _body(encoded)
        );
        (bool accepted,) = address(open).staticcall(data);
        vm.assertTrue(accepted);
    }

    // --- the vectors

    function test_RevertWhen_TheVectorIsEdited() public {
        Case[] memory cases = casesOf(publicJson);
        vm.assertLt(100, cases.length);
        for (uint256 i = 0; i < cases.length; ++i) {
            _refusesCase(open, publicJson, cases[i]);
        }
    }

    function test_RevertWhen_TheHiddenVectorIsEdited() public {
        Case[] memory cases = casesOf(hiddenJson);
        vm.assertLt(50, cases.length);
        for (uint256 i = 0; i < cases.length; ++i) {
            _refusesCase(hidden, hiddenJson, cases[i]);
        }
    }

    // --- proof

    function testFuzz_RevertWhen_AByteOfTheProofDiffers(uint256 place, uint256 flip) public {
        place = bound(place, 0, proof.length - 1);
        proof[place] = bytes1(uint8(proof[place]) ^ uint8(bound(flip, 1, 255)));
        _refused(open, claim, proof);
    }

    function testFuzz_RevertWhen_AWordOfTheProofIsAnother(uint256 place, bytes32 word) public {
        place = bound(place, 0, proof.length - 32);
        bytes memory edited = proof;
        assembly ("memory-safe") {
            mstore(add(add(edited, 32), place), word)
        }
        vm.assume(keccak256(edited) != keccak256(proof));
        _refused(open, claim, edited);
    }

    function testFuzz_RevertWhen_TheProofHasAnotherLength(uint256 length) public {
        length = bound(length, 0, proof.length + 64);
        vm.assume(length != proof.length);
        bytes memory other = new bytes(length);
        for (uint256 i = 0; i < length && i < proof.length; ++i) {
            other[i] = proof[i];
        }
        _refused(open, claim, other);
    }

    function test_RevertWhen_TheProofIsOfTheOtherInputMode() public {
        _refused(open, claimOf(hiddenJson), proofOf(hiddenJson));
        _refused(open, claim, proofOf(hiddenJson));
        _refused(hidden, claim, proof);
    }

    // --- claim

    function testFuzz_RevertWhen_WeightsDiffer(bytes32 weights) public {
        vm.assume(weights != claim.weights);
        claim.weights = weights;
        _refused(open, claim, proof);
    }

    function testFuzz_RevertWhen_CircuitDiffers(bytes32 circuitId) public {
        vm.assume(circuitId != CIRCUIT);
        claim.circuitId = circuitId;
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.WrongCircuit.selector, CIRCUIT, circuitId));
        open.verify(claim, proof);
    }

    function testFuzz_RevertWhen_AnInputByteDiffers(uint256 place, uint256 flip) public {
        place = bound(place, 0, claim.input.length - 1);
        claim.input[place] = bytes1(uint8(claim.input[place]) ^ uint8(bound(flip, 1, 255)));
        _refused(open, claim, proof);
    }

    function testFuzz_RevertWhen_TheCommitmentDiffers(bytes32 commitment) public {
        claim = claimOf(hiddenJson);
        vm.assume(commitment != bytes32(claim.input));
        claim.input = abi.encode(commitment);
        _refused(hidden, claim, proofOf(hiddenJson));
    }

    function testFuzz_RevertWhen_AnOutputDiffers(uint256 place, int256 value) public {
        place = bound(place, 0, claim.outputs.length - 1);
        vm.assume(value != claim.outputs[place]);
        claim.outputs[place] = value;
        _refused(open, claim, proof);
    }

    function test_RevertWhen_OutputsAreSwapped() public {
        (claim.outputs[0], claim.outputs[1]) = (claim.outputs[1], claim.outputs[0]);
        _refused(open, claim, proof);
    }

    // --- registration

    function testFuzz_RevertWhen_TheVerifierIsOfAnotherVersion(uint256 version) public {
        vm.assume(version != versionOf(publicJson));
        _refused(deployPublic(registryOf(publicJson), version), claim, proof);
    }

    function testFuzz_RevertWhen_TheVerifierIsOfAnotherRegistry(address registry) public {
        vm.assume(registry != registryOf(publicJson));
        _refused(deployPublic(registry, versionOf(publicJson)), claim, proof);
    }

    function test_RevertWhen_DeployedOnAnotherChain() public {
        uint256 here = block.chainid;
        vmNative.chainId(here + 1);
        IProofVerifier elsewhere = deployPublic(registryOf(publicJson), versionOf(publicJson));
        _refused(elsewhere, claim, proof);
        vmNative.chainId(here);
        _refused(elsewhere, claim, proof);
    }

    function test_RevertWhen_TheChainIsForked() public {
        vmNative.chainId(block.chainid + 1);
        _refused(open, claim, proof);
    }

    // --- the call

    function testFuzz_NeverAcceptsWithTooLittleGas(uint256 gasLimit) public view {
        (bool accepted,) = address(open).staticcall{gas: bound(gasLimit, 0, 200_000)}(
            abi.encodeCall(IProofVerifier.verify, (claim, proof))
        );
        vm.assertFalse(accepted);
    }

    function testFuzz_RevertWhen_CalldataIsCut(uint256 length) public view {
        bytes memory data = abi.encodeCall(IProofVerifier.verify, (claim, proof));
        // Only the last bytes are padding, which nobody has to send.
        length = bound(length, 0, data.length - 33);
        assembly ("memory-safe") {
            mstore(data, length)
        }
        (bool accepted,) = address(open).staticcall(data);
        vm.assertFalse(accepted);
    }

    function _refusesCase(IProofVerifier verifier, string memory json, Case memory edit) private {
        bytes32 field = keccak256(bytes(edit.field));
        Claim memory edited = claimOf(json);
        bytes memory given = proofOf(json);
        if (field == keccak256("context")) {
            return; // what a verifier expects is fixed when it is deployed
        } else if (field == keccak256("proof")) {
            _put(given, edit);
        } else if (field == keccak256("length")) {
            given = _resized(given, edit.at);
        } else if (field == keccak256("input")) {
            _put(edited.input, edit);
        } else if (field == keccak256("input_length")) {
            edited.input = _resized(edited.input, edit.at);
        } else if (field == keccak256("outputs")) {
            edited.outputs[edit.at] = abi.decode(edit.data, (int256));
        } else if (field == keccak256("outputs_length")) {
            int256[] memory outputs = new int256[](edit.at);
            for (uint256 i = 0; i < edit.at && i < edited.outputs.length; ++i) {
                outputs[i] = edited.outputs[i];
            }
            edited.outputs = outputs;
        } else {
            vm.assertEq(field, keccak256("weights"));
            edited.weights = bytes32(edit.data);
        }
        _refused(verifier, edited, given);
    }

    function _refused(IProofVerifier verifier, Claim memory given, bytes memory with) private {
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, CIRCUIT));
        verifier.verify{gas: LIMIT}(given, with);
    }

    function _put(bytes memory target, Case memory edit) private pure {
        for (uint256 i = 0; i < edit.data.length; ++i) {
            target[edit.at + i] = edit.data[i];
        }
    }

    function _resized(bytes memory data, uint256 length) private pure returns (bytes memory resized) {
        resized = new bytes(length);
        for (uint256 i = 0; i < length && i < data.length; ++i) {
            resized[i] = data[i];
        }
    }

    /// @dev The length and the bytes, filled to whole words.
    function _padded(bytes memory data) private pure returns (bytes memory) {
        return bytes.concat(bytes32(data.length), data, new bytes((32 - data.length % 32) % 32));
    }

    /// @dev An encoded struct without the offset in front.
    function _body(bytes memory encoded) private pure returns (bytes memory body) {
        body = new bytes(encoded.length - 32);
        for (uint256 i = 0; i < body.length; ++i) {
            body[i] = encoded[i + 32];
        }
    }
}

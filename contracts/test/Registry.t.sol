// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {IModelRegistry} from "../src/interfaces/IModelRegistry.sol";
import {IProofVerifier} from "../src/interfaces/IProofVerifier.sol";
import {MarketTest} from "./base/MarketTest.sol";

/// @dev What registering, updating and deprecating do; ownership has a file of its own.
contract RegistryTest is MarketTest {
    function test_RegistersVersionOne() public {
        bytes32 lineage = registry.lineageOf(REQUESTER, "model");
        uint256 expected = registry.versionId(lineage, 1);
        vm.expectEmit();
        emit IModelRegistry.ModelRegistered(expected, REQUESTER, lineage, 1, "model", "c");
        vm.prank(REQUESTER);
        uint256 id = registry.registerModel("model", commitment("c"), binding(verifier, "w"));

        vm.assertEq(id, expected);
        vm.assertEq(id, uint256(keccak256(abi.encode(lineage, uint32(1)))));
        vm.assertEq(registry.latest(lineage), id);
        vm.assertEq(registry.ownerOf(id), REQUESTER);
        IModelRegistry.Version memory made = registry.getVersion(id);
        vm.assertEq(made.lineage, lineage);
        vm.assertEq(made.number, 1);
        vm.assertEq(made.publishedAt, block.timestamp);
        vm.assertFalse(made.deprecated);
        vm.assertEq(abi.encode(made.commitment), abi.encode(commitment("c")));
        vm.assertEq(abi.encode(made.binding), abi.encode(binding(verifier, "w")));
        vm.assertEq(abi.encode(registry.getModel(id)), abi.encode(commitment("c")));
    }

    function test_SameNameOfAnotherOwnerIsAnotherModel() public {
        vm.prank(REQUESTER);
        uint256 id = registry.registerModel("model", commitment("c"), binding(verifier, "w"));
        vm.assertNotEq(id, modelId);
        vm.assertEq(registry.ownerOf(modelId), OWNER);
    }

    function test_RevertWhen_NameIsTaken() public {
        bytes32 lineage = registry.lineageOf(OWNER, "model");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NameTaken.selector, lineage));
        vm.prank(OWNER);
        registry.registerModel("model", commitment("c"), binding(verifier, "w"));
    }

    function test_UpdatePublishesTheNextVersionAndKeepsTheOld() public {
        bytes memory before = abi.encode(registry.getVersion(modelId));
        bytes32 lineage = registry.lineageOf(OWNER, "model");
        uint256 expected = registry.versionId(lineage, 2);
        vm.expectEmit();
        emit IModelRegistry.ModelRegistered(expected, OWNER, lineage, 2, "model", "c2");
        vm.startPrank(OWNER);
        uint256 second = registry.updateModel(modelId, commitment("c2"), binding(verifier, "w2"));
        vm.assertEq(second, expected);
        vm.assertEq(registry.latest(lineage), second);
        vm.assertEq(abi.encode(registry.getVersion(modelId)), before);
        vm.assertEq(registry.getVersion(second).number, 2);
        // From any version of the lineage, the next is the newest plus one.
        uint256 third = registry.updateModel(modelId, commitment("c3"), binding(verifier, "w3"));
        vm.assertEq(third, registry.versionId(lineage, 3));
    }

    function testFuzz_RevertWhen_StrangerUpdates(address stranger) public {
        vm.assume(stranger != OWNER);
        _notOwner(stranger);
        vm.prank(stranger);
        registry.updateModel(modelId, commitment("c"), binding(verifier, "w"));
    }

    function test_DeprecateRaisesTheFlagAndNothingElse() public {
        IModelRegistry.Version memory expected = registry.getVersion(modelId);
        expected.deprecated = true;
        vm.expectEmit();
        emit IModelRegistry.ModelDeprecated(modelId, OWNER);
        vm.startPrank(OWNER);
        registry.deprecateModel(modelId);
        vm.assertEq(abi.encode(registry.getVersion(modelId)), abi.encode(expected));
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.AlreadyDeprecated.selector, modelId));
        registry.deprecateModel(modelId);
    }

    function testFuzz_RevertWhen_StrangerDeprecates(address stranger) public {
        vm.assume(stranger != OWNER);
        _notOwner(stranger);
        vm.prank(stranger);
        registry.deprecateModel(modelId);
    }

    function test_RevertWhen_AFieldIsMissing() public {
        IModelRegistry.ModelCommitment memory made = commitment("c");
        made.modelHash = 0;
        _invalid("modelHash", "n", made, binding(verifier, "w"));
        made = commitment("c");
        made.vkHash = 0;
        _invalid("vkHash", "n", made, binding(verifier, "w"));
        made = commitment("c");
        made.proofSystemId = 0;
        _invalid("proofSystemId", "n", made, binding(verifier, "w"));
        _invalid("circuitHash", "n", commitment(0), binding(verifier, "w"));
        _invalid("name", "", commitment("c"), binding(verifier, "w"));
        _invalid("weights", "n", commitment("c"), binding(verifier, 0));
        _invalid("verifier", "n", commitment("c"), binding(IProofVerifier(REQUESTER), "w"));
        IModelRegistry.Binding memory bound_ = binding(verifier, "w");
        bound_.outputMultiplier = 0;
        _invalid("outputMultiplier", "n", commitment("c"), bound_);
        bound_ = binding(verifier, "w");
        bound_.outputShift = 128;
        _invalid("outputShift", "n", commitment("c"), bound_);
    }

    function test_RevertWhen_VersionIsUnknown() public {
        bytes memory unknown = abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, 7);
        vm.expectRevert(unknown);
        registry.getModel(7);
        vm.expectRevert(unknown);
        registry.getVersion(7);
        vm.expectRevert(unknown);
        registry.ownerOf(7);
        vm.expectRevert(unknown);
        registry.deprecateModel(7);
        vm.expectRevert(unknown);
        registry.updateModel(7, commitment("c"), binding(verifier, "w"));
        vm.expectRevert(unknown);
        registry.verifyInference(7, INPUT, outputs, "");
        vm.assertEq(registry.latest("nothing"), 0);
    }

    function test_VerifyInference() public {
        bytes memory proof = proofOf(INPUT, outputs);
        registry.verifyInference(modelId, INPUT, outputs, proof);
        // What was proved stays true.
        vm.prank(OWNER);
        registry.deprecateModel(modelId);
        registry.verifyInference(modelId, INPUT, outputs, proof);
    }

    function test_RevertWhen_InferenceIsOfOtherInputOrWeightsOrCircuit() public {
        bytes memory proof = proofOf(INPUT, outputs);
        vm.startPrank(OWNER);
        uint256 otherWeights = registry.updateModel(modelId, commitment("circuit"), binding(verifier, "w"));
        uint256 otherCircuit = registry.updateModel(modelId, commitment("c"), binding(verifier, "weights"));
        vm.stopPrank();
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, bytes32("circuit")));
        registry.verifyInference(modelId, hex"0103", outputs, proof);
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, bytes32("circuit")));
        registry.verifyInference(otherWeights, INPUT, outputs, proof);
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, bytes32("c")));
        registry.verifyInference(otherCircuit, INPUT, outputs, proof);
    }

    function test_SupportsInterfaces() public view {
        vm.assertTrue(registry.supportsInterface(type(IERC165).interfaceId));
        vm.assertTrue(registry.supportsInterface(type(IModelRegistry).interfaceId));
        vm.assertFalse(registry.supportsInterface(0xffffffff));
    }

    function _notOwner(address stranger) private {
        bytes32 lineage = registry.lineageOf(OWNER, "model");
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NotModelOwner.selector, lineage, stranger));
    }

    function _invalid(
        string memory field,
        string memory name,
        IModelRegistry.ModelCommitment memory made,
        IModelRegistry.Binding memory bound_
    ) private {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.InvalidCommitment.selector, field));
        registry.registerModel(name, made, bound_);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "../src/interfaces/IModelRegistry.sol";
import {MarketTest} from "./base/MarketTest.sol";

contract OwnershipTest is MarketTest {
    address private constant SUCCESSOR = address(0x5CC);
    bytes32 private lineage;

    function setUp() public override {
        super.setUp();
        lineage = registry.lineageOf(OWNER, "model");
    }

    function test_TakesTwoSteps() public {
        _offer(SUCCESSOR);
        vm.assertEq(registry.ownerOf(modelId), OWNER);
        vm.expectEmit();
        emit IModelRegistry.OwnershipTransferred(lineage, OWNER, SUCCESSOR);
        vm.prank(SUCCESSOR);
        registry.acceptOwnership(lineage);
        vm.assertEq(registry.ownerOf(modelId), SUCCESSOR);

        _refuse(OWNER);
        vm.prank(OWNER);
        registry.deprecateModel(modelId);
        vm.prank(SUCCESSOR);
        registry.updateModel(modelId, commitment("c"), binding(verifier, "w"));
        // The offer is used up.
        _refuse(SUCCESSOR);
        vm.prank(SUCCESSOR);
        registry.acceptOwnership(lineage);
    }

    /// The lineage's id is of its first owner's making, and stays taken.
    function test_RevertWhen_FirstOwnerRegistersTheNameAgain() public {
        _offer(SUCCESSOR);
        vm.prank(SUCCESSOR);
        registry.acceptOwnership(lineage);
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NameTaken.selector, lineage));
        vm.prank(OWNER);
        registry.registerModel("model", commitment("c"), binding(verifier, "w"));
    }

    function test_AnOfferCanBeTakenBack() public {
        _offer(SUCCESSOR);
        _offer(address(0));
        _refuse(SUCCESSOR);
        vm.prank(SUCCESSOR);
        registry.acceptOwnership(lineage);
    }

    function testFuzz_RevertWhen_StrangerOffersOrAccepts(address stranger) public {
        vm.assume(stranger != OWNER && stranger != SUCCESSOR);
        _offer(SUCCESSOR);
        vm.startPrank(stranger);
        _refuse(stranger);
        registry.offerOwnership(lineage, stranger);
        _refuse(stranger);
        registry.acceptOwnership(lineage);
    }

    function test_NewOwnerIsPaidForNewRequests() public {
        _offer(SUCCESSOR);
        vm.prank(SUCCESSOR);
        registry.acceptOwnership(lineage);
        fulfil(request());
        vm.assertEq(market.owed(SUCCESSOR), PRICE);
        vm.assertEq(market.owed(OWNER), 0);
    }

    function _offer(address to) private {
        vm.expectEmit();
        emit IModelRegistry.OwnershipOffered(lineage, OWNER, to);
        vm.prank(OWNER);
        registry.offerOwnership(lineage, to);
    }

    function _refuse(address account) private {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.NotModelOwner.selector, lineage, account));
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {IProofVerifier} from "../src/interfaces/IProofVerifier.sol";
import {Claims} from "../src/libraries/Claims.sol";
import {MarketTest} from "./base/MarketTest.sol";

contract FulfilTest is MarketTest {
    function test_SettlesAndCreditsThePayee() public {
        uint256 id = request();
        bytes32 outputsHash = keccak256(abi.encodePacked(outputs));
        bytes32 digest = Claims.digest("circuit", "weights", keccak256(INPUT), outputsHash);
        vm.expectEmit();
        emit IPredictionMarket.Fulfilled(id, modelId, SUBMITTER, digest, outputs, true);
        fulfil(id);

        assertStatus(id, IPredictionMarket.Status.Fulfilled);
        vm.assertEq(market.getRequest(id).outputsHash, outputsHash);
        vm.assertFalse(market.getRequest(id).callbackPending);
        vm.assertEq(market.owed(OWNER), PRICE);
        vm.assertEq(address(market).balance, PRICE);
    }

    /// Who copies a proof from the mempool pays for the owner's settlement.
    function testFuzz_CopiedProofPaysTheOwner(address thief) public {
        vm.assume(thief != OWNER);
        uint256 id = request();
        bytes memory proof = proofOf(INPUT, outputs);
        vm.prank(thief);
        market.fulfil(id, INPUT, outputs, proof);
        vm.assertEq(market.owed(OWNER), PRICE);
        vm.assertEq(market.owed(thief), 0);

        vm.expectRevert(notOpen(id, IPredictionMarket.Status.Fulfilled));
        vm.prank(OWNER);
        market.fulfil(id, INPUT, outputs, proof);
        vm.assertEq(market.owed(OWNER), PRICE);
    }

    function test_RevertWhen_Replayed() public {
        uint256 id = request();
        fulfil(id);
        bytes memory proof = proofOf(INPUT, outputs);
        vm.expectRevert(notOpen(id, IPredictionMarket.Status.Fulfilled));
        market.fulfil(id, INPUT, outputs, proof);
        vm.assertEq(market.owed(OWNER), PRICE);
    }

    function test_RevertWhen_ProofOfAnotherRequestIsReplayed() public {
        fulfil(request());
        vm.prank(REQUESTER);
        uint256 id = market.request{value: PRICE}(modelId, hex"0103", 0, deadline());
        bytes memory proof = proofOf(INPUT, outputs);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.InputMismatch.selector, id));
        market.fulfil(id, INPUT, outputs, proof);
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, bytes32("circuit")));
        market.fulfil(id, hex"0103", outputs, proof);
    }

    function test_RevertWhen_RequestUnknown() public {
        bytes memory proof = proofOf(INPUT, outputs);
        vm.expectRevert(notOpen(1, IPredictionMarket.Status.None));
        market.fulfil(1, INPUT, outputs, proof);
    }

    function testFuzz_RevertWhen_InputIsNotTheRequested(bytes calldata input) public {
        vm.assume(keccak256(input) != keccak256(INPUT));
        uint256 id = request();
        bytes memory proof = proofOf(input, outputs);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.InputMismatch.selector, id));
        market.fulfil(id, input, outputs, proof);
    }

    function testFuzz_RevertWhen_OutputsAreNotTheProved(int256[] calldata other) public {
        vm.assume(keccak256(abi.encodePacked(other)) != keccak256(abi.encodePacked(outputs)));
        uint256 id = request();
        bytes memory proof = proofOf(INPUT, outputs);
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, bytes32("circuit")));
        market.fulfil(id, INPUT, other, proof);
        assertStatus(id, IPredictionMarket.Status.Open);
        vm.assertEq(market.owed(OWNER), 0);
    }

    function test_DeadlineIsTheLastMoment() public {
        uint256 id = request();
        vm.warp(deadline());
        fulfil(id);
        assertStatus(id, IPredictionMarket.Status.Fulfilled);
    }

    function test_RevertWhen_DeadlinePassed() public {
        uint64 last = deadline();
        uint256 id = request();
        bytes memory proof = proofOf(INPUT, outputs);
        vm.warp(last + 1);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.DeadlinePassed.selector, id, last));
        market.fulfil(id, INPUT, outputs, proof);
    }

    function test_RevertWhen_Refunded() public {
        uint256 id = request();
        uint64 last = deadline();
        vm.warp(last + 1);
        market.refund(id);
        bytes memory proof = proofOf(INPUT, outputs);
        vm.expectRevert(notOpen(id, IPredictionMarket.Status.Refunded));
        market.fulfil(id, INPUT, outputs, proof);
    }

    function test_DeprecatedVersionStillSettlesOpenRequests() public {
        uint256 id = request();
        vm.prank(OWNER);
        registry.deprecateModel(modelId);
        fulfil(id);
        vm.assertEq(market.owed(OWNER), PRICE);
    }
}

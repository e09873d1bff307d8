// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {SecondOpinion} from "../src/examples/SecondOpinion.sol";
import {MarketTest} from "./base/MarketTest.sol";

contract SecondOpinionTest is MarketTest {
    address private constant CLINIC = address(0xC1);
    uint256 private constant DEPOSIT = 3 ether;
    SecondOpinion private opinion;

    function setUp() public override {
        super.setUp();
        vm.prank(CLINIC);
        opinion = new SecondOpinion(market, modelId);
    }

    function testFuzz_DecidesByTheSignOfTheScore(int128 score) public {
        vm.assume(score != type(int128).min);
        outputs = [int256(score)];
        uint256 id = _ask();
        bool benign = score < 0;
        int256 scoreWad = (int256(score) * 1e18) >> 8;
        vm.expectEmit();
        emit SecondOpinion.DecisionMade(
            id, benign ? SecondOpinion.Decision.Benign : SecondOpinion.Decision.Malignant, scoreWad
        );
        fulfil(id);
        vm.assertFalse(market.getRequest(id).callbackPending);
        vm.assertEq(opinion.credits(REQUESTER), benign ? DEPOSIT : 0);
        vm.assertEq(opinion.credits(CLINIC), benign ? 0 : DEPOSIT);
    }

    function test_MalignantDepositGoesToTheClinic() public {
        outputs = [int256(76)];
        fulfil(_ask());
        vm.prank(CLINIC);
        opinion.collect();
        vm.assertEq(CLINIC.balance, DEPOSIT);
        vm.assertEq(address(opinion).balance, 0);
        vm.expectRevert(abi.encodeWithSelector(SecondOpinion.NothingToCollect.selector, CLINIC));
        vm.prank(CLINIC);
        opinion.collect();
    }

    function test_BenignDepositGoesBack() public {
        outputs = [int256(-76)];
        uint256 before = REQUESTER.balance;
        fulfil(_ask());
        vm.prank(REQUESTER);
        opinion.collect();
        vm.assertEq(REQUESTER.balance, before - PRICE);
    }

    function test_OutputsOfAnotherShapeDecideNothingAndFreeTheDeposit() public {
        uint256 id = _ask();
        vm.expectEmit();
        emit SecondOpinion.DecisionMade(id, SecondOpinion.Decision.Unanswered, 0);
        fulfil(id);
        vm.assertEq(opinion.credits(REQUESTER), DEPOSIT);
    }

    function test_AskNeedsOnlyThePrice() public {
        vm.prank(REQUESTER);
        uint256 id = opinion.ask{value: PRICE}(INPUT, deadline());
        outputs = [int256(-1)];
        fulfil(id);
        vm.assertEq(opinion.credits(REQUESTER), 0);
    }

    function test_RevertWhen_PriceIsNotCovered() public {
        uint64 last = deadline();
        vm.expectRevert(abi.encodeWithSelector(SecondOpinion.PriceNotCovered.selector, PRICE, PRICE - 1));
        vm.prank(REQUESTER);
        opinion.ask{value: PRICE - 1}(INPUT, last);
    }

    function test_UnansweredPatientsGetEverythingBack() public {
        uint256 before = REQUESTER.balance;
        uint256 first = _ask();
        uint256 second = _ask();
        vm.expectRevert(
            abi.encodeWithSelector(IPredictionMarket.DeadlineNotPassed.selector, first, deadline())
        );
        opinion.reclaim(first);

        vm.warp(deadline() + 1);
        market.refund(first); // somebody was quicker
        opinion.reclaim(first);
        opinion.reclaim(second);
        vm.prank(REQUESTER);
        opinion.collect();
        vm.assertEq(REQUESTER.balance, before);
        vm.assertEq(address(opinion).balance, 0);

        vm.expectRevert(abi.encodeWithSelector(SecondOpinion.NotRefundable.selector, first));
        opinion.reclaim(first);
    }

    /// One withdrawal brings both refunds; the second reclaim then has nothing to withdraw.
    function test_ReclaimsInAnyOrder() public {
        uint256 first = _ask();
        uint256 second = _ask();
        vm.warp(deadline() + 1);
        market.refund(first);
        market.refund(second);
        opinion.reclaim(second);
        opinion.reclaim(first);
        vm.assertEq(opinion.credits(REQUESTER), 2 * (PRICE + DEPOSIT));
        vm.assertEq(address(opinion).balance, 2 * (PRICE + DEPOSIT));
    }

    function test_RevertWhen_AnsweredOneIsReclaimed() public {
        uint256 id = _ask();
        fulfil(id);
        vm.warp(deadline() + 1);
        vm.expectRevert(abi.encodeWithSelector(SecondOpinion.NotRefundable.selector, id));
        opinion.reclaim(id);
    }

    function testFuzz_RevertWhen_CallerIsNotTheMarket(address caller) public {
        vm.assume(caller != address(market));
        uint256 id = _ask();
        vm.expectRevert(abi.encodeWithSelector(SecondOpinion.NotMarket.selector, caller));
        vm.prank(caller);
        opinion.onPrediction(id, modelId, outputs);
    }

    function test_RevertWhen_NobodyAsked() public {
        vm.expectRevert(abi.encodeWithSelector(SecondOpinion.UnexpectedPrediction.selector, 5));
        vm.prank(address(market));
        opinion.onPrediction(5, modelId, outputs);
    }

    function test_RevertWhen_AnsweredTwiceOrByAnotherVersion() public {
        uint256 id = _ask();
        vm.startPrank(address(market));
        vm.expectRevert(abi.encodeWithSelector(SecondOpinion.UnexpectedPrediction.selector, id));
        opinion.onPrediction(id, modelId + 1, outputs);
        opinion.onPrediction(id, modelId, outputs);
        vm.expectRevert(abi.encodeWithSelector(SecondOpinion.UnexpectedPrediction.selector, id));
        opinion.onPrediction(id, modelId, outputs);
    }

    function test_RevertWhen_StrangerSendsEther() public {
        vm.prank(REQUESTER);
        (bool ok,) = address(opinion).call{value: 1}("");
        vm.assertFalse(ok);
    }

    function test_CallbackFitsItsGasTwice() public {
        uint256 id = _ask();
        outputs = [int256(76)];
        vm.startPrank(address(market));
        opinion.onPrediction{gas: opinion.CALLBACK_GAS() / 2}(id, modelId, outputs);
    }

    function _ask() private returns (uint256) {
        uint64 last = deadline();
        vm.prank(REQUESTER);
        return opinion.ask{value: PRICE + DEPOSIT}(INPUT, last);
    }
}

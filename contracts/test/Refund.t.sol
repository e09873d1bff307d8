// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {MarketTest} from "./base/MarketTest.sol";

contract RefundTest is MarketTest {
    function testFuzz_AnybodyCanHaveTheRequesterRefunded(address caller) public {
        vm.assume(caller != REQUESTER);
        uint256 id = request();
        vm.warp(deadline() + 1);
        vm.expectEmit();
        emit IPredictionMarket.Refunded(id, REQUESTER, PRICE);
        vm.prank(caller);
        market.refund(id);
        assertStatus(id, IPredictionMarket.Status.Refunded);
        vm.assertEq(market.owed(REQUESTER), PRICE);
        vm.assertEq(market.owed(caller), 0);
        vm.assertEq(market.owed(OWNER), 0);
    }

    function test_RevertWhen_DeadlineNotPassed() public {
        uint256 id = request();
        uint64 last = deadline();
        vm.warp(last);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.DeadlineNotPassed.selector, id, last));
        market.refund(id);
    }

    function test_RevertWhen_Refunded() public {
        uint256 id = request();
        vm.warp(deadline() + 1);
        market.refund(id);
        vm.expectRevert(notOpen(id, IPredictionMarket.Status.Refunded));
        market.refund(id);
        vm.assertEq(market.owed(REQUESTER), PRICE);
    }

    function test_RevertWhen_Fulfilled() public {
        uint256 id = request();
        fulfil(id);
        vm.warp(deadline() + 1);
        vm.expectRevert(notOpen(id, IPredictionMarket.Status.Fulfilled));
        market.refund(id);
    }

    function test_RevertWhen_RequestUnknown() public {
        vm.expectRevert(notOpen(1, IPredictionMarket.Status.None));
        market.refund(1);
    }

    function test_DeprecatedVersionStillRefunds() public {
        uint256 id = request();
        vm.prank(OWNER);
        registry.deprecateModel(modelId);
        vm.warp(deadline() + 1);
        market.refund(id);
        vm.assertEq(market.owed(REQUESTER), PRICE);
    }
}

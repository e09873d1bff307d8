// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {MarketTest, TestConsumer} from "./base/MarketTest.sol";

contract ReentrancyTest is MarketTest {
    function test_CallbackCannotFulfilAgain() public {
        uint256 id = requestWithCallback();
        _refusedInCallback(
            id, abi.encodeCall(IPredictionMarket.fulfil, (id, INPUT, outputs, proofOf(INPUT, outputs)))
        );
    }

    function test_CallbackCannotFulfilAnother() public {
        uint256 other = request();
        uint256 id = requestWithCallback();
        _refusedInCallback(
            id, abi.encodeCall(IPredictionMarket.fulfil, (other, INPUT, outputs, proofOf(INPUT, outputs)))
        );
        assertStatus(other, IPredictionMarket.Status.Open);
    }

    function test_CallbackCannotRefund() public {
        uint256 id = requestWithCallback();
        _refusedInCallback(id, abi.encodeCall(IPredictionMarket.refund, (id)));
    }

    function test_CallbackCannotRetry() public {
        uint256 id = requestWithCallback();
        _refusedInCallback(id, abi.encodeCall(IPredictionMarket.retryCallback, (id, outputs)));
    }

    function test_CallbackCannotWithdraw() public {
        uint256 id = requestWithCallback();
        _refusedInCallback(id, abi.encodeCall(IPredictionMarket.withdraw, (payable(consumer))));
    }

    function test_WithdrawCannotBeReentered() public {
        uint256 id = requestWithCallback();
        vm.warp(deadline() + 1);
        market.refund(id);
        request();
        uint256 held = address(consumer).balance;
        consumer.behave(
            TestConsumer.Behaviour.Reenter,
            abi.encodeCall(IPredictionMarket.withdraw, (payable(address(consumer))))
        );
        consumer.withdraw(payable(address(consumer)));
        _assertGuarded();
        vm.assertEq(address(consumer).balance, held + PRICE);
        vm.assertEq(address(market).balance, PRICE);
    }

    /// Deliberately open: a prediction can lead to the next.
    function test_CallbackCanOrderAgain() public {
        vm.prank(OWNER);
        market.setPrice(modelId, 0, true);
        uint256 id = consumer.ask(modelId, INPUT, 400_000, deadline());
        consumer.behave(
            TestConsumer.Behaviour.Reenter,
            abi.encodeCall(IPredictionMarket.request, (modelId, INPUT, 0, deadline()))
        );
        fulfil(id);
        vm.assertTrue(consumer.reentryOk());
        assertStatus(id, IPredictionMarket.Status.Fulfilled);
        assertStatus(id + 1, IPredictionMarket.Status.Open);
        vm.assertEq(market.getRequest(id + 1).requester, address(consumer));
    }

    function _refusedInCallback(uint256 id, bytes memory call) private {
        consumer.behave(TestConsumer.Behaviour.Reenter, call);
        fulfil(id);
        vm.assertEq(consumer.calls(), 1);
        _assertGuarded();
        assertStatus(id, IPredictionMarket.Status.Fulfilled);
        vm.assertEq(market.owed(OWNER), PRICE);
    }

    function _assertGuarded() private view {
        vm.assertFalse(consumer.reentryOk());
        vm.assertEq(
            consumer.reentryAnswer(),
            abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector)
        );
    }
}

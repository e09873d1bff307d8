// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {MarketTest, TestConsumer} from "./base/MarketTest.sol";

/// @dev The callback in `fulfil` and `retryCallback`: it never blocks the payment.
contract CallbackTest is MarketTest {
    function test_CallsBackWithWhatWasProved() public {
        uint256 id = requestWithCallback();
        fulfil(id);
        vm.assertEq(consumer.calls(), 1);
        vm.assertEq(consumer.seen(), keccak256(abi.encode(id, modelId, outputs)));
        vm.assertFalse(market.getRequest(id).callbackPending);
    }

    function test_GivesExactlyTheGasThatWasNamed() public {
        fulfil(requestWithCallback());
        // What the consumer spends before it looks is dispatch, some hundreds.
        vm.assertLt(CALLBACK_GAS - 2_000, consumer.gasSeen());
        vm.assertLt(consumer.gasSeen(), CALLBACK_GAS + 1);
    }

    function test_RequesterWithoutCodeIsNoFailure() public {
        vm.prank(REQUESTER);
        uint256 id = market.request{value: PRICE}(modelId, INPUT, CALLBACK_GAS, deadline());
        fulfil(id);
        vm.assertFalse(market.getRequest(id).callbackPending);
    }

    function test_RevertingCallbackIsPaidAndCanBeRetried() public {
        _failsThenSucceeds(TestConsumer.Behaviour.Revert);
    }

    function test_GasBombIsPaidAndCanBeRetried() public {
        _failsThenSucceeds(TestConsumer.Behaviour.BurnGas);
    }

    function test_RevertBombIsPaidAndCanBeRetried() public {
        _failsThenSucceeds(TestConsumer.Behaviour.RevertBomb);
    }

    /// The submitter pays for the gas that was named, and nothing for what comes back.
    function test_BombsCostTheSubmitterNoMoreThanTheGasThatWasNamed() public {
        TestConsumer.Behaviour[3] memory bombs = [
            TestConsumer.Behaviour.BurnGas,
            TestConsumer.Behaviour.ReturnBomb,
            TestConsumer.Behaviour.RevertBomb
        ];
        uint32 maximum = market.MAX_CALLBACK_GAS();
        uint256 plain = _gasOfFulfil(TestConsumer.Behaviour.Accept, 0);
        for (uint256 i = 0; i < bombs.length; ++i) {
            vm.assertLt(_gasOfFulfil(bombs[i], maximum), plain + maximum + 60_000);
        }
    }

    function testFuzz_TooLittleGasNeverStarvesTheCallback(uint256 gasGiven) public {
        gasGiven = bound(gasGiven, 30_000, 500_000);
        uint256 id = requestWithCallback();
        bytes memory proof = proofOf(INPUT, outputs);
        vm.prank(SUBMITTER);
        try market.fulfil{gas: gasGiven}(id, INPUT, outputs, proof) {
            vm.assertEq(consumer.calls(), 1);
            vm.assertLt(CALLBACK_GAS - 2_000, consumer.gasSeen());
            vm.assertFalse(market.getRequest(id).callbackPending);
        } catch {
            assertStatus(id, IPredictionMarket.Status.Open);
            vm.assertEq(consumer.calls(), 0);
        }
    }

    function test_RevertWhen_GasIsTooLittleForTheCallback() public {
        uint256 id = requestWithCallback();
        bytes memory proof = proofOf(INPUT, outputs);
        vm.expectPartialRevert(IPredictionMarket.TooLittleGas.selector);
        market.fulfil{gas: 250_000}(id, INPUT, outputs, proof);
        market.fulfil{gas: 500_000}(id, INPUT, outputs, proof);
        vm.assertEq(consumer.calls(), 1);
    }

    function test_RevertWhen_RetryFailsAgain() public {
        uint256 id = _failed(TestConsumer.Behaviour.Revert);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.CallbackFailed.selector, id));
        market.retryCallback(id, outputs);
        vm.assertTrue(market.getRequest(id).callbackPending);
    }

    function test_RevertWhen_RetryHasLessGasThanWasNamed() public {
        uint256 id = _failed(TestConsumer.Behaviour.Revert);
        consumer.behave(TestConsumer.Behaviour.Accept, "");
        vm.expectPartialRevert(IPredictionMarket.TooLittleGas.selector);
        market.retryCallback{gas: 200_000}(id, outputs);
    }

    function test_RetryGivesMoreGasThanWasNamed() public {
        uint256 id = _failed(TestConsumer.Behaviour.Revert);
        consumer.behave(TestConsumer.Behaviour.Accept, "");
        market.retryCallback{gas: 3_000_000}(id, outputs);
        vm.assertLt(CALLBACK_GAS, consumer.gasSeen());
    }

    function testFuzz_RevertWhen_RetryTellsOtherOutputs(int256[] calldata other) public {
        vm.assume(keccak256(abi.encodePacked(other)) != keccak256(abi.encodePacked(outputs)));
        uint256 id = _failed(TestConsumer.Behaviour.Revert);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.OutputsMismatch.selector, id));
        market.retryCallback(id, other);
    }

    function test_RevertWhen_NoCallbackIsPending() public {
        uint256 id = requestWithCallback();
        _noneIsPending(id);
        fulfil(id);
        _noneIsPending(id);
        _noneIsPending(99);
    }

    function _failsThenSucceeds(TestConsumer.Behaviour behaviour) private {
        uint256 id = _failed(behaviour);
        assertStatus(id, IPredictionMarket.Status.Fulfilled);
        vm.assertEq(market.owed(OWNER), PRICE);
        vm.assertEq(consumer.calls(), 0);

        consumer.behave(TestConsumer.Behaviour.Accept, "");
        vm.expectEmit();
        emit IPredictionMarket.CallbackRetried(id, true);
        market.retryCallback(id, outputs);
        vm.assertEq(consumer.calls(), 1);
        vm.assertEq(consumer.seen(), keccak256(abi.encode(id, modelId, outputs)));
        vm.assertEq(market.owed(OWNER), PRICE);
        _noneIsPending(id);
    }

    function _failed(TestConsumer.Behaviour behaviour) private returns (uint256 id) {
        consumer.behave(behaviour, "");
        id = requestWithCallback();
        fulfil(id);
        vm.assertTrue(market.getRequest(id).callbackPending);
    }

    function _gasOfFulfil(TestConsumer.Behaviour behaviour, uint32 callbackGas) private returns (uint256) {
        consumer.behave(behaviour, "");
        uint256 id = consumer.ask{value: PRICE}(modelId, INPUT, callbackGas, deadline());
        uint256 before = gasleft();
        fulfil(id);
        return before - gasleft();
    }

    function _noneIsPending(uint256 id) private {
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.NoCallbackPending.selector, id));
        market.retryCallback(id, outputs);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "../src/interfaces/IModelRegistry.sol";
import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {MarketTest} from "./base/MarketTest.sol";

contract SetPriceTest is MarketTest {
    function testFuzz_SetsAndWithdrawsOffer(uint128 price) public {
        vm.expectEmit();
        emit IPredictionMarket.PriceSet(modelId, price, true);
        vm.startPrank(OWNER);
        market.setPrice(modelId, price, true);
        (uint128 set, bool offered) = market.priceOf(modelId);
        vm.assertEq(set, price);
        vm.assertTrue(offered);
        market.setPrice(modelId, price, false);
        (, offered) = market.priceOf(modelId);
        vm.assertFalse(offered);
    }

    function testFuzz_RevertWhen_CallerIsNotTheOwner(address caller) public {
        vm.assume(caller != OWNER);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.NotModelOwner.selector, modelId, caller));
        vm.prank(caller);
        market.setPrice(modelId, 0, true);
    }

    function test_RevertWhen_ModelUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, 7));
        market.setPrice(7, 0, true);
        (, bool offered) = market.priceOf(7);
        vm.assertFalse(offered);
    }
}

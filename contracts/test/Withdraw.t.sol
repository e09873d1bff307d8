// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {MarketTest} from "./base/MarketTest.sol";

contract WithdrawTest is MarketTest {
    address payable private constant TO = payable(address(0xDE57));

    function test_PaysOutOnce() public {
        fulfil(request());
        fulfil(request());
        vm.expectEmit();
        emit IPredictionMarket.Withdrawn(OWNER, TO, 2 * PRICE);
        vm.prank(OWNER);
        market.withdraw(TO);
        vm.assertEq(TO.balance, 2 * PRICE);
        vm.assertEq(market.owed(OWNER), 0);
        _nothing(OWNER);
    }

    function test_LeavesWhatIsOwedToOthers() public {
        fulfil(request());
        uint256 refunded = request();
        vm.warp(deadline() + 1);
        market.refund(refunded);
        uint256 open = request();
        vm.prank(OWNER);
        market.withdraw(TO);
        vm.assertEq(address(market).balance, 2 * PRICE);
        vm.prank(REQUESTER);
        market.withdraw(TO);
        vm.assertEq(address(market).balance, PRICE);
        fulfil(open);
        vm.prank(OWNER);
        market.withdraw(TO);
        vm.assertEq(address(market).balance, 0);
    }

    function testFuzz_RevertWhen_NothingIsOwed(address account) public {
        vm.assume(account != OWNER);
        fulfil(request());
        _nothing(account);
    }

    function test_RevertWhen_ReceiverRefuses() public {
        fulfil(request());
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.TransferFailed.selector, address(registry)));
        vm.prank(OWNER);
        market.withdraw(payable(address(registry)));
        vm.assertEq(market.owed(OWNER), PRICE);
    }

    function test_RevertWhen_EtherIsSentWithoutARequest() public {
        (bool ok,) = address(market).call{value: 1}("");
        vm.assertFalse(ok);
    }

    function _nothing(address account) private {
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.NothingToWithdraw.selector, account));
        vm.prank(account);
        market.withdraw(TO);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "../src/interfaces/IModelRegistry.sol";
import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {MarketTest} from "./base/MarketTest.sol";

contract RequestTest is MarketTest {
    function test_EscrowsPriceAndSnapshotsVersion() public {
        vm.expectEmit();
        emit IPredictionMarket.Requested(1, modelId, REQUESTER, INPUT, PRICE, deadline(), 0);
        uint256 id = request();

        IPredictionMarket.Request memory made = market.getRequest(id);
        vm.assertEq(made.requester, REQUESTER);
        vm.assertEq(made.payee, OWNER);
        vm.assertEq(made.price, PRICE);
        vm.assertEq(made.deadline, deadline());
        vm.assertEq(made.modelId, modelId);
        vm.assertEq(made.circuitId, bytes32("circuit"));
        vm.assertEq(made.weights, bytes32("weights"));
        vm.assertEq(address(made.verifier), address(verifier));
        vm.assertEq(made.inputHash, keccak256(INPUT));
        vm.assertEq(made.outputsHash, bytes32(0));
        vm.assertFalse(made.callbackPending);
        assertStatus(id, IPredictionMarket.Status.Open);
        vm.assertEq(address(market).balance, PRICE);
        vm.assertEq(market.owed(OWNER), 0);
    }

    function test_IdsCountFromOne() public {
        vm.assertEq(request(), 1);
        vm.assertEq(request(), 2);
        vm.assertEq(market.requestCount(), 2);
    }

    function test_UnknownRequestIsNone() public view {
        assertStatus(1, IPredictionMarket.Status.None);
    }

    function test_SnapshotsOutliveChangesByTheOwner() public {
        uint256 id = request();
        vm.startPrank(OWNER);
        market.setPrice(modelId, 5 ether, true);
        bytes32 lineage = registry.getVersion(modelId).lineage;
        registry.offerOwnership(lineage, SUBMITTER);
        registry.deprecateModel(modelId);
        vm.stopPrank();
        vm.prank(SUBMITTER);
        registry.acceptOwnership(lineage);

        fulfil(id);
        vm.assertEq(market.owed(OWNER), PRICE);
        vm.assertEq(market.owed(SUBMITTER), 0);
    }

    function test_FreeModelNeedsNoValue() public {
        vm.prank(OWNER);
        market.setPrice(modelId, 0, true);
        uint256 id = market.request(modelId, INPUT, 0, deadline());
        fulfil(id);
        vm.assertEq(market.owed(OWNER), 0);
    }

    function testFuzz_RevertWhen_ValueIsNotThePrice(uint128 paid) public {
        vm.assume(paid != PRICE);
        vm.deal(REQUESTER, paid);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.PriceMismatch.selector, PRICE, paid));
        vm.prank(REQUESTER);
        market.request{value: paid}(modelId, INPUT, 0, deadline());
    }

    function test_RevertWhen_NeverOffered() public {
        vm.prank(OWNER);
        uint256 other = registry.registerModel("other", commitment("circuit"), binding(verifier, "weights"));
        _notOffered(other, 0);
    }

    function test_RevertWhen_OfferWithdrawn() public {
        vm.prank(OWNER);
        market.setPrice(modelId, PRICE, false);
        _notOffered(modelId, PRICE);
    }

    function test_RevertWhen_Deprecated() public {
        vm.prank(OWNER);
        registry.deprecateModel(modelId);
        (, bool offered) = market.priceOf(modelId);
        vm.assertFalse(offered);
        _notOffered(modelId, PRICE);
    }

    function test_RevertWhen_ModelUnknown() public {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.UnknownModel.selector, 7));
        market.request(7, INPUT, 0, deadline());
    }

    function test_DeadlineBounds() public {
        uint64 earliest = uint64(block.timestamp) + market.MIN_WINDOW();
        uint64 latest = uint64(block.timestamp) + market.MAX_WINDOW();
        vm.startPrank(REQUESTER);
        market.request{value: PRICE}(modelId, INPUT, 0, earliest);
        market.request{value: PRICE}(modelId, INPUT, 0, latest);
        uint64[4] memory outside = [earliest - 1, latest + 1, 0, type(uint64).max];
        for (uint256 i = 0; i < 4; ++i) {
            vm.expectRevert(
                abi.encodeWithSelector(
                    IPredictionMarket.DeadlineOutOfRange.selector, outside[i], earliest, latest
                )
            );
            market.request{value: PRICE}(modelId, INPUT, 0, outside[i]);
        }
    }

    function test_RevertWhen_CallbackGasTooHigh() public {
        uint32 maximum = market.MAX_CALLBACK_GAS();
        vm.startPrank(REQUESTER);
        market.request{value: PRICE}(modelId, INPUT, maximum, deadline());
        vm.expectRevert(
            abi.encodeWithSelector(IPredictionMarket.CallbackGasTooHigh.selector, maximum + 1, maximum)
        );
        market.request{value: PRICE}(modelId, INPUT, maximum + 1, deadline());
    }

    function _notOffered(uint256 id, uint256 value) private {
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.NotOffered.selector, id));
        vm.prank(REQUESTER);
        market.request{value: value}(id, INPUT, 0, deadline());
    }
}

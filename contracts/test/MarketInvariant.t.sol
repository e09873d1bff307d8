// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {PredictionMarket} from "../src/PredictionMarket.sol";
import {MarketTest, TestConsumer} from "./base/MarketTest.sol";
import {Test} from "./base/Test.sol";

/// @dev Does to a market whatever anybody may do, in any order, and keeps its own books.
contract Actor is MarketTest {
    uint256 public paidIn;
    uint256 public paidOut;
    mapping(uint256 requestId => uint256) public settlements;
    address[4] public accounts;
    bytes32 public pinned;

    constructor() {
        setUp();
        accounts = [OWNER, REQUESTER, address(consumer), SUBMITTER];
        pinned = version();
    }

    function marketUnderTest() external view returns (PredictionMarket) {
        return market;
    }

    /// All of a version but the flag that may rise.
    function version() public view returns (bytes32) {
        return keccak256(
            abi.encode(
                registry.getVersion(modelId).lineage,
                registry.getVersion(modelId).number,
                registry.getVersion(modelId).publishedAt,
                registry.getVersion(modelId).commitment,
                registry.getVersion(modelId).binding
            )
        );
    }

    function setPrice(uint64 price) external {
        vm.prank(registry.ownerOf(modelId));
        market.setPrice(modelId, price, true);
    }

    function handOver(bool back) external {
        (address from, address to) = back ? (SUBMITTER, OWNER) : (OWNER, SUBMITTER);
        if (registry.ownerOf(modelId) != from) return;
        bytes32 lineage = registry.getVersion(modelId).lineage;
        vm.prank(from);
        registry.offerOwnership(lineage, to);
        vm.prank(to);
        registry.acceptOwnership(lineage);
    }

    function updateModel(bytes32 circuitId) external {
        vm.prank(registry.ownerOf(modelId));
        registry.updateModel(modelId, commitment(circuitId | bytes32(uint256(1))), binding(verifier, "w"));
    }

    function request(bool byConsumer, uint8 behaviour) external {
        (uint128 price,) = market.priceOf(modelId);
        if (byConsumer) {
            consumer.behave(TestConsumer.Behaviour(behaviour % 5), "");
            vm.deal(address(this), price);
            consumer.ask{value: price}(modelId, INPUT, CALLBACK_GAS, deadline());
        } else {
            vm.deal(REQUESTER, price);
            vm.prank(REQUESTER);
            market.request{value: price}(modelId, INPUT, 0, deadline());
        }
        paidIn += price;
    }

    function settle(uint256 id, uint256 submitter) external {
        id = bound(id, 1, market.requestCount() + 1);
        bytes memory proof = proofOf(INPUT, outputs);
        vm.prank(accounts[submitter % 4]);
        try market.fulfil(id, INPUT, outputs, proof) {
            ++settlements[id];
        } catch {}
    }

    function settleWrongly(uint256 id, int256 output) external {
        id = bound(id, 1, market.requestCount() + 1);
        bytes memory proof = proofOf(INPUT, outputs);
        int256[] memory other = new int256[](1);
        other[0] = output;
        try market.fulfil(id, INPUT, other, proof) {
            revert("settled with what was not proved");
        } catch {}
    }

    function refund(uint256 id) external {
        id = bound(id, 1, market.requestCount() + 1);
        try market.refund(id) {
            ++settlements[id];
        } catch {}
    }

    function retry(uint256 id, uint8 behaviour) external {
        id = bound(id, 1, market.requestCount() + 1);
        consumer.behave(TestConsumer.Behaviour(behaviour % 5), "");
        try market.retryCallback{gas: 3_000_000}(id, outputs) {} catch {}
    }

    function withdraw(uint256 account) external {
        address from = accounts[account % 4];
        uint256 amount = market.owed(from);
        vm.prank(from);
        try market.withdraw(payable(address(0xDE57))) {
            paidOut += amount;
        } catch {}
    }

    function wait_(uint16 seconds_) external {
        vm.warp(block.timestamp + seconds_);
    }
}

contract MarketInvariantTest is Test {
    Actor private actor;
    PredictionMarket private market;

    function setUp() public {
        actor = new Actor();
        market = actor.marketUnderTest();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actor);
    }

    function excludeSelectors() external view returns (FuzzSelector[] memory selectors) {
        selectors = new FuzzSelector[](1);
        selectors[0] = FuzzSelector(address(actor), new bytes4[](1));
        selectors[0].selectors[0] = MarketTest.setUp.selector;
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function invariant_BalanceIsWhatIsOwedPlusOpenPrices() public view {
        uint256 expected;
        for (uint256 i = 0; i < 4; ++i) {
            expected += market.owed(actor.accounts(i));
        }
        for (uint256 id = 1; id <= market.requestCount(); ++id) {
            IPredictionMarket.Request memory made = market.getRequest(id);
            if (made.status == IPredictionMarket.Status.Open) expected += made.price;
        }
        vm.assertEq(address(market).balance, expected);
        vm.assertEq(address(market).balance, actor.paidIn() - actor.paidOut());
    }

    function invariant_SettledAtMostOnce() public view {
        for (uint256 id = 1; id <= market.requestCount() + 1; ++id) {
            IPredictionMarket.Status status = market.getRequest(id).status;
            bool settled =
                status == IPredictionMarket.Status.Fulfilled || status == IPredictionMarket.Status.Refunded;
            vm.assertEq(actor.settlements(id), settled ? 1 : 0);
        }
    }

    function invariant_PinnedVersionNeverChanges() public view {
        vm.assertEq(actor.version(), actor.pinned());
    }
}

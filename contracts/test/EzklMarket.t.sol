// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EzklVerifier} from "../src/EzklVerifier.sol";
import {IPredictionMarket} from "../src/interfaces/IPredictionMarket.sol";
import {IProofVerifier} from "../src/interfaces/IProofVerifier.sol";
import {FixedPoint} from "../src/libraries/FixedPoint.sol";
import {EzklFixture} from "./base/EzklFixture.sol";
import {MarketTest} from "./base/MarketTest.sol";

/// @dev The whole of `fulfil` on real proofs, with what it costs as a transaction of its own.
/// forge-config: default.isolate = true
contract EzklMarketTest is MarketTest, EzklFixture {
    function test_CommittedInputSettles() public {
        _settles(deployCommitted(), proven(committedJson, "first"), "fulfil_committed_input");
    }

    function test_PublicInputSettles() public {
        _settles(deployPublic(), proven(publicJson, "first"), "fulfil_public_input");
    }

    function test_FixedWeightsSettle() public {
        _settles(deployFixed(), proven(fixedJson, "first"), "fulfil_fixed_weights");
    }

    function test_PolycommitWeightsSettle() public {
        _settles(deployPolycommit(), proven(polycommitJson, "first"), "fulfil_polycommit_weights");
    }

    /// In every mode a request for one model is not settled by another of the same architecture.
    function test_RevertWhen_ProofIsOfOtherWeightsInALeakingMode() public {
        Proven memory ours = proven(polycommitJson, "first");
        Proven memory theirs = proven(polycommitJson, "other_weights");
        vm.assertEq(ours.claim.input, theirs.claim.input);
        uint256 id = _request(_publish(deployPolycommit(), ours), ours);
        _refused(id, theirs);
        _settle(id, ours);
    }

    function test_GasOfARequestAndOfVerifying() public {
        Proven memory first = proven(committedJson, "first");
        EzklVerifier adapter_ = deployCommitted();
        uint256 id = _publish(adapter_, first);
        consumer.ask{value: PRICE}(id, first.claim.input, CALLBACK_GAS, deadline());
        vm.snapshotGasLastCall("gas", "request_by_a_contract");
        adapter_.verify(first.claim, first.proof);
        vm.snapshotGasLastCall("gas", "verify_committed_input");
    }

    function test_RevertWhen_ProofIsOfOtherWeights() public {
        Proven memory first = proven(committedJson, "first");
        Proven memory other = proven(committedJson, "other_weights");
        vm.assertEq(first.claim.input, other.claim.input);
        uint256 id = _request(_publish(deployCommitted(), first), first);
        _refused(id, other);
        _settle(id, first);
    }

    /// The version's commitment and the adapter's must both be the claim's.
    function test_RevertWhen_VersionPinsOtherWeightsThanItsAdapter() public {
        Proven memory first = proven(committedJson, "first");
        Proven memory other = proven(committedJson, "other_weights");
        uint256 id = _request(_publish(deployCommitted(), other), other);
        _refused(id, other);
        _refused(id, first);
    }

    function test_RevertWhen_OutputIsShiftedByTheFieldOrder() public {
        Proven memory first = proven(committedJson, "first");
        uint256 id = _request(_publish(deployCommitted(), first), first);
        first.claim.outputs[1] += int256(FixedPoint.R);
        _refused(id, first);
    }

    /// Asking for commitment + r asks for what no proof can answer.
    function test_RevertWhen_RequestedInputIsShiftedByTheFieldOrder() public {
        Proven memory first = proven(committedJson, "first");
        uint256 version = _publish(deployCommitted(), first);
        first.claim.input = abi.encode(uint256(bytes32(first.claim.input)) + FixedPoint.R);
        uint256 id = _request(version, first);
        _refused(id, first);
    }

    function test_RevertWhen_ProofOfAnotherRequestIsCopied() public {
        Proven memory first = proven(committedJson, "first");
        Proven memory second = proven(committedJson, "second");
        uint256 version = _publish(deployCommitted(), first);
        _settle(_request(version, first), first);
        uint256 id = _request(version, second);
        vm.expectRevert(abi.encodeWithSelector(IPredictionMarket.InputMismatch.selector, id));
        market.fulfil(id, first.claim.input, first.claim.outputs, first.proof);
        first.claim.input = second.claim.input;
        _refused(id, first);
    }

    function _settles(EzklVerifier adapter_, Proven memory claimed, string memory name) private {
        uint256 id = _request(_publish(adapter_, claimed), claimed);
        _settle(id, claimed);
        vm.snapshotGasLastCall("gas", name);
        assertStatus(id, IPredictionMarket.Status.Fulfilled);
        vm.assertEq(consumer.calls(), 1);
        vm.assertEq(market.owed(OWNER), PRICE);
        vm.assertEq(market.owed(SUBMITTER), 0);
    }

    function _publish(EzklVerifier adapter_, Proven memory claimed) private returns (uint256 id) {
        vm.startPrank(OWNER);
        id = registry.registerModel("ezkl", commitment(CIRCUIT), binding(adapter_, claimed.claim.weights));
        market.setPrice(id, PRICE, true);
        vm.stopPrank();
    }

    function _request(uint256 version, Proven memory claimed) private returns (uint256) {
        return consumer.ask{value: PRICE}(version, claimed.claim.input, CALLBACK_GAS, deadline());
    }

    function _settle(uint256 id, Proven memory claimed) private {
        vm.prank(SUBMITTER);
        market.fulfil(id, claimed.claim.input, claimed.claim.outputs, claimed.proof);
    }

    function _refused(uint256 id, Proven memory claimed) private {
        vm.expectRevert(abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, CIRCUIT));
        _settle(id, claimed);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "../../src/interfaces/IModelRegistry.sol";
import {IPredictionMarket} from "../../src/interfaces/IPredictionMarket.sol";
import {IPredictionConsumer} from "../../src/interfaces/IPredictionConsumer.sol";
import {Claim, IProofVerifier} from "../../src/interfaces/IProofVerifier.sol";
import {Claims} from "../../src/libraries/Claims.sol";
import {ModelRegistry} from "../../src/ModelRegistry.sol";
import {PredictionMarket} from "../../src/PredictionMarket.sol";
import {Test} from "./Test.sol";

/// @dev A verifier for tests of money and state, where proofs would only cost time: the one valid proof
/// of a claim is its digest. Tests of proofs use `EzklFixture`.
contract DigestVerifier is IProofVerifier {
    function verify(Claim calldata claim, bytes calldata proof) external pure {
        bytes32 digest = Claims.digest(
            claim.circuitId, claim.weights, keccak256(claim.input), Claims.hashOutputs(claim.outputs)
        );
        require(proof.length == 32 && bytes32(proof) == digest, ProofInvalid(claim.circuitId));
    }
}

/// @dev A consumer that behaves as told when called back, and remembers what it was told.
contract TestConsumer is IPredictionConsumer {
    enum Behaviour {
        Accept,
        Revert,
        BurnGas,
        ReturnBomb,
        RevertBomb,
        Reenter
    }

    PredictionMarket public immutable market;
    Behaviour public behaviour;
    bytes public reentry;
    bool public reentryOk;
    bytes public reentryAnswer;
    uint256 public calls;
    uint256 public gasSeen;
    bytes32 public seen;

    constructor(PredictionMarket market_) {
        market = market_;
    }

    receive() external payable {
        if (behaviour == Behaviour.Reenter) (reentryOk, reentryAnswer) = address(market).call(reentry);
    }

    function behave(Behaviour behaviour_, bytes calldata reentry_) external {
        behaviour = behaviour_;
        reentry = reentry_;
    }

    function ask(uint256 modelId, bytes calldata input, uint32 callbackGas, uint64 deadline)
        external
        payable
        returns (uint256)
    {
        return market.request{value: msg.value}(modelId, input, callbackGas, deadline);
    }

    function withdraw(address payable to) external {
        market.withdraw(to);
    }

    function onPrediction(uint256 requestId, uint256 modelId, int256[] calldata outputs) external {
        uint256 gasGiven = gasleft();
        require(msg.sender == address(market), "not the market");
        if (behaviour == Behaviour.Revert) revert("not today");
        if (behaviour == Behaviour.BurnGas) {
            while (true) {}
        }
        if (behaviour == Behaviour.ReturnBomb || behaviour == Behaviour.RevertBomb) {
            bool fails = behaviour == Behaviour.RevertBomb;
            // As much memory as the gas buys: expanding to 1,000,000 bytes costs about 2,000,000.
            assembly {
                let size := 900000
                if fails { revert(0, size) }
                return(0, size)
            }
        }
        if (behaviour == Behaviour.Reenter) (reentryOk, reentryAnswer) = address(market).call(reentry);
        ++calls;
        gasSeen = gasGiven;
        seen = keccak256(abi.encode(requestId, modelId, outputs));
    }
}

abstract contract MarketTest is Test {
    address internal constant OWNER = address(0xA11CE);
    address internal constant REQUESTER = address(0xB0B);
    address internal constant SUBMITTER = address(0x5AB);
    uint128 internal constant PRICE = 1 ether;
    uint32 internal constant CALLBACK_GAS = 200_000;
    bytes internal constant INPUT = hex"0102";

    ModelRegistry internal registry;
    PredictionMarket internal market;
    DigestVerifier internal verifier;
    TestConsumer internal consumer;
    uint256 internal modelId;
    int256[] internal outputs = [int256(76), -77];

    function setUp() public virtual {
        vm.warp(1_800_000_000);
        registry = new ModelRegistry();
        market = new PredictionMarket(registry);
        verifier = new DigestVerifier();
        consumer = new TestConsumer(market);
        vm.prank(OWNER);
        modelId = registry.registerModel("model", commitment("circuit"), binding(verifier, "weights"));
        vm.prank(OWNER);
        market.setPrice(modelId, PRICE, true);
        vm.deal(REQUESTER, 100 ether);
        vm.deal(address(consumer), 100 ether);
    }

    function commitment(bytes32 circuitId) internal pure returns (IModelRegistry.ModelCommitment memory) {
        return IModelRegistry.ModelCommitment({
            modelHash: keccak256("onnx"),
            circuitHash: circuitId,
            vkHash: keccak256("vk"),
            proofSystemId: keccak256("ezkl/23.0.5"),
            uri: "ipfs://artifacts"
        });
    }

    function binding(IProofVerifier verifier_, bytes32 weights)
        internal
        pure
        returns (IModelRegistry.Binding memory)
    {
        return IModelRegistry.Binding({
            verifier: verifier_,
            weights: weights,
            outputMultiplier: 1,
            outputShift: 8,
            agreementPpb: 1_000_000,
            developmentSrs: true
        });
    }

    function deadline() internal view returns (uint64) {
        return uint64(block.timestamp + 1 hours);
    }

    /// A request by an account without code or callback.
    function request() internal returns (uint256) {
        vm.prank(REQUESTER);
        return market.request{value: PRICE}(modelId, INPUT, 0, deadline());
    }

    /// A request by the consumer, to be called back.
    function requestWithCallback() internal returns (uint256) {
        return consumer.ask{value: PRICE}(modelId, INPUT, CALLBACK_GAS, deadline());
    }

    function proofOf(bytes memory input, int256[] memory outputs_) internal pure returns (bytes memory) {
        return abi.encode(
            Claims.digest("circuit", "weights", keccak256(input), keccak256(abi.encodePacked(outputs_)))
        );
    }

    function fulfil(uint256 requestId) internal {
        bytes memory proof = proofOf(INPUT, outputs);
        vm.prank(SUBMITTER);
        market.fulfil(requestId, INPUT, outputs, proof);
    }

    function status(uint256 requestId) internal view returns (uint256) {
        return uint256(market.getRequest(requestId).status);
    }

    function assertStatus(uint256 requestId, IPredictionMarket.Status expected) internal view {
        vm.assertEq(status(requestId), uint256(expected));
    }

    function notOpen(uint256 requestId, IPredictionMarket.Status found) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(IPredictionMarket.NotOpen.selector, requestId, found);
    }
}

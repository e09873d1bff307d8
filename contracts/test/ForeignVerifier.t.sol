// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IModelRegistry} from "../src/interfaces/IModelRegistry.sol";
import {Claim, IProofVerifier} from "../src/interfaces/IProofVerifier.sol";
import {ModelRegistry} from "../src/ModelRegistry.sol";
import {NativeVerifier} from "./fixtures/NativeDensePublic.sol";
import {DigestVerifier, MarketTest} from "./base/MarketTest.sol";

/// @dev Answers every call with these bytes, or reverts with them, or takes all gas.
contract Answering {
    enum Manner {
        Return,
        Revert,
        BurnGas,
        ReturnBomb
    }

    Manner private immutable _manner;
    bytes private _answer;

    constructor(Manner manner, bytes memory answer) {
        _manner = manner;
        _answer = answer;
    }

    fallback() external {
        bytes memory answer = _answer;
        Manner manner = _manner;
        if (manner == Manner.BurnGas) {
            while (true) {}
        }
        assembly {
            if eq(manner, 3) { return(0, 40000) }
            if eq(manner, 1) { revert(add(answer, 32), mload(answer)) }
            return(add(answer, 32), mload(answer))
        }
    }
}

/// @dev Passes claims on to another's verifier, and has no context.
contract Forwarder is IProofVerifier {
    IProofVerifier private immutable _other;

    constructor(IProofVerifier other) {
        _other = other;
    }

    function verify(Claim calldata claim, bytes calldata proof) external view {
        _other.verify(claim, proof);
    }
}

interface VmChain {
    function chainId(uint256 id) external;
}

/// @dev A verifier that serves one version is published with that version, and with no other.
contract ForeignVerifierTest is MarketTest {
    address private constant COPIER = address(0xBAD);

    function test_PublishesVersionsWithVerifiersOfTheirOwn() public {
        uint256 first = _idOf(REQUESTER, 1);
        _register(REQUESTER, _native(address(registry), first));
        uint256 second = _idOf(REQUESTER, 2);
        IProofVerifier own = _native(address(registry), second);
        vm.prank(REQUESTER);
        vm.assertEq(registry.updateModel(first, commitment("c"), binding(own, "w")), second);
        vm.assertEq(address(registry.getVersion(second).binding.verifier), address(own));
    }

    function test_RevertWhen_TheVerifierIsOfAnothersVersion() public {
        IProofVerifier theirs = _native(address(registry), _idOf(REQUESTER, 1));
        // Before the honest registration, so that nobody is registered in front of, and after it.
        _refuses(theirs);
        _register(REQUESTER, theirs);
        _refuses(theirs);
        vm.assertEq(registry.latest(registry.lineageOf(COPIER, "native")), 0);
    }

    function test_RevertWhen_AnUpdateHasTheVerifierOfAnotherVersion() public {
        uint256 first = _idOf(REQUESTER, 1);
        IProofVerifier own = _native(address(registry), first);
        _register(REQUESTER, own);
        _expectForeign(_idOf(REQUESTER, 2), own);
        vm.prank(REQUESTER);
        registry.updateModel(first, commitment("c"), binding(own, "w"));
        uint256 copy = _register(COPIER, verifier);
        _expectForeign(_idOf(COPIER, 2), own);
        vm.prank(COPIER);
        registry.updateModel(copy, commitment("c"), binding(own, "w"));
    }

    function test_RevertWhen_TheVerifierIsOfAnotherRegistryOrChain() public {
        uint256 id = _idOf(REQUESTER, 1);
        IProofVerifier elsewhere = _native(address(new ModelRegistry()), id);
        _expectForeign(id, elsewhere);
        _register(REQUESTER, elsewhere);
        IProofVerifier here = _native(address(registry), id);
        VmChain(address(vm)).chainId(block.chainid + 1);
        _expectForeign(id, here);
        _register(REQUESTER, here);
    }

    function testFuzz_RevertWhen_TheContextIsAnyOther(bytes32 context, bytes32 more) public {
        _refuses(_answering(Answering.Manner.Return, abi.encode(context)));
        _refuses(_answering(Answering.Manner.Return, abi.encode(context, more)));
    }

    function test_RevertWhen_ALongAnswerIsAnotherContext() public {
        _refuses(_answering(Answering.Manner.ReturnBomb, ""));
    }

    function test_VerifiersWithoutContextServeAnyVersion() public {
        _publishes(IProofVerifier(address(new DigestVerifier())), 1);
        _publishes(IProofVerifier(address(new DigestVerifier())), 2);
    }

    function test_WhatRevertsHasNoContext() public {
        _publishes(_answering(Answering.Manner.Revert, ""), 1);
        _publishes(_answering(Answering.Manner.Revert, abi.encode(uint256(7))), 2);
    }

    function test_AShortAnswerIsNoContext() public {
        _publishes(_answering(Answering.Manner.Return, ""), 1);
        _publishes(_answering(Answering.Manner.Return, new bytes(31)), 2);
    }

    function test_WhatBurnsGasHasNoContextAndBurnsLittle() public {
        IProofVerifier burning = _answering(Answering.Manner.BurnGas, "");
        uint256 before = gasleft();
        _publishes(burning, 1);
        vm.assertLt(before - gasleft(), 700_000);
    }

    /// With as little gas as one likes, a context is read or nothing is registered.
    function testFuzz_NoGasLimitHidesAContext(uint256 gas_) public {
        IProofVerifier theirs = _native(address(registry), _idOf(REQUESTER, 1));
        bytes memory data =
            abi.encodeCall(IModelRegistry.registerModel, ("native", commitment("c"), binding(theirs, "w")));
        vm.prank(COPIER);
        (bool done,) = address(registry).call{gas: bound(gas_, 20_000, 1_000_000)}(data);
        vm.assertFalse(done);
    }

    /// What no contract can tell from an honest verifier; an audit compares its code.
    function test_AForwarderCannotBeToldApart() public {
        _publishes(new Forwarder(_native(address(registry), _idOf(REQUESTER, 1))), 1);
    }

    function _native(address registry_, uint256 version) private returns (IProofVerifier) {
        return IProofVerifier(address(new NativeVerifier("c", "w", registry_, version)));
    }

    function _answering(Answering.Manner manner, bytes memory answer) private returns (IProofVerifier) {
        return IProofVerifier(address(new Answering(manner, answer)));
    }

    function _idOf(address owner, uint32 number) private view returns (uint256) {
        return registry.versionId(registry.lineageOf(owner, "native"), number);
    }

    function _register(address owner, IProofVerifier verifier_) private returns (uint256) {
        vm.prank(owner);
        return registry.registerModel("native", commitment("c"), binding(verifier_, "w"));
    }

    function _publishes(IProofVerifier verifier_, uint32 number) private {
        bytes32 lineage = registry.lineageOf(COPIER, "native");
        if (number == 1) {
            _register(COPIER, verifier_);
        } else {
            uint256 previous = registry.latest(lineage);
            vm.prank(COPIER);
            registry.updateModel(previous, commitment("c"), binding(verifier_, "w"));
        }
        vm.assertEq(registry.latest(lineage), _idOf(COPIER, number));
    }

    function _expectForeign(uint256 id, IProofVerifier verifier_) private {
        vm.expectRevert(abi.encodeWithSelector(IModelRegistry.ForeignVerifier.selector, id, verifier_));
    }

    function _refuses(IProofVerifier verifier_) private {
        _expectForeign(_idOf(COPIER, 1), verifier_);
        _register(COPIER, verifier_);
    }
}

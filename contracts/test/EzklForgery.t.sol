// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {EzklVerifier, IHalo2Verifier} from "../src/EzklVerifier.sol";
import {Claim, IProofVerifier} from "../src/interfaces/IProofVerifier.sol";
import {FixedPoint} from "../src/libraries/FixedPoint.sol";
import {EzklFixture} from "./base/EzklFixture.sol";
import {Halo2Verifier as CommittedPatched} from "./fixtures/EzklCommittedPatched.sol";
import {Halo2Verifier as CommittedRaw} from "./fixtures/EzklCommittedRaw.sol";
import {Halo2Verifier as PublicPatched} from "./fixtures/EzklPublicPatched.sol";
import {Halo2Verifier as PublicRaw} from "./fixtures/EzklPublicRaw.sol";

/// @dev Whoever controls the calldata of an unpatched generated verifier proves what they like.
///
/// Challenges are hashed from the proof that the ABI offset points at, while points and evaluations
/// are read at fixed positions. The forger points the offset at some old proof, which fixes the
/// challenges, and then fills the fixed positions. The last check is
/// e(A - z W + mu W', G2) = e(W', s G2), where A follows from the rest and z is public: with W' = 0
/// and W = A / z both sides are 1, whatever the instances say. No secret is used.
contract EzklForgeryTest is EzklFixture {
    /// The calldata position of the proof's bytes in an honest encoding.
    uint256 private constant PROOF_POSITION = 0x64;

    function test_ForgeryPassesRawVerifier() public {
        _assertForged(address(new CommittedRaw()), committedJson, "second");
        _assertForged(address(new PublicRaw()), publicJson, "second");
    }

    function test_RevertWhen_ForgeryMeetsPatchedVerifier() public {
        address raw = address(new CommittedRaw());
        (bytes memory data,) = _forge(raw, committedJson, _invented(committedJson));
        _assertRefused(address(new CommittedPatched()), data);

        raw = address(new PublicRaw());
        (data,) = _forge(raw, publicJson, _invented(publicJson));
        _assertRefused(address(new PublicPatched()), data);
    }

    /// The typed call alone is a defence: even over the unpatched verifier, calldata is honest.
    function test_RevertWhen_ForgeryMeetsAdapter() public {
        address raw = address(new CommittedRaw());
        uint256[] memory instances = _invented(committedJson);
        (bytes memory data, bytes memory forged) = _forge(raw, committedJson, instances);
        Claim memory claim = Claim({
            circuitId: CIRCUIT,
            weights: bytes32(instances[1]),
            input: abi.encode(instances[0]),
            outputs: new int256[](3)
        });
        for (uint256 i = 0; i < 3; ++i) {
            claim.outputs[i] = FixedPoint.toSigned(instances[2 + i]);
        }
        EzklVerifier overRaw = adapter(raw, committedJson, true);
        EzklVerifier overPatched = deployCommitted();

        bytes memory refusal = abi.encodeWithSelector(IProofVerifier.ProofInvalid.selector, CIRCUIT);
        vm.expectRevert(refusal);
        overRaw.verify(claim, forged);
        vm.expectRevert(refusal);
        overPatched.verify(claim, forged);

        // Nor does the adapter pass calldata through.
        _assertRefused(address(overRaw), data);
        _assertRefused(address(overPatched), data);
    }

    function _assertForged(address raw, string memory json, string memory name) private {
        // An honest proof with invented outputs is refused …
        uint256[] memory instances = _invented(json);
        bytes memory honest = proven(json, name).proof;
        (bool ok,) = raw.staticcall(abi.encodeCall(IHalo2Verifier.verifyProof, (honest, instances)));
        vm.assertFalse(ok);
        // … and the forged one accepted.
        (bytes memory data,) = _forge(raw, json, instances);
        bytes memory answer;
        (ok, answer) = raw.staticcall(data);
        vm.assertTrue(ok);
        vm.assertTrue(abi.decode(answer, (bool)));
    }

    function _assertRefused(address target, bytes memory data) private view {
        (bool ok,) = target.staticcall(data);
        vm.assertFalse(ok);
    }

    /// The instances of an honest claim, with outputs that no model ever gave.
    function _invented(string memory json) private pure returns (uint256[] memory instances) {
        instances = proven(json, "first").instances;
        for (uint256 i = instances.length - 3; i < instances.length; ++i) {
            instances[i] = 1_000_000 + i;
        }
    }

    /// @return data The calldata of the forgery.
    /// @return forged What lies where an honest encoding has the proof.
    function _forge(address raw, string memory json, uint256[] memory instances)
        private
        returns (bytes memory data, bytes memory forged)
    {
        bytes memory transcript = proven(json, "second").proof;
        uint256 size = transcript.length;
        forged = new bytes(size);
        (uint256 x, uint256 y, uint256 z) = _combination(
            raw, _encode(forged, instances, transcript), vm.parseJsonUint(json, ".w_factor_pointer")
        );
        (x, y) = _scale(x, y, _invert(z));
        assembly ("memory-safe") {
            let w := sub(add(add(forged, 0x20), size), 0x80)
            mstore(w, x)
            mstore(add(w, 0x20), y)
        }
        data = _encode(forged, instances, transcript);
    }

    function _encode(bytes memory fixedPart, uint256[] memory instances, bytes memory transcript)
        private
        pure
        returns (bytes memory)
    {
        uint256 instancesAt = PROOF_POSITION + fixedPart.length - 4;
        uint256 transcriptAt = instancesAt + 0x20 * (1 + instances.length);
        return abi.encodePacked(
            IHalo2Verifier.verifyProof.selector,
            transcriptAt,
            instancesAt,
            fixedPart.length,
            fixedPart,
            instances.length,
            instances,
            transcript.length,
            transcript
        );
    }

    /// What the forger computes off chain: the verifier's own code up to the pairing, where a copy
    /// returns its memory instead. `push 0x180, push 0, push 8, gas, staticcall` becomes
    /// `push 0x1600, push 0, return`.
    function _combination(address raw, bytes memory data, uint256 zPointer)
        private
        returns (uint256 x, uint256 y, uint256 z)
    {
        bytes memory code = raw.code;
        bytes8 pairing = 0x6101805f60085afa;
        uint256 found;
        for (uint256 i = 0; i + 8 <= code.length; ++i) {
            bytes8 window;
            assembly ("memory-safe") {
                window := and(mload(add(add(code, 0x20), i)), shl(192, 0xffffffffffffffff))
            }
            if (window != pairing) continue;
            ++found;
            code[i + 1] = 0x16;
            code[i + 2] = 0x00;
            code[i + 4] = 0xf3;
        }
        vm.assertEq(found, 1);
        address copy = address(uint160(uint256(keccak256(code))));
        vm.etch(copy, code);
        (bool ok, bytes memory memory_) = copy.staticcall(data);
        vm.assertTrue(ok);
        vm.assertEq(memory_.length, 0x1600);
        assembly ("memory-safe") {
            x := mload(add(memory_, 0x20))
            y := mload(add(memory_, 0x40))
            z := mload(add(add(memory_, 0x20), zPointer))
        }
    }

    function _scale(uint256 x, uint256 y, uint256 scalar) private view returns (uint256, uint256) {
        (bool ok, bytes memory point) = address(7).staticcall(abi.encode(x, y, scalar));
        vm.assertTrue(ok);
        return abi.decode(point, (uint256, uint256));
    }

    function _invert(uint256 value) private view returns (uint256) {
        (bool ok, bytes memory inverse) =
            address(5).staticcall(abi.encode(32, 32, 32, value, FixedPoint.R - 2, FixedPoint.R));
        vm.assertTrue(ok);
        return abi.decode(inverse, (uint256));
    }
}

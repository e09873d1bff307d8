// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {FixedPoint} from "../src/libraries/FixedPoint.sol";
import {Test} from "./base/Test.sol";

contract FixedPointHarness {
    function toSigned(uint256 element) external pure returns (int256) {
        return FixedPoint.toSigned(element);
    }

    function toField(int256 value) external pure returns (uint256) {
        return FixedPoint.toField(value);
    }

    function toWad(int256 value, uint64 multiplier, uint8 shift) external pure returns (int256) {
        return FixedPoint.toWad(value, multiplier, shift);
    }
}

contract FixedPointTest is Test {
    uint256 private constant R = FixedPoint.R;
    FixedPointHarness private harness = new FixedPointHarness();

    function test_KnownElements() public pure {
        vm.assertEq(FixedPoint.toSigned(0), 0);
        vm.assertEq(FixedPoint.toSigned(76), 76);
        vm.assertEq(FixedPoint.toSigned(R - 77), -77);
        vm.assertEq(FixedPoint.toSigned(R / 2), int256(R / 2));
        vm.assertEq(FixedPoint.toSigned(R / 2 + 1), -int256(R / 2));
    }

    function testFuzz_ElementsSurviveTheRoundTrip(uint256 element) public pure {
        element = bound(element, 0, R - 1);
        vm.assertEq(FixedPoint.toField(FixedPoint.toSigned(element)), element);
    }

    function testFuzz_IntegersSurviveTheRoundTrip(int128 value) public pure {
        vm.assertEq(FixedPoint.toSigned(FixedPoint.toField(value)), int256(value));
    }

    function testFuzz_RevertWhen_ElementIsNotCanonical(uint256 element) public {
        element = bound(element, R, type(uint256).max);
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.NotCanonical.selector, element));
        harness.toSigned(element);
    }

    function testFuzz_RevertWhen_IntegerHasNoElement(uint256 beyond, bool negative) public {
        int256 value = int256(bound(beyond, R / 2 + 1, uint256(type(int256).max)));
        if (negative) value = -value;
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.OutOfRange.selector, value));
        harness.toField(value);
    }

    function test_KnownWads() public pure {
        vm.assertEq(FixedPoint.toWad(76, 1, 8), 0.296875 ether);
        vm.assertEq(FixedPoint.toWad(-77, 1, 8), -0.30078125 ether);
        vm.assertEq(FixedPoint.toWad(3, 5, 0), 15 ether);
        // Rounded towards minus infinity.
        vm.assertEq(FixedPoint.toWad(1, 1, 127), 0);
        vm.assertEq(FixedPoint.toWad(-1, 1, 127), -1);
    }

    function testFuzz_WadNeverOverflowsInRange(int256 value, uint64 multiplier, uint8 shift) public pure {
        value = value % FixedPoint.OUTPUT_BOUND;
        shift = uint8(bound(shift, 0, 127));
        int256 wad = FixedPoint.toWad(value, multiplier, shift);
        // wad <= exact < wad + 1, with exact = value * multiplier * 10**18 / 2**shift
        int256 exactTimesTwoToShift = value * int256(uint256(multiplier)) * 1e18;
        int256 remainder = exactTimesTwoToShift - wad * int256(uint256(1) << shift);
        vm.assertLe(0, remainder);
        vm.assertLt(uint256(remainder), uint256(1) << shift);
    }

    function testFuzz_WadKeepsOrderAndSign(int128 left, int128 right, uint64 multiplier, uint8 shift)
        public
        pure
    {
        vm.assume(left != type(int128).min && right != type(int128).min && multiplier != 0);
        (int256 low, int256 high) = left < right ? (left, right) : (right, left);
        shift = uint8(bound(shift, 0, 127));
        int256 wad = FixedPoint.toWad(low, multiplier, shift);
        vm.assertLe(wad, FixedPoint.toWad(high, multiplier, shift));
        vm.assertEq(wad < 0, low < 0);
    }

    function testFuzz_RevertWhen_ValueIsNoOutput(uint256 beyond, bool negative) public {
        int256 value = int256(bound(beyond, 2 ** 127, uint256(type(int256).max)));
        if (negative) value = -value;
        vm.expectRevert(abi.encodeWithSelector(FixedPoint.OutOfRange.selector, value));
        harness.toWad(value, 1, 0);
    }
}

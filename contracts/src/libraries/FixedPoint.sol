// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Field elements, signed integers and 18-decimal fixed point.
/// @notice A circuit computes in the BN254 scalar field, in which the negative integer -n is R - n.
library FixedPoint {
    /// @notice Order of the BN254 scalar field.
    uint256 internal constant R =
        21888242871839275222246405745257275088548364400416034343698204186575808495617;
    /// @notice Quantised outputs lie strictly between minus and plus this.
    int256 internal constant OUTPUT_BOUND = 2 ** 127;

    error NotCanonical(uint256 element);
    error OutOfRange(int256 value);

    /// @notice The signed integer a field element stands for: the one nearest to zero.
    /// @dev Refuses `element >= R`: x and x + R would name the same integer twice.
    function toSigned(uint256 element) internal pure returns (int256) {
        require(element < R, NotCanonical(element));
        // Safe: R < 2**254.
        return element > R / 2 ? int256(element) - int256(R) : int256(element);
    }

    /// @notice The field element that stands for a signed integer; the inverse of `toSigned`.
    function toField(int256 value) internal pure returns (uint256) {
        require(value <= int256(R / 2) && value >= -int256(R / 2), OutOfRange(value));
        return value < 0 ? uint256(value + int256(R)) : uint256(value);
    }

    /// @notice The real value of a quantised integer, `value * multiplier / 2**shift`, times 10**18.
    /// @dev Rounded towards minus infinity, so that order and sign survive: of two integers the
    /// greater never becomes the smaller, and only a negative one gives a negative result.
    function toWad(int256 value, uint64 multiplier, uint8 shift) internal pure returns (int256) {
        require(value > -OUTPUT_BOUND && value < OUTPUT_BOUND, OutOfRange(value));
        // Cannot overflow: 2**127 * 2**64 * 2**60 < 2**255.
        return (value * int256(uint256(multiplier)) * 1e18) >> shift;
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

// What every verifier of the native protocol does, whatever its description: transcript, rounds of both
// sumchecks, input, multi-scalar multiplication, pairing. The memory that a verifier uses is laid out by
// its generator, and reserved by `reserve`; all addresses and sizes come from there.
//
// Nothing here reverts. Each function says whether what it read is well formed. A precompile that fails
// takes all gas but a 64th, which is enough to reject if nothing else is done.

/// @dev Order of BN254's G1.
uint256 constant P = 21888242871839275222246405745257275088548364400416034343698204186575808495617;
/// @dev Order of the field of coordinates.
uint256 constant Q = 21888242871839275222246405745257275088696311157297823662689037894645226208583;

bytes32 constant WEIGHTS_TAG = keccak256("zkserve/native/weights/v1");
bytes32 constant INPUT_TAG = keccak256("zkserve/native/input/v1");
bytes32 constant CONTEXT_TAG = keccak256("zkserve/native/context/v1");
bytes32 constant TRANSCRIPT_TAG = keccak256("zkserve/native/transcript/v1");

/// @dev The transcript: the byte 0x63, the state, and the message that the next challenge absorbs.
uint256 constant STATE = 0xa0;
uint256 constant MESSAGE = 0xc0;
/// @dev One step of the transcript's counter, which is a u32 behind the message.
uint256 constant STEP = 1 << 224;

/// @dev Takes the memory up to `end` and starts the transcript.
function reserve(uint256 end) pure {
    bytes32 tag = TRANSCRIPT_TAG;
    assembly ("memory-safe") {
        mstore(0x40, end)
        mstore(0x80, 0x63)
        mstore(0xa0, tag)
    }
}

/// @dev Draws a challenge after a message of `size` bytes that lies at MESSAGE.
function draw(uint256 size, uint256 counter) pure returns (uint256 challenge) {
    uint256 p = P;
    assembly ("memory-safe") {
        mstore(add(MESSAGE, size), counter)
        mstore(STATE, keccak256(STATE, add(size, 36)))
        challenge := mod(keccak256(0x9f, 33), p)
    }
}

/// @dev Absorbs `size` bytes of calldata, then draws `count` challenges, at least one, to `to`.
function draws(uint256 from, uint256 size, uint256 to, uint256 count, uint256 counter) pure {
    uint256 p = P;
    assembly ("memory-safe") {
        calldatacopy(MESSAGE, from, size)
        mstore(add(MESSAGE, size), counter)
        mstore(STATE, keccak256(STATE, add(size, 36)))
        mstore(to, mod(keccak256(0x9f, 33), p))
        let end := add(to, shl(5, count))
        to := add(to, 32)
        for { let odd := add(to, shl(5, and(sub(count, 1), 3))) } lt(to, odd) { to := add(to, 32) } {
            counter := add(counter, STEP)
            mstore(MESSAGE, counter)
            mstore(STATE, keccak256(STATE, 36))
            mstore(to, mod(keccak256(0x9f, 33), p))
        }
        for {} lt(to, end) { to := add(to, 128) } {
            counter := add(counter, STEP)
            mstore(MESSAGE, counter)
            mstore(STATE, keccak256(STATE, 36))
            mstore(to, mod(keccak256(0x9f, 33), p))
            counter := add(counter, STEP)
            mstore(MESSAGE, counter)
            mstore(STATE, keccak256(STATE, 36))
            mstore(add(to, 32), mod(keccak256(0x9f, 33), p))
            counter := add(counter, STEP)
            mstore(MESSAGE, counter)
            mstore(STATE, keccak256(STATE, 36))
            mstore(add(to, 64), mod(keccak256(0x9f, 33), p))
            counter := add(counter, STEP)
            mstore(MESSAGE, counter)
            mstore(STATE, keccak256(STATE, 36))
            mstore(add(to, 96), mod(keccak256(0x9f, 33), p))
        }
    }
}

/// @dev Copies `count` scalars of calldata to `to`; all must be below P.
function scalars(uint256 from, uint256 count, uint256 to) pure returns (bool ok) {
    uint256 p = P;
    assembly ("memory-safe") {
        calldatacopy(to, from, shl(5, count))
        let end := add(to, shl(5, count))
        ok := 1
        for { let odd := add(to, shl(5, and(count, 3))) } lt(to, odd) { to := add(to, 32) } {
            ok := and(ok, lt(mload(to), p))
        }
        for {} lt(to, end) { to := add(to, 128) } {
            ok := and(
                and(and(lt(mload(to), p), lt(mload(add(to, 32)), p)), lt(mload(add(to, 64)), p)),
                and(lt(mload(add(to, 96)), p), ok)
            )
        }
    }
}

/// @dev Writes `count + 1` powers of the word at `base`, from the fifth on, to `to`.
/// @return sum The `count` words at `weighted` times the powers.
function powerSum(uint256 base, uint256 count, uint256 weighted, uint256 to) pure returns (uint256 sum) {
    uint256 p = P;
    assembly ("memory-safe") {
        base := mload(base)
        let power := mulmod(base, base, p)
        power := mulmod(mulmod(power, power, p), base, p)
        for { let end := add(to, shl(5, count)) } lt(to, end) { to := add(to, 32) } {
            mstore(to, power)
            sum := addmod(sum, mulmod(mload(weighted), power, p), p)
            power := mulmod(power, base, p)
            weighted := add(weighted, 32)
        }
        mstore(to, power)
    }
}

/// @dev The main sumcheck: `rounds - 1` rounds of degree 5, one of degree 9; challenges go to `to`.
/// The linear coefficient is not sent: it is what makes the values at 0 and 1 add up to the claim.
/// There are at least two rounds.
/// @param from Where the first claim lies, which is a part of the first round's message.
/// @return claim The last claim, perhaps not reduced.
function mainRounds(uint256 from, uint256 rounds, uint256 to, uint256 counter)
    pure
    returns (uint256 claim, bool ok)
{
    uint256 p = P;
    assembly ("memory-safe") {
        claim := calldataload(from)
        ok := lt(claim, p)
        from := add(from, 32)
        let before := 32
        for { let end := add(to, shl(5, sub(rounds, 1))) } lt(to, end) { to := add(to, 32) } {
            calldatacopy(MESSAGE, sub(from, before), 192)
            mstore(add(0x160, before), counter)
            mstore(STATE, keccak256(STATE, add(196, before)))
            if before {
                calldatacopy(MESSAGE, from, 160)
                before := 0
            }
            let r := mod(keccak256(0x9f, 33), p)
            mstore(to, r)
            ok := and(
                and(
                    and(lt(mload(0xc0), p), lt(mload(0xe0), p)),
                    and(lt(mload(0x100), p), lt(mload(0x120), p))
                ),
                and(lt(mload(0x140), p), ok)
            )
            claim := add(
                claim,
                sub(
                    p,
                    addmod(
                        add(shl(1, mload(0xc0)), mload(0xe0)),
                        add(mload(0x100), add(mload(0x120), mload(0x140))),
                        p
                    )
                )
            )
            claim := add(
                mload(0xc0),
                mulmod(
                    r,
                    add(
                        claim,
                        mulmod(
                            r,
                            add(
                                mload(0xe0),
                                mulmod(
                                    r,
                                    add(
                                        mload(0x100),
                                        mulmod(r, add(mload(0x120), mulmod(r, mload(0x140), p)), p)
                                    ),
                                    p
                                )
                            ),
                            p
                        )
                    ),
                    p
                )
            )
            from := add(from, 160)
            counter := add(counter, STEP)
        }
        calldatacopy(MESSAGE, from, 288)
        mstore(0x1e0, counter)
        mstore(STATE, keccak256(STATE, 324))
        let r := mod(keccak256(0x9f, 33), p)
        mstore(to, r)
        let sum := mload(0xc0)
        let high := 0
        for { let place := 0x1c0 } gt(place, 0xc0) { place := sub(place, 32) } {
            let c := mload(place)
            ok := and(ok, lt(c, p))
            sum := addmod(sum, c, p)
            high := mulmod(add(c, high), r, p)
        }
        let c0 := mload(0xc0)
        ok := and(ok, lt(c0, p))
        claim := add(c0, mulmod(r, add(add(claim, sub(p, addmod(sum, c0, p))), high), p))
    }
}

/// @dev The final sumcheck: `rounds` rounds of degree 2; challenges go to `to`.
/// @return The last claim, perhaps not reduced.
function finalRounds(uint256 claim, uint256 from, uint256 rounds, uint256 to, uint256 counter)
    pure
    returns (uint256, bool ok)
{
    uint256 p = P;
    assembly ("memory-safe") {
        ok := 1
        for { let end := add(to, shl(5, rounds)) } lt(to, end) { to := add(to, 32) } {
            let c0 := calldataload(from)
            let c2 := calldataload(add(from, 32))
            mstore(MESSAGE, c0)
            mstore(0xe0, c2)
            mstore(0x100, counter)
            mstore(STATE, keccak256(STATE, 100))
            let r := mod(keccak256(0x9f, 33), p)
            mstore(to, r)
            ok := and(ok, and(lt(c0, p), lt(c2, p)))
            claim := add(claim, sub(p, addmod(add(c0, c0), c2, p)))
            claim := add(c0, mulmod(r, add(claim, mulmod(r, c2, p)), p))
            from := add(from, 64)
            counter := add(counter, STEP)
        }
    }
    return (claim, ok);
}

/// @dev Copies outputs to `to`; all must be of magnitude below 2^62.
function outputWords(int256[] calldata outputs, uint256 to) pure returns (bool ok) {
    assembly ("memory-safe") {
        let size := shl(5, outputs.length)
        calldatacopy(to, outputs.offset, size)
        ok := 1
        for { let end := add(to, size) } lt(to, end) { to := add(to, 32) } {
            ok := and(ok, lt(add(mload(to), 0x3fffffffffffffff), 0x7fffffffffffffff))
        }
    }
}

/// @dev Copies `count` multipliers of four bytes each to words at `to`; all must lie in [1, 2^16).
function multiplierWords(uint256 from, uint256 count, uint256 to) pure returns (bool ok) {
    assembly ("memory-safe") {
        ok := 1
        for { let end := add(to, shl(5, count)) } lt(to, end) { to := add(to, 32) } {
            let m := shr(224, calldataload(from))
            mstore(to, m)
            ok := and(ok, lt(sub(m, 1), 0xffff))
            from := add(from, 4)
        }
    }
}

/// @dev The digest of the weights: their points, which must not be infinity, and the multipliers.
function weightsDigest(
    uint256 points,
    uint256 count,
    uint256 multipliers,
    uint256 multiplierCount,
    uint256 scratch
) pure returns (bytes32 digest, bool ok) {
    bytes32 tag = WEIGHTS_TAG;
    assembly ("memory-safe") {
        mstore(scratch, tag)
        mstore(add(scratch, 32), shl(224, count))
        let place := add(scratch, 36)
        let end := add(place, shl(6, count))
        calldatacopy(place, points, shl(6, count))
        ok := 1
        for {} lt(place, end) { place := add(place, 64) } {
            ok := and(ok, iszero(iszero(or(mload(place), mload(add(place, 32))))))
        }
        mstore(end, shl(224, multiplierCount))
        calldatacopy(add(end, 4), multipliers, shl(2, multiplierCount))
        digest := keccak256(scratch, add(sub(end, scratch), add(4, shl(2, multiplierCount))))
    }
}

/// @dev The digest of a hidden input's point, which must not be infinity.
function inputDigest(uint256 point, uint256 scratch) pure returns (bytes32 digest, bool ok) {
    bytes32 tag = INPUT_TAG;
    assembly ("memory-safe") {
        mstore(scratch, tag)
        calldatacopy(add(scratch, 32), point, 64)
        digest := keccak256(scratch, 96)
        ok := iszero(iszero(or(mload(add(scratch, 32)), mload(add(scratch, 64)))))
    }
}

/// @dev Hashes calldata.
function calldataDigest(uint256 from, uint256 size, uint256 scratch) pure returns (bytes32 digest) {
    assembly ("memory-safe") {
        calldatacopy(scratch, from, size)
        digest := keccak256(scratch, size)
    }
}

/// @dev The sum of big-endian words of `width` bytes each, weighted by powers of the word at `x` from 0.
function inputSum(uint256 from, uint256 count, uint256 width, uint256 x) pure returns (uint256 sum) {
    uint256 p = P;
    assembly ("memory-safe") {
        x := mload(x)
        let place := add(from, mul(count, width))
        let shift := sub(256, shl(3, width))
        // Words of 16 bytes are read in pairs, eight at a time.
        let paired := mul(eq(width, 16), and(count, not(7)))
        for { let end := add(from, shl(4, paired)) } gt(place, end) {} {
            place := sub(place, width)
            sum := add(shr(shift, calldataload(place)), mulmod(sum, x, p))
        }
        if paired {
            let low := 0xffffffffffffffffffffffffffffffff
            for {} gt(place, from) {} {
                place := sub(place, 128)
                let pair := calldataload(add(place, 96))
                sum := add(shr(128, pair), mulmod(add(and(pair, low), mulmod(sum, x, p)), x, p))
                pair := calldataload(add(place, 64))
                sum := add(shr(128, pair), mulmod(add(and(pair, low), mulmod(sum, x, p)), x, p))
                pair := calldataload(add(place, 32))
                sum := add(shr(128, pair), mulmod(add(and(pair, low), mulmod(sum, x, p)), x, p))
                pair := calldataload(place)
                sum := add(shr(128, pair), mulmod(add(and(pair, low), mulmod(sum, x, p)), x, p))
            }
        }
        sum := mod(sum, p)
    }
}

/// @dev Adds to the point at `place` the points of calldata at `from`, times the words at `factors`. The
/// precompile refuses what is no point; no term is left out where its factor is zero.
function addMultiples(uint256 place, uint256 from, uint256 count, uint256 factors) view returns (bool ok) {
    assembly ("memory-safe") {
        ok := 1
        let term := add(place, 64)
        for { let end := add(factors, shl(5, count)) } lt(factors, end) { factors := add(factors, 32) } {
            calldatacopy(term, from, 64)
            mstore(add(place, 128), mload(factors))
            if iszero(staticcall(gas(), 7, term, 96, term, 64)) {
                ok := 0
                break
            }
            if iszero(staticcall(gas(), 6, place, 128, place, 64)) {
                ok := 0
                break
            }
            from := add(from, 64)
        }
    }
}

/// @dev Adds to the point at `place` the generator times the word at `factor`.
function addGenerator(uint256 place, uint256 factor) view returns (bool ok) {
    assembly ("memory-safe") {
        mstore(add(place, 64), 1)
        mstore(add(place, 96), 2)
        mstore(add(place, 128), mload(factor))
        ok := staticcall(gas(), 7, add(place, 64), 96, add(place, 64), 64)
        ok := and(ok, staticcall(gas(), 6, place, 128, place, 64))
    }
}

/// @dev Whether e(left, [1]) = e(right, [s]), for the points at `left` and `right`.
function pairingHolds(
    uint256 left,
    uint256 right,
    uint256 scratch,
    uint256 sx1,
    uint256 sx0,
    uint256 sy1,
    uint256 sy0
) view returns (bool ok) {
    assembly ("memory-safe") {
        mcopy(scratch, left, 64)
        mstore(add(scratch, 0x40), 0x198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2)
        mstore(add(scratch, 0x60), 0x1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed)
        mstore(add(scratch, 0x80), 0x090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b)
        mstore(add(scratch, 0xa0), 0x12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa)
        mstore(add(scratch, 0xc0), mload(right))
        mstore(add(scratch, 0xe0), mod(sub(Q, mload(add(right, 32))), Q))
        mstore(add(scratch, 0x100), sx1)
        mstore(add(scratch, 0x120), sx0)
        mstore(add(scratch, 0x140), sy1)
        mstore(add(scratch, 0x160), sy0)
        ok := staticcall(gas(), 8, scratch, 0x180, scratch, 0x20)
        ok := and(ok, eq(mload(scratch), 1))
    }
}
